"""Hard negatives for sources that have none: texts that the teacher finds close to the query, but not too
close.

A candidate that scores above 95 % of the positive's score is likely to be an unlabelled positive, so it
is passed over ("TopK-PercPos" of NV-Retriever, arXiv 2407.15831); the highest that remain are the hard
negatives.
"""

import hashlib
import json
import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from bitembed_core import BitEmbedder
from bitembed_core.files import read_json, write_json
from workbench.catalog.example import ExampleSource
from workbench.catalog.packages import cache_root

logger = logging.getLogger("bitembed")

QUERIES_AT_ONCE = 256


def mine_negatives(
    source: ExampleSource, teacher: BitEmbedder, count: int, margin: float = 0.95
) -> ExampleSource:
    """`source` with up to `count` hard negatives for each example that has none, taken from its own
    positives.

    Left out as negatives of an example are the positives of all examples with the same query. Examples
    for which nothing scores low enough stay as they are, and so does a source that may not use in-batch
    negatives: there, other examples' positives may be right as well. The result is cached by the content
    of the texts, the weights of the teacher and the options.
    """
    if not source.in_batch or all(example.negatives for example in source.examples):
        return source
    lacking = [index for index, example in enumerate(source.examples) if not example.negatives]
    path = cache_root() / "mined" / f"{_content_hash(source, teacher, count, margin)}.json"
    if path.exists():
        found: list[list[int]] = read_json(path)
    else:
        logger.info("%s: mining hard negatives for %d queries", source.name, len(lacking))
        found = _search(source, lacking, teacher, count, margin)
        write_json(path, found)
    examples = list(source.examples)
    for index, places in zip(lacking, found, strict=True):
        negatives = tuple(source.examples[place].positive for place in places)
        examples[index] = replace(examples[index], negatives=negatives)
    return replace(source, examples=examples)


def _search(
    source: ExampleSource, lacking: list[int], teacher: BitEmbedder, count: int, margin: float
) -> list[list[int]]:
    """For each example in `lacking`, the examples whose positives are its negatives."""
    places: list[int] = []
    column: dict[str, int] = {}
    for index, example in enumerate(source.examples):
        if example.positive not in column:
            column[example.positive] = len(places)
            places.append(index)
    forbidden: dict[str, set[int]] = {}
    for example in source.examples:
        texts = {example.positive, example.query} & column.keys()
        forbidden.setdefault(example.query, set()).update(column[text] for text in texts)
    queries = [source.examples[index].query for index in lacking]
    positives = np.array([column[source.examples[index].positive] for index in lacking])
    corpus_CD = np.asarray(teacher.encode_document(list(column)))
    queries_QD = np.asarray(teacher.encode_query(queries))
    found: list[list[int]] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        chosen = choose_negatives(
            queries_QD[part] @ corpus_CD.T,
            positives[part],
            [sorted(forbidden[query]) for query in queries[part]],
            count,
            margin,
        )
        found += [[places[c] for c in columns] for columns in chosen]
    return found


def choose_negatives(
    scores_QC: NDArray[np.float32],
    positives_Q: NDArray[np.int64],
    forbidden: list[list[int]],
    count: int,
    margin: float,
) -> list[list[int]]:
    """For each query the columns of the `count` highest scores, highest first, that may be negatives.

    A candidate may not score above `p - (1 - margin) |p|`, p the score of the query's positive, which is
    `margin * p` where p is positive; and it may not be among the query's `forbidden` columns.
    """
    positive_Q1 = np.take_along_axis(scores_QC, positives_Q[:, None], axis=1)
    limit_Q1 = positive_Q1 - (1 - margin) * np.abs(positive_Q1)
    allowed_QC = scores_QC <= limit_Q1
    for row, columns in enumerate(forbidden):
        allowed_QC[row, columns] = False
    ranked_QC = np.where(allowed_QC, scores_QC, -np.inf)
    count = min(count, scores_QC.shape[1])
    best_QK = np.argpartition(-ranked_QC, count - 1, axis=1)[:, :count]
    chosen = []
    for row, columns in enumerate(best_QK):
        kept = columns[allowed_QC[row, columns]]
        chosen.append(kept[np.lexsort((kept, -scores_QC[row, kept]))].tolist())
    return chosen


def _content_hash(source: ExampleSource, teacher: BitEmbedder, count: int, margin: float) -> str:
    digest = hashlib.sha256()
    options = {
        "count": count,
        "margin": margin,
        "pooling": teacher.pooling,
        "prompts": teacher.prompts,
        "max_length": teacher.max_length,
        "examples": [
            (example.query, example.positive, bool(example.negatives)) for example in source.examples
        ],
    }
    digest.update(json.dumps(options, sort_keys=True).encode())
    for name, tensor in teacher.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
