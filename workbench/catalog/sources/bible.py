"""The King James and World English Bibles, verse by verse: paraphrases in old and new English."""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import squash, strip_markup

KING_JAMES = Package("debian", "sword-text-kjv", megabytes=3)
WORLD_ENGLISH = Package("debian", "sword-text-web", megabytes=4)
HELD_OUT_BOOKS = frozenset({"Prov", "Mark", "Rom", "Jas", "Eccl"})

CHAPTER = re.compile(r'<chapter [^>]*osisID="([^".]+)\.(\d+)"')
BOOK = re.compile(r'<div [^>]*type="book"[^>]*osisID="([^"]+)"|<div [^>]*osisID="([^"]+)"[^>]*type="book"')


def verse_pairs() -> Iterator[Example]:
    for _, old, new in _training_verses():
        yield Example(old, new)


def verse_triplets() -> Iterator[Example]:
    """Negatives are the neighbouring verses of the same book."""
    verses = _training_verses()
    for index, (book, old, new) in enumerate(verses):
        near = [index + step for step in (-2, -1, 1, 2) if 0 <= index + step < len(verses)]
        neighbours = tuple(verses[other][2] for other in near if verses[other][0] == book)
        if neighbours:
            yield Example(old, new, neighbours)


def held_out_verses() -> list[tuple[str, str, str]]:
    return [verse for verse in _parallel_verses() if verse[0] in HELD_OUT_BOOKS]


def _training_verses() -> list[tuple[str, str, str]]:
    return [verse for verse in _parallel_verses() if verse[0] not in HELD_OUT_BOOKS]


def _parallel_verses() -> Iterator[tuple[str, str, str]]:
    """(book, King James text, World English text) of the verses that both have."""
    old, new = _verses(KING_JAMES), _verses(WORLD_ENGLISH)
    for reference, text in old.items():
        if len(text) > 30 and len(new.get(reference, "")) > 30:
            yield reference.split(".")[0], text, new[reference]


def _verses(package: Package) -> dict[str, str]:
    """{"Gen.1.1": text} of a SWORD zText module: a flat list of entries in which headings open chapters."""
    verses = {}
    for testament in ("ot", "nt"):
        book, chapter, verse = "", 0, 0
        for raw in _ztext_entries(fetch_package(package), testament):
            verse += 1
            opens_chapter, opens_book = CHAPTER.search(raw), BOOK.search(raw)
            if opens_chapter:
                book, chapter, verse = opens_chapter.group(1), int(opens_chapter.group(2)), 0
            elif opens_book:
                book, chapter, verse = opens_book.group(1) or opens_book.group(2), 0, 0
            elif (text := _plain(raw)) and chapter:
                verses[f"{book}.{chapter}.{verse}"] = text
    return verses


def _ztext_entries(package: Path, testament: str) -> Iterator[str]:
    """Entries in order, "" for empty ones. .bzv: 10-byte records (block, start, size); .bzs: 12-byte records
    (offset, compressed size, size) of the zlib blocks in .bzz."""
    (index,) = package.glob(f"usr/share/sword/modules/texts/ztext/*/{testament}.bzv")
    block_index, blocks = index.with_suffix(".bzs").read_bytes(), index.with_suffix(".bzz").read_bytes()
    current, content = -1, b""
    for block, start, size in struct.iter_unpack("<IIH", index.read_bytes()):
        if size and block != current:
            offset, packed, _ = struct.unpack_from("<III", block_index, 12 * block)
            current, content = block, zlib.decompress(blocks[offset : offset + packed])
        yield content[start : start + size].decode("utf-8", "replace") if size else ""


def _plain(raw: str) -> str:
    text = re.sub(r"<note.*?</note>|<title.*?</title>", " ", raw, flags=re.DOTALL)
    text = squash(strip_markup(text)).replace("\u00b6 ", "")
    text = re.sub(r" ([,.;:?!\u2019\u201d])", r"\1", text)
    return re.sub(r"([\u201c\u2018]) ", r"\1", text)
