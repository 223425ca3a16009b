"""Training text by name: offline sources and mixes of them, files of one's own, hub data sets."""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.sources import PAIRS, TRIPLETS, SourceEntry
from workbench.catalog.text import cached_rows, draw, fold, squash
from workbench.catalog.user_examples import is_example_file, read_file, read_hub, read_texts

__all__ = ["MIXES", "Example", "ExampleSource", "Kind", "load_examples", "unlabelled_texts"]

logger = logging.getLogger("bitembed")

Kind = Literal["pairs", "triplets"]
HUB_PREFIX = "hub:"

TABLES: Mapping[Kind, Mapping[str, SourceEntry]] = {"pairs": PAIRS, "triplets": TRIPLETS}
# Mix name -> kind -> source -> how many examples of it at most (None: all).
MIXES: Mapping[str, Mapping[Kind, Mapping[str, int | None]]] = {
    "offline": {
        "pairs": dict.fromkeys(PAIRS)
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
) -> list[ExampleSource]:
    """Training examples, one ExampleSource per origin; a batch should be drawn from one of them.

    `spec` names what to load, several parts joined by commas: a mix ("demo", "offline"), a source of the
    catalog, a .jsonl or .parquet file of {query, positive, negatives?, source?, in_batch?}, or
    "hub:owner/name[@configuration][:split]". `kind` "pairs" allows examples without negatives, "triplets"
    does not. `exclude` drops what shares text with evaluation sets; `limit_per_source` samples by `seed`.

    ValueError names unknown sources and faulty lines. A named source that cannot be fetched raises
    PackageUnavailable; in a mix it is left out with a warning.
    """
    if kind not in TABLES:
        raise ValueError(f"kind is 'pairs' or 'triplets', not {kind!r}")
    parts = [spec] if Path(spec).is_file() else [part.strip() for part in spec.split(",")]
    loaded = []
    for source in chain.from_iterable(_load_part(part, kind, seed) for part in parts):
        kept = exclude.keep(source) if exclude else source
        if not kept.examples:
            logger.warning("%s is left out: every example overlaps the evaluation text", source.name)
            continue
        loaded.append(kept if limit_per_source is None else _sampled(kept, limit_per_source, seed))
    if not loaded:
        raise ValueError(f"{spec!r} gave no training examples")
    return loaded


def unlabelled_texts(spec: str, limit: int, seed: int = 0, exclude: OverlapFilter | None = None) -> list[str]:
    """Up to `limit` different passages of what `spec` names, taken from its sources in turn.

    Besides everything that `load_examples` reads, a .jsonl or .parquet file of {text} will do.
    """
    if is_example_file(spec) and (texts := read_texts(Path(spec))):
        columns = [texts]
    else:
        sources = load_examples(spec, "pairs", exclude=exclude, seed=seed)
        columns = [[example.positive for example in source.examples] for source in sources]
    for number, column in enumerate(columns):
        columns[number] = list(dict.fromkeys(column))
        random.Random(f"{seed}-{number}").shuffle(columns[number])
    in_turn = (text for row in zip_longest(*columns) for text in row if text)
    return list(dict.fromkeys(in_turn))[:limit]


def _load_part(part: str, kind: Kind, seed: int) -> Iterator[ExampleSource]:
    table = TABLES[kind]
    if part in MIXES:
        yield from _load_mix(part, kind, seed)
    elif part in table:
        yield _built(table[part], kind)
    elif part.startswith(HUB_PREFIX):
        yield read_hub(part.removeprefix(HUB_PREFIX), kind)
    elif is_example_file(part):
        yield from read_file(Path(part), kind)
    else:
        raise ValueError(
            f"no {kind} called {part!r}: give a mix ({', '.join(MIXES)}), a source ({', '.join(table)}), "
            f"a .jsonl or .parquet file, or {HUB_PREFIX}owner/name[@configuration][:split]"
        )


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
