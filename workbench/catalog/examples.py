"""Training text by name: offline sources and mixes of them, files of one's own, hub data sets, mixtures of all these."""

import glob
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, zip_longest
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.mixture import is_mixture, read_mixture
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.sources import PAIRS, TRIPLETS, SourceEntry
from workbench.catalog.streamed import Source, StreamedSource
from workbench.catalog.text import cached_rows, draw, fold, squash
from workbench.catalog.user_examples import HUB_PREFIX, is_example_file, read_file, read_hub, read_texts

__all__ = ["MIXES", "Example", "ExampleSource", "Kind", "is_streamed", "load_examples", "unlabelled_texts"]

logger = logging.getLogger("bitembed")

Kind = Literal["pairs", "triplets"]

TABLES: Mapping[Kind, Mapping[str, SourceEntry]] = {"pairs": PAIRS, "triplets": TRIPLETS}
# Only for imitating a teacher: the copy of a sentence may mean something else, so that it is no answer to it.
CHANGED = ("edited-sentences", "edited-examples")
# Mix name -> kind -> source -> how many examples of it at most (None: all).
MIXES: Mapping[str, Mapping[Kind, Mapping[str, int | None]]] = {
    "offline": {
        "pairs": dict.fromkeys(name for name in PAIRS if name not in CHANGED)
        | {"wordnet-gloss": 60_000, "aws-api-member": 40_000, "gcide-definition": 30_000}
        | {"privacy-policy-qa": 5_000},
        "triplets": dict.fromkeys(TRIPLETS),
    },
    "demo": {
        "pairs": {
            "boolq-train": None,
            "debian-description": 6_000,
            "wordnet-example": 6_000,
            "foldoc": 4_000,
            "jargon-file": None,
            "email-subject-body": None,
            "multilexsum": None,
            "narrativeqa-summary": 1_000,
            "quac-first-question": None,
            "cwe": None,
            "docstring-code": 2_000,
            "docstring-summary-body": None,
            "privacy-policy-qa": 1_000,
        },
        "triplets": {
            "boolq-train": 4_000,
            "debian-description": 4_000,
            "wordnet-sense": 4_000,
            "privacy-policy-qa": 1_000,
        },
    },
}


def load_examples(
    spec: str,
    kind: Kind,
    *,
    exclude: OverlapFilter | None = None,
    limit_per_source: int | None = None,
    seed: int = 0,
) -> list[Source]:
    """Training examples, one source per origin; a batch should be drawn from one of them.

    `spec` names what to load, several parts joined by commas: a mix ("demo", "offline"), a source of the
    catalog, a .jsonl or .parquet file of {query, positive, negatives?, source?, in_batch?},
    "hub:owner/name[@configuration][:split]"; or data that are read while they are used: a folder of such files or a
    pattern like "shards/*.parquet", one source each, and a mixture file (`workbench.catalog.mixture`). `kind` "pairs" allows
    examples without negatives, "triplets" does not. `exclude` drops what shares text with evaluation sets;
    `limit_per_source` samples by `seed`, whole blocks of rows where data are read while they are used.

    ValueError names unknown sources and faulty lines. A named source that cannot be fetched raises
    PackageUnavailable; in a mix it is left out with a warning.
    """
    if kind not in TABLES:
        raise ValueError(f"kind is 'pairs' or 'triplets', not {kind!r}")
    parts = parts_of(spec)
    loaded: list[Source] = []
    for source in chain.from_iterable(_load_part(part, kind, seed) for part in parts):
        if isinstance(source, StreamedSource):
            streamed = replace(source, exclude=exclude)
            loaded.append(streamed if limit_per_source is None else streamed.limited(limit_per_source, seed))
            continue
        kept = exclude.keep(source) if exclude else source
        if not kept.examples:
            logger.warning("%s is left out: every example overlaps the evaluation text", source.name)
            continue
        loaded.append(kept if limit_per_source is None else _sampled(kept, limit_per_source, seed))
    if not loaded:
        raise ValueError(f"{spec!r} gave no training examples")
    return loaded


def parts_of(spec: str) -> list[str]:
    """The parts of a specification; a file's name may hold commas."""
    return [spec] if os.path.isfile(spec) else [part.strip() for part in spec.split(",")]


def is_streamed(part: str) -> bool:
    """Whether a part of a specification names data that are read while they are used."""
    return is_mixture(part) or os.path.isdir(part) or (glob.has_magic(part) and not os.path.exists(part))


