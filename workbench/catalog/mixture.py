"""A mixture: a JSON file that says what to train on, and how much of each.

    {
      "web":    {"data": "shards/web/*.parquet", "weight": 3},
      "forum":  {"data": "hub:owner/forum@posts", "weight": 1, "query": "title", "positive": "body"},
      "labels": {"data": "shards/labels", "weight": 0.5, "in_batch": false},
      "debian": {"data": "debian-description", "weight": 0.5}
    }

`data` is a file, folder or pattern of Parquet or JSONL shards, a hub data set that is stored as Parquet, or a source or a
mix of the catalog; paths are as on the command line. All but the catalog's stay where they are and are read a part at a
time, so they may be larger than memory. A batch comes from a source with a probability proportional to its `weight`;
without any weights, to the square root of its size. `in_batch` false keeps its examples from being each other's negatives.
`query`, `positive` and `negatives` (a name or a list) name columns that are not called so.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitembed_core.files import read_json

FIELDS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "weight": (int, float),
    "in_batch": (bool,),
    "query": (str,),
    "positive": (str,),
    "negatives": (str, list),
}


def is_mixture(spec: str) -> bool:
    return spec.endswith(".json")


def read_mixture(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the settings of each source; `data` is always among them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a mixture.
    """
    mixture = read_json(path)
    if not isinstance(mixture, dict) or not mixture:
        raise ValueError(
            f'{path} is no mixture: it must hold an object of sources, {{"name": {{"data": ...}}}}'
        )
    for name, settings in mixture.items():
        if not isinstance(settings, dict) or "data" not in settings:
            raise ValueError(f'{path}: {name!r} must be an object that says where its "data" is')
        for field, value in settings.items():
            if field not in FIELDS:
                raise ValueError(f"{path}: {name!r} has a field {field!r}; there are {', '.join(FIELDS)}")
            if not isinstance(value, FIELDS[field]) or (isinstance(value, bool) and field != "in_batch"):
                raise ValueError(f"{path}: {field!r} of {name!r} is {value!r}")
        if settings.get("weight", 1) <= 0:
            raise ValueError(
                f"{path}: the weight of {name!r} must be greater than 0, not {settings['weight']}"
            )
    weighted = [name for name, settings in mixture.items() if "weight" in settings]
    if weighted and len(weighted) < len(mixture):
        missing = ", ".join(name for name in mixture if name not in weighted)
        raise ValueError(f"{path}: give every source a weight or none; {missing} has none")
    yield from mixture.items()
