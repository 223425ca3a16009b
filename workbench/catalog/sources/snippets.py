"""Short texts that Hutto and Gilbert (2014) had rated for their mood: news, films, products, tweets."""

import io
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import squash

VADER = Package(
    "pypi",
    "vadersentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    sdist=True,
    megabytes=2,
)


class Snippet(NamedTuple):
    """`mood` is the mean rating of 20 people, -4 to 4."""

    origin: str
    mood: float
    text: str


def snippets(collection: str) -> Iterator[Snippet]:
    """The snippets of "tweets", "amazonReviewSnippets", "movieReviewSnippets" or "nytEditorialSnippets", in the order of
    the texts that they are from."""
    archive = fetch_package(VADER) / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"hutto_ICWSM_2014/{collection}_GroundTruth.txt")
        if member is None:
            raise ValueError(f"{archive.name} does not hold {collection}")
        for line in io.TextIOWrapper(member, encoding="utf-8", errors="replace"):
            fields = line.rstrip("\n").split("\t")
            if len(fields) >= 3:
                yield Snippet(fields[0].split("_")[0], float(fields[1]), squash(fields[2]))


def news_sentences() -> Iterator[Example]:
    """Sentences of newspaper editorials, each with the one after it."""
    articles: dict[str, list[str]] = defaultdict(list)
    for snippet in snippets("nytEditorialSnippets"):
        if len(snippet.text) > 25:
            articles[snippet.origin].append(snippet.text)
    for found in articles.values():
        for first, second in zip(found[::2], found[1::2], strict=False):
            yield Example(first, second)
