"""Small text helpers that every data source uses, so that all of them clean, cut and sample alike."""

import html
import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from workbench.catalog.packages import build_once, cache_root

T = TypeVar("T")

# Part of every cached file's name: raise it whenever a builder's output changes.
BUILDER_VERSION = 1
EDITION_SEED = 20240501


def squash(text: str) -> str:
    """`text` with every run of white space turned into one space."""
    return " ".join(text.split())


def fold(text: str) -> str:
    """Letters and digits only, lower case: equal for texts that differ in spacing and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def clip(text: str, characters: int = 2000) -> str:
    """At most `characters` of `text`, cut at a space."""
    return text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0]


def strip_markup(text: str, tags: str = r"[^>]+") -> str:
    """`text` without its HTML or XML tags and with entities resolved."""
    return html.unescape(re.sub(rf"<{tags}>", " ", text))


def sentences(text: str) -> list[str]:
    """`text` cut where a sentence seems to end: a full stop, question or exclamation mark before a capital letter."""
    return re.split(r"(?<=[a-z0-9)\"'][.!?])\s+(?=[\"'(]?[A-Z])", squash(text))


def draw(rows: Iterable[T], count: int, tag: str, seed: object = EDITION_SEED) -> list[T]:
    """A sample of `count` rows in their order, the same for the same `tag` and `seed`; all when fewer."""
    pool: Sequence[T] = list(rows)
    if len(pool) <= count:
        return list(pool)
    chosen = random.Random(f"{seed}-{tag}").sample(range(len(pool)), count)
    return [pool[index] for index in sorted(chosen)]


def read_jsonl(path: Path) -> Iterator[Any]:
    """The rows of a JSONL file that the catalog itself fetched or wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def cached_rows(name: str, build: Callable[[], Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Rows that `build` makes, kept as JSONL in the cache under `name` so that they are made once."""

    def write(fresh: Path) -> None:
        with fresh.open("w", encoding="utf-8") as out:
            for row in build():
                out.write(json.dumps(row, ensure_ascii=False) + "\n")

    path = cache_root() / "built" / f"v{BUILDER_VERSION}" / f"{name}.jsonl"
    return list(read_jsonl(build_once(path, write)))
