"""`make pictures`: the README's pictures, of the storage explorer and of the relation maps, from real results.

python -m workbench.showcase.pictures --out docs/images --model runs/minilm-full/distill
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Locator

from workbench.config import parse_config
from workbench.showcase.apps import RECALL, ShowcaseConfig, arguments
from workbench.showcase.chromium import AppPage, chromium
from workbench.showcase.look import PATIENCE, QUIET
from workbench.showcase.serving import serve

SIZE = (1300, 900)
SCALE = 1.5  # sharp on fine screens, and still a small file


def storage_explorer(app: AppPage) -> Sequence[Locator]:
    """Formats against recall, rescored, and the controls above."""
    before = app.drawn(RECALL)
    app.choose("int4-fitted", "Rescore with")
    app.drawn(RECALL, other_than=before)
    return [app.page.get_by_text("Scoring", exact=True), app.plot(RECALL)]


def attention_relations(app: AppPage) -> Sequence[Locator]:
    """The maps of the teacher and of its student before and after distillation."""
    app.drawn("Student after distillation")
    return [
        app.plot(title) for title in ("Teacher", "Student before distillation", "Student after distillation")
    ]


PICTURES: dict[str, Callable[[AppPage], Sequence[Locator]]] = {
    "storage_explorer": storage_explorer,
    "attention_relations": attention_relations,
}


def pictures(config: ShowcaseConfig) -> None:
    """Write `<notebook>.png` into the folder `config.out`, for those of the notebooks that have a picture."""
    with chromium() as browser:
        for name in config.notebooks:
            if name not in PICTURES:
                continue
            path = Path(config.out) / f"{name}.png"
            with serve(name, arguments(config)[name]) as address, AppPage(browser, SIZE, scale=SCALE) as app:
                app.open(address)
                app.settle(PATIENCE, QUIET)
                app.picture(path, PICTURES[name](app))
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    pictures(parse_config(ShowcaseConfig)[0])