def unlabelled_texts(spec: str, limit: int, seed: int = 0, exclude: OverlapFilter | None = None) -> list[str]:
    """Up to `limit` different passages of what `spec` names, taken from its sources in turn.

    Besides everything that `load_examples` reads, a .jsonl or .parquet file of {text} will do.
    """
    if is_example_file(spec) and not is_streamed(spec) and (texts := read_texts(Path(spec))):
        columns = [texts]
    else:
        sources = load_examples(spec, "pairs", exclude=exclude, seed=seed)
        columns = [_positives(source, limit, seed) for source in sources]
    for number, column in enumerate(columns):
        columns[number] = list(dict.fromkeys(column))
        random.Random(f"{seed}-{number}").shuffle(columns[number])
    in_turn = (text for row in zip_longest(*columns) for text in row if text)
    return list(dict.fromkeys(in_turn))[:limit]


def _positives(source: Source, limit: int, seed: int) -> list[str]:
    """All positives of a source in memory, `limit` of another one."""
    if isinstance(source, StreamedSource):
        return [example.positive for example in source.sample(limit, np.random.default_rng(seed))]
    return [example.positive for example in source.examples]


def _load_part(part: str, kind: Kind, seed: int) -> Iterator[Source]:
    table = TABLES[kind]
    if part in MIXES:
        yield from _load_mix(part, kind, seed)
    elif part in table:
        yield _built(table[part], kind)
    elif part.startswith(HUB_PREFIX):
        yield read_hub(part.removeprefix(HUB_PREFIX), kind)
    elif is_mixture(part):
        yield from _load_mixture(Path(part), kind, seed)
    elif is_streamed(part):
        yield StreamedSource.open(part, part, kind)
    elif is_example_file(part):
        yield from read_file(Path(part), kind)
    else:
        raise ValueError(
            f"no {kind} called {part!r}: give a mix ({', '.join(MIXES)}), a source ({', '.join(table)}), a .jsonl "
            "or .parquet file, a folder or a pattern of such files, a mixture file (.json), or "
            f"{HUB_PREFIX}owner/name[@configuration][:split]"
        )


def _load_mixture(path: Path, kind: Kind, seed: int) -> Iterator[Source]:
    for name, settings in read_mixture(path):
        data = settings.pop("data")
        if data not in MIXES and data not in TABLES[kind]:
            yield StreamedSource.open(name, data, kind, **settings)
            continue
        weight = settings.pop("weight", None)
        if settings:
            raise ValueError(
                f"{path}: {name!r} is of the catalog, which knows its {', '.join(settings)} itself"
            )
        sources = [source for source in _load_part(data, kind, seed) if isinstance(source, ExampleSource)]
        total = sum(sqrt(source.size) for source in sources)
        for source in sources:
            share = None if weight is None else weight * sqrt(source.size) / total
            yield replace(source, weight=share)


def _load_mix(mix: str, kind: Kind, seed: int) -> Iterator[ExampleSource]:
    for name, cap in MIXES[mix][kind].items():
        try:
            source = _built(TABLES[kind][name], kind)
        except PackageUnavailable as reason:
            logger.warning("the %s mix goes without %s: %s", mix, name, reason)
            continue
        yield source if cap is None else _sampled(source, cap, seed)


def _built(entry: SourceEntry, kind: Kind) -> ExampleSource:
    edition = entry.edition()
    rows = cached_rows("-".join(filter(None, (kind, entry.name, edition))), lambda: _rows(entry.build()))
    examples = [Example(row["query"], row["positive"], tuple(row["negatives"])) for row in rows]
    return ExampleSource(entry.name, entry.origin, entry.licence, examples, entry.in_batch)


def _rows(examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
    """Rows for the cache, in tidy white space where it means nothing, without empty or repeated examples."""
    seen = set()
    for example in examples:
        key = (fold(example.query)[:200], fold(example.positive)[:200])
        if all(key) and key not in seen:
            seen.add(key)
            yield {
                "query": squash(example.query),
                "positive": example.positive,
                "negatives": list(example.negatives),
            }


def _sampled(source: ExampleSource, limit: int, seed: int) -> ExampleSource:
    return ExampleSource(
        source.name,
        source.origin,
        source.licence,
        draw(source.examples, limit, source.name, seed),
        source.in_batch,
    )
