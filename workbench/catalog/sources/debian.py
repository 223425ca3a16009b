"""Debian package descriptions: a one-line summary and the text that explains it, 27,000 times."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from workbench.catalog.apt import package_lists, release, stanza_field
from workbench.catalog.example import Example
from workbench.catalog.lexical import mined_triplets
from workbench.catalog.text import cached_rows, clip, fold, squash

NOT_A_PROGRAM = re.compile(
    r"-(dbg|dbgsym|dev|doc|docs|l10n.*|i18n|locale.*|prof|udeb|common|data|examples)$"
    r"|^(librust-|golang-.*-dev|libghc-|task-|linux-(image|headers))"
)
STUB = re.compile(r"transitional|dummy package|metapackage", re.IGNORECASE)
BOILERPLATE = re.compile(
    r"This (meta)?package (contains|provides|includes|installs|is (a|an) (dummy|transitional|empty))"
)
SPLIT_SUFFIX = re.compile(
    r"\s*[-\u2013(:]\s*(development|library|runtime|shared|common|documentation|python ?3?|perl|tools"
    r"|utilities|headers|debug).{0,30}\)?$",
    re.IGNORECASE,
)
SHARED_BY_AT_MOST = 6


def descriptions() -> list[dict[str, Any]]:
    """{package, source, section, short, long} of every package with a text of its own, by package name."""
    return cached_rows(f"debian-{release()}", _distinct_descriptions)


def held_out(source: str) -> bool:
    """Whether a source package belongs to the evaluation sets (about 8 % do)."""
    return hashlib.md5(source.encode(), usedforsecurity=False).digest()[0] < 20


def description_pairs() -> Iterator[Example]:
    for row in _training_rows():
        yield Example(row["short"], clip(row["long"], 1500))


def description_triplets() -> Iterator[Example]:
    rows = _training_rows()
    yield from mined_triplets(
        [row["short"] for row in rows],
        [clip(row["long"], 1500) for row in rows],
        groups=[row["source"] for row in rows],
    )


def _training_rows() -> list[dict[str, Any]]:
    return [row for row in descriptions() if not held_out(row["source"])]


def _distinct_descriptions() -> Iterator[dict[str, Any]]:
    packages = sorted(_packages(), key=lambda row: row["package"])
    spread = Counter(paragraph for row in packages for paragraph in set(row["paragraphs"]))
    seen = set()
    for row in packages:
        if NOT_A_PROGRAM.search(row["package"]) or STUB.search(row["short"]):
            continue
        own = [text for text in row["paragraphs"] if spread[text] <= SHARED_BY_AT_MOST]
        long = squash(" ".join(text for text in own if not BOILERPLATE.match(text)))
        short = squash(SPLIT_SUFFIX.sub("", row["short"])) or row["short"]
        beginning = fold(long)[:200]
        says_nothing_more = fold(short) in fold(long[: len(short) + 10])
        if len(long) < 80 or len(short) < 12 or beginning in seen or says_nothing_more:
            continue
        seen.add(beginning)
        yield {key: row[key] for key in ("package", "source", "section")} | {"short": short, "long": long}


def _packages() -> Iterator[dict[str, Any]]:
    known = {}
    for stanza in package_lists("Packages"):
        if name := stanza_field(stanza, "Package"):
            source = (stanza_field(stanza, "Source") or name).split()[0]
            known[name] = (source, stanza_field(stanza, "Section").split("/")[-1])
    layout = re.compile(r"Package: (\S+)\nDescription-md5: .*\nDescription-en: (.*)\n((?: .*\n?)*)")
    for stanza in package_lists("Translations"):
        found = layout.match(stanza)
        if found and found.group(1) in known:
            source, section = known[found.group(1)]
            yield {
                "package": found.group(1),
                "source": source,
                "section": section,
                "short": squash(found.group(2)),
                "paragraphs": _paragraphs(found.group(3)),
            }


def _paragraphs(body: str) -> list[str]:
    """A line holding a single full stop separates paragraphs in a Debian description."""
    paragraphs = re.split(r"^ *\. *$", body, flags=re.MULTILINE)
    return [text for text in map(squash, paragraphs) if text]
