"""A model, examples and tasks small enough to run every notebook for two steps."""

import json

import pytest

LETTERS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]


@pytest.fixture
def backbone(tiny_embedder, tmp_path):
    folder = tmp_path / "backbone"
    tiny_embedder.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def examples(tmp_path):
    """Triplets; as pairs they serve too."""
    rows = [
        {
            "query": f"which letter is number {place}",
            "positive": f"{letter} is the letter at place {place} of the list",
            "negatives": [f"{LETTERS[(place + shift) % 12]} is not letter {place}" for shift in (3, 5)],
        }
        for place, letter in enumerate(LETTERS * 3)
    ]
    return str(_write(tmp_path / "examples.jsonl", rows))


@pytest.fixture
def tasks(tmp_path):
    """A folder with one similarity and one retrieval task."""
    folder = tmp_path / "tasks"
    retrieval = folder / "ret_letters"
    retrieval.mkdir(parents=True)
    pairs = [
        {"s1": f"letter {a}", "s2": f"letter {b}", "score": abs(i - j) / 11}
        for i, a in enumerate(LETTERS)
        for j, b in enumerate(LETTERS[:3])
    ]
    _write(folder / "sts_letters.jsonl", pairs)
    _write(
        retrieval / "corpus.jsonl",
        [{"_id": f"d{i}", "text": f"{x} is a letter"} for i, x in enumerate(LETTERS)],
    )
    _write(
        retrieval / "queries.jsonl", [{"_id": f"q{i}", "text": f"what is {x}"} for i, x in enumerate(LETTERS)]
    )
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(12))
    (retrieval / "qrels.tsv").write_text(qrels, encoding="utf-8")
    return str(folder)


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
