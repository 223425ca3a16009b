"""A corpus in every storage format, and what the controls of the storage explorer ask of it."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from workbench.explorer.corpus import Corpus, ExplorerConfig, encode_corpus
from workbench.explorer.formats import EXACT, FormatExplorer, Recall, Setting, at_settings, format_names
from workbench.figures.tables import Neighbours

logger = logging.getLogger("bitembed")


@dataclass(frozen=True)
class LiveCorpus:
    """An encoded corpus, its vectors in the formats `precisions`, and the searches over them."""

    corpus: Corpus
    formats: FormatExplorer
    precisions: tuple[str, ...]

    def recalls(self, precisions: Iterable[str], like: Setting) -> list[Recall]:
        """Recall of each of the formats, searched as `like` says."""
        return [self.formats.recall(setting) for setting in at_settings(precisions, like)]

    def unrescored(self, recalls: Sequence[Recall]) -> list[Recall]:
        """The same formats without a second step, where there was one."""
        return [
            self.formats.recall(replace(row.setting, rescore=None)) for row in recalls if row.bytes_beside
        ]

    def neighbours(self, query: str, precisions: Iterable[str], like: Setting) -> dict[str, list[Neighbours]]:
        """The texts that float32, and then each of the formats, returns for a query that is encoded once.

        Raises:
            ValueError: the query is blank.
        """
        if not query.strip():
            raise ValueError("the query is empty: type what you look for")
        query_D = self.corpus.embedder.encode_query([query], show_progress_bar=False)[0]
        found = {}
        for precision in dict.fromkeys((EXACT, *precisions)):
            best = self.formats.answer(query_D, replace(like, precision=precision))
            texts = [self.corpus.texts[row] for row in best.rows[0]]
            found[precision] = [Neighbours(query, texts, best.scores[0].tolist())]
        return found


def open_live(config: ExplorerConfig, progress: Callable[[str], None] | None = None) -> LiveCorpus:
    """Encode the corpus of `config`, store it in every format, and search them all once. Raises like `encode_corpus`.

    Args:
        progress: called with a line for every step; they are logged as well.
    """

    def say(line: str) -> None:
        logger.info(line)
        if progress is not None:
            progress(line)

    say(f"encoding {config.corpus} with {config.model}")
    corpus = encode_corpus(config)
    formats = FormatExplorer(corpus.documents_ND, corpus.queries_QD)
    names = format_names(formats.dimension)
    for step in formats.prepare(names):
        say(f"searched {step}")
    return LiveCorpus(corpus, formats, tuple(names))
