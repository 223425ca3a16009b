"""Apps in a real browser: they load without errors, a control moves a plot, and two visitors do not share anything."""

import json

import pytest

from workbench.runs import Run
from workbench.showcase import serving
from workbench.showcase.chromium import PHONE, AppPage, chromium, find_chromium
from workbench.showcase.serving import serve

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="this system has no Chromium")

FAILING = """
import marimo

app = marimo.App()

@app.cell
def _():
    import marimo as mo

    mo.md("# Title")

@app.cell
def _():
    1 / 0

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def test_a_cell_that_fails_is_an_error(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "NOTEBOOKS", tmp_path)
    (tmp_path / "failing.py").write_text(FAILING)
    with serve("failing") as address, AppPage(browser) as visitor:
        visitor.open(address)
        visitor.page.get_by_text("Traceback", exact=True).wait_for()
        (error,) = visitor.errors
        assert "ZeroDivisionError" in error


def test_convert(browser, backbone, examples, tmp_path):
    arguments = (
        *("--backbone", backbone, "--out", str(tmp_path / "run"), "--calibration-texts", examples),
        *("--calibration-size", "8", "--held-out-size", "4"),
    )
    title = "Latent weights and their ternary values"
    with (
        serve("convert", arguments) as address,
        AppPage(browser) as first,
        AppPage(browser, PHONE) as second,
    ):
        first.open(address)
        second.open(address)
        first.page.get_by_role("button", name="Convert").click()
        before = first.drawn(title)
        first.choose("attention.output.dense", "Projection")
        after = first.drawn(title, other_than=before)
        assert after != before
        assert second.plot(title).count() == 0
        assert first.errors == second.errors == []


def test_storage_explorer(browser, backbone, tmp_path):
    corpus = tmp_path / "texts.jsonl"
    texts = [f"text {number} of {word}" for number in range(20) for word in ("cats", "dogs")]
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    arguments = ("--model", backbone, "--corpus", str(corpus), "--documents", "30", "--queries", "5")
    title = "Share of 10 neighbours found"
    with (
        serve("storage_explorer", arguments) as address,
        AppPage(browser) as first,
        AppPage(browser, PHONE) as second,
    ):
        for visitor in (first, second):
            visitor.open(address)
            visitor.page.get_by_role("button", name="Encode").click()
        before = first.drawn(title)
        assert second.drawn(title) == before
        first.choose("int8", "Rescore with")
        after = first.drawn(title, other_than=before)
        assert len(json.loads(after)) > len(json.loads(before))  # rings for what was found without rescoring
        first.settle()
        second.settle()
        assert second.drawn(title) == before
        assert first.errors == second.errors == []


def test_a_click_on_a_relation_map_shows_that_row(browser, backbone, tmp_path):
    arguments = ("--teacher", backbone, "--texts", "cats", "--out", str(tmp_path / "out"), "--run")
    with serve("attention_relations", arguments) as address, AppPage(browser) as visitor:
        visitor.open(address)
        before = visitor.drawn("Teacher")
        visitor.page.get_by_role("radio", name="K-K").click()
        assert visitor.drawn("Teacher", other_than=before) != before
        cells = visitor.plot("Teacher").locator(".nsewdrag").first
        cells.scroll_into_view_if_needed()
        box = cells.bounding_box()
        third_of_six = box["x"] + box["width"] * 2.5 / 6, box["y"] + box["height"] * 2.5 / 6
        visitor.page.mouse.move(*third_of_six)
        visitor.page.locator(".hovertext").first.wait_for()
        visitor.page.mouse.click(*third_of_six)
        visitor.plot("K-K: \u201ca\u201d to \u201ca\u201d").wait_for()
        assert visitor.errors == []


def test_training_is_started_paused_and_resumed(browser, backbone, examples, tmp_path):
    arguments = (
        *("--backbone", backbone, "--out", str(tmp_path / "run"), "--pairs", examples, "--steps", "400"),
        *("--batch-size", "4", "--calibration-texts", "8", "--watch-every", "20"),
    )
    with serve("pretrain", arguments) as address, AppPage(browser) as app:
        app.open(address)
        app.page.get_by_role("button", name="Start", exact=True).click()
        app.page.get_by_text("Training in").wait_for()
        assert len(app.drawn("Training losses")) > 0
        with AppPage(browser, PHONE) as other_tab:  # finds the run by its folder, and shares nothing else
            other_tab.open(address)
            other_tab.page.get_by_role("button", name="Pause", exact=True).click()
            other_tab.page.get_by_text("Paused in").wait_for()
            assert other_tab.errors == []
        app.page.get_by_text("Paused in").wait_for()
        done = len(Run.open(tmp_path / "run").records())
        assert 0 < done < 400
        app.page.get_by_role("button", name="Resume", exact=True).click()
        app.page.get_by_text("Finished:").wait_for()
        assert [r["step"] for r in Run.open(tmp_path / "run").records()] == list(range(1, 401))
        app.page.get_by_role("heading", name="Nearest neighbours, before and after").wait_for()
        assert app.errors == []
