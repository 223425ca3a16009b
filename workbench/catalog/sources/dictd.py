"""Dictionaries in the dictd format from Debian: FOLDOC, the Jargon File and GCIDE."""

import gzip
import re
from collections.abc import Iterator
from string import ascii_lowercase, ascii_uppercase, digits

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import clip, squash

FOLDOC = Package("debian", "dict-foldoc", megabytes=2)
JARGON = Package("debian", "dict-jargon", megabytes=1)
GCIDE = Package("debian", "dict-gcide", megabytes=15)

DIGIT_VALUES = {digit: value for value, digit in enumerate(ascii_uppercase + ascii_lowercase + digits + "+/")}
EDITOR_MARKS = re.compile(r"\[[^\]]*(Webster|WordNet|PJC|Century|Obs|R\.|Archaic|Poet|Scot|Prov)[^\]]*\]")
QUOTATION = re.compile(r'"[^"]*"\s*--\s*[A-Z][\w. ()]*')
CROSS_REFERENCE = re.compile(r"(See|Same as|Alt\. of|pl\. of|imp\. )")


def foldoc_pairs() -> Iterator[Example]:
    for headword, text in _entries(FOLDOC, "foldoc"):
        body = re.sub(r"^\S.*\n", "", text, flags=re.MULTILINE)
        body = _without_braces(re.sub(r"\(\d{4}-\d\d-\d\d\)", "", body))
        topic = re.match(r"\s*<([^>]+)>\s*", body)
        body = squash(body[topic.end() :] if topic else body)
        if len(body) >= 60 and not body.startswith("See "):
            yield Example(f"{headword} ({topic.group(1)})" if topic else headword, clip(body, 1200))


def jargon_pairs() -> Iterator[Example]:
    for headword, text in _entries(JARGON, "jargon"):
        body = _without_braces(squash(text.partition("\n")[2]))
        body = re.sub(r"^/[^/]*/,?\s*", "", body)
        if len(body) > 80:
            yield Example(headword, clip(body, 1200))


def gcide_pairs() -> Iterator[Example]:
    for headword, text in _entries(GCIDE, "gcide"):
        if not re.fullmatch(r"[A-Za-z][A-Za-z' -]+", headword):
            continue
        body = EDITOR_MARKS.sub(" ", squash(text.partition("\n")[2]))
        body = _without_braces(re.sub(r"--[A-Z]\w*\.?", " ", QUOTATION.sub(" ", body)))
        senses = (squash(sense).strip(" .;") for sense in re.split(r"(?:^|\s)\d+\.\s", body))
        usable = [text for text in senses if 25 <= len(text) <= 400 and not CROSS_REFERENCE.match(text)]
        for sense in usable[:2]:
            yield Example(headword, sense)


def _without_braces(text: str) -> str:
    """Cross references are written {like this}."""
    return text.replace("{", "").replace("}", "")


def _entries(package: Package, database: str) -> Iterator[tuple[str, str]]:
    """(headword, text) of each entry; the index gives offset and length as base-64 numbers."""
    base = fetch_package(package) / "usr" / "share" / "dictd"
    with gzip.open(base / f"{database}.dict.dz") as file:
        content = file.read()
    seen = set()
    with (base / f"{database}.index").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            headword, offset, length = line.rstrip("\n").split("\t")[:3]
            if headword.startswith("00database") or (offset, length) in seen:
                continue
            seen.add((offset, length))
            start = _number(offset)
            yield headword, content[start : start + _number(length)].decode("utf-8", "replace")


def _number(written: str) -> int:
    value = 0
    for digit in written:
        value = value * 64 + DIGIT_VALUES[digit]
    return value
