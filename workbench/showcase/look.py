"""`make screenshots`: every notebook as an app in a real browser, at the width of a desk and of a phone.

Each app is served with small real settings. It is opened, its main controls are moved, and each must change its figure;
no cell may fail, the console must stay free of errors and the first paint must come within five seconds. A picture of the
whole app is kept for every width: they are made to be looked at.
"""

import sys
import time
from pathlib import Path

from playwright.sync_api import Browser
from playwright.sync_api import Error as BrowserError

from workbench.config import parse_config
from workbench.showcase.apps import APPS, ShowcaseConfig, arguments
from workbench.showcase.chromium import DESKTOP, PHONE, AppPage, chromium
from workbench.showcase.serving import serve

LATEST_PAINT = 5.0  # seconds
PATIENCE = 1200.0  # seconds until an app has computed all that it shows
QUIET = 3.0  # seconds in which no cell begins, after which none will


def look(config: ShowcaseConfig) -> list[str]:
    """Look at the apps, with a line printed for every visit; returns what is wrong, in words."""
    out = Path(config.out)
    wrong = []
    with chromium() as browser:
        for name in config.notebooks:
            with serve(name, arguments(config)[name]) as address:
                for width, size in (("desktop", DESKTOP), ("phone", PHONE)):
                    found = visit(browser, name, address, size, out / f"{name}-{width}.png")
                    wrong += [f"{name} ({width}): {what}" for what in found]
    return wrong


def visit(browser: Browser, name: str, address: str, size: tuple[int, int], picture: Path) -> list[str]:
    """One visit to an app; returns what is wrong with it."""
    began = time.monotonic()
    with AppPage(browser, size) as app:
        paint = app.open(address)
        wrong = [f"first paint after {paint:.1f} s"] if paint > LATEST_PAINT else []
        readable = time.monotonic() - began
        app.settle(PATIENCE, QUIET)
        for move in APPS[name]:
            try:
                before = app.seen(move.changes)
                getattr(app, move.verb)(*move.arguments)
                app.drawn(move.changes, other_than=before)
                app.settle()
            except (TimeoutError, BrowserError) as error:
                wrong.append(
                    f"{' '.join((move.verb, *move.arguments))} does not change {move.changes!r}: {error}"
                )
        app.settle(quiet=QUIET)
        settled = time.monotonic() - began
        app.picture(picture)
        wrong += app.errors
    print(
        f"{picture.name}: first paint {paint:.1f} s, title {readable:.1f} s, all results and {len(APPS[name])} controls "
        f"{settled:.0f} s, {len(wrong)} complaints",
        flush=True,
    )
    return wrong


def main() -> int:
    wrong = look(parse_config(ShowcaseConfig)[0])
    print("\n".join(wrong) if wrong else "Nothing is wrong that a program can see. Now look at the pictures.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
