"""Apps in headless Chromium, driven by Playwright; the browser is the system's own."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, FloatRect, Locator, Page, Route, sync_playwright
from playwright.sync_api import TimeoutError as BrowserTimeout

from bitembed_core.files import atomic_path

DESKTOP = (1400, 1000)
PHONE = (400, 800)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_BUSY = "[data-testid=loading-indicator]"
_FAILED = ".output-area > [role=alert]"


def find_chromium() -> str | None:
    """Path of the system's Chromium or Chrome, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Inside, a headless browser runs. FileNotFoundError when the system has none."""
    path = find_chromium()
    if path is None:
        raise FileNotFoundError("no Chromium or Chrome on this system (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


class AppPage:
    """One visitor of an app: a tab with cookies and storage of its own, `size` pixels wide and high, drawn at `scale`.

    Requests to other machines are answered with nothing, so that what depends on one shows; `outside` lists them. Whatever
    is waited for and does not come within `timeout` seconds raises Playwright's TimeoutError, or Python's.
    """

    def __init__(
        self, browser: Browser, size: tuple[int, int] = DESKTOP, timeout: float = 300, scale: float = 1
    ) -> None:
        self._reported: list[str] = []
        self.outside: list[str] = []
        self._size = size
        self._timeout = timeout
        phone = size[0] < 600
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
            is_mobile=phone,
            has_touch=phone,
        )
        context.set_default_timeout(1000 * timeout)
        context.route(lambda address: urlsplit(address).hostname != "127.0.0.1", self._answer_with_nothing)
        self.page: Page = context.new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self._reported.append(str(error)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.context.close()

    @property
    def errors(self) -> list[str]:
        """What the console has reported as errors, and what is in the place of cells that failed."""
        return [*self._reported, *self.page.locator(_FAILED).all_inner_texts()]

    def open(self, address: str) -> float:
        """Open an app and wait for its title; returns the seconds until the first paint with content."""
        self.page.goto(address)
        self.page.get_by_role("heading", level=1).first.wait_for()
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        return float(self.page.evaluate(paint)) / 1000

    def choose(self, option: str, label: str = "") -> None:
        """Choose an option of a dropdown, of the one with this label if several have it, or of radio buttons."""
        dropdowns = self.page.locator("select", has=self.page.locator("option", has_text=option))
        if label:
            dropdowns = dropdowns.and_(self.page.get_by_label(label, exact=True))
        button = self.page.get_by_role("radio", name=option, exact=True)
        dropdowns.or_(button).first.wait_for()
        if dropdowns.count():
            dropdowns.first.select_option(option)
        else:
            button.click()

    def enter(self, label: str, value: str) -> None:
        """Type into the field with this label, of text or of a number, and press Enter."""
        field = self.page.locator("marimo-text, marimo-number", has_text=label).locator("input")
        field.or_(self.page.get_by_placeholder(label)).first.fill(value)
        self.page.keyboard.press("Enter")

    def slide(self, label: str) -> None:
        """Move the slider with this label to its next value, or to the one before if it is at its end."""
        thumb = self.page.locator("marimo-slider", has_text=label).get_by_role("slider").first
        at_end = thumb.get_attribute("aria-valuenow") == thumb.get_attribute("aria-valuemax")
        thumb.press("ArrowLeft" if at_end else "ArrowRight")

    def press(self, label: str) -> None:
        """Press the button with this label."""
        self.page.get_by_role("button", name=label, exact=True).first.click()

    def settle(self, timeout: float | None = None, quiet: float = 0) -> None:
        """Wait until no cell is running, and none begins within `quiet` seconds.

        `timeout` replaces that of the page, for what takes longer.
        """
        busy = self.page.locator(_BUSY)
        while True:
            busy.wait_for(state="detached", timeout=1000 * (timeout or self._timeout))
            try:
                busy.wait_for(state="attached", timeout=max(1, 1000 * quiet))
            except BrowserTimeout:
                return

    def plot(self, title: str) -> Locator:
        """The plotly figure with this title."""
        return self.page.locator(".js-plotly-plot", has=self.page.locator(".gtitle", has_text=title)).first

    def seen(self, what: str) -> str:
        """The traces of the figure with this title as JSON, or the elements of a selector `css=...` as HTML; empty if there
        is none."""
        if what.startswith("css="):
            return str(self.page.locator(what).evaluate_all("all => all.map(e => e.outerHTML).join('')"))
        plot = self.plot(what)
        return str(plot.evaluate("figure => JSON.stringify(figure.data)")) if plot.count() else ""

    def drawn(self, what: str, other_than: str = "") -> str:
        """What is `seen`, as soon as it is there, and is not `other_than`."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            seen = self.seen(what)
            if seen not in ("", other_than):
                return seen
            self.page.wait_for_timeout(30)
        raise TimeoutError(f"{what!r} is what it was {self._timeout:g} s ago")

    def show_whole(self) -> None:
        """Make the window as high as the app, so that all of it is in view; what comes into view may grow."""
        width, height = self._size
        app = self.page.locator("#App")
        app.evaluate("app => app.scrollTo(0, 0)")
        while (whole := app.evaluate("app => app.scrollHeight")) > height:
            height = whole
            self.page.set_viewport_size({"width": width, "height": height})

    def picture(self, path: Path, parts: Sequence[Locator] = (), margin: float = 12) -> None:
        """A PNG file of the whole app, or of the smallest rectangle that holds `parts`."""
        self.show_whole()
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = None
        if parts:
            boxes = [box for part in parts if (box := part.bounding_box())]
            left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
            right = max(box["x"] + box["width"] for box in boxes)
            bottom = max(box["y"] + box["height"] for box in boxes)
            clip = FloatRect(
                x=left - margin,
                y=top - margin,
                width=right - left + 2 * margin,
                height=bottom - top + 2 * margin,
            )
        with atomic_path(path) as fresh:
            fresh.write_bytes(self.page.screenshot(clip=clip))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._reported.append(message.text)

    def _answer_with_nothing(self, route: Route) -> None:
        self.outside.append(route.request.url)
        route.fulfill(status=200, body="")
