"""What training has done to a model, by example: the nearest texts of some queries before and after."""

from pathlib import Path

import numpy as np

from bitembed_core.files import read_json, write_json
from workbench.catalog.examples import load_examples
from workbench.catalog.models import load_embedder
from workbench.figures.tables import Neighbours, find_neighbours
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import origin_of
from workbench.runs import Run

QUERIES, PER_SOURCE = 6, 20


def neighbours_before_and_after(config: PretrainConfig) -> tuple[list[Neighbours], list[Neighbours]]:
    """Of queries of the training sources, among texts of these: by the floating-point model in which training began, and
    by the trained one. They are found once and kept in `neighbours.json` of the run, which has to be finished.
    """
    path = Run.open(config.out).path / "neighbours.json"
    if not path.is_file():
        write_json(path, _find(config))
    kept = read_json(path)
    before, after = ([Neighbours(*one) for one in kept[when]] for when in ("before", "after"))
    return before, after


def _find(config: PretrainConfig) -> dict[str, list[Neighbours]]:
    sources = load_examples(config.pairs, "pairs", limit_per_source=PER_SOURCE, seed=config.seed + 1)
    samples = [source.sample(PER_SOURCE, np.random.default_rng(config.seed)) for source in sources]
    queries = [examples[0].query for examples in samples][:QUERIES]
    texts = list(dict.fromkeys(example.positive for examples in samples for example in examples))
    models = {"before": origin_of(config.backbone), "after": str(Path(config.out))}
    return {when: find_neighbours(load_embedder(name), queries, texts) for when, name in models.items()}
