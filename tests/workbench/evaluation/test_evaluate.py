"""The whole evaluation: columns, records, failures, and agreement with mteb run directly."""

import json
import random

import mteb
import numpy as np
import pytest
import torch
from mteb.models import ModelMeta
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from mteb.types import PromptType

from bitembed_core.storage import StorageFormat
from workbench.catalog.tasks import StsData, TaskEntry, fingerprint
from workbench.evaluation import evaluate, retention_table, write_results
from workbench.evaluation.local_tasks import local_task

PRECISIONS = ["float16", "int4", "binary"]


class PlainEncoder:
    """mteb's protocol over a BitEmbedder as one would write it at first: no cache, vectors from a function."""

    def __init__(self, embedder, change) -> None:
        self.embedder, self.change = embedder, change
        self.mteb_model_meta = ModelMeta.create_empty()

    def encode(self, inputs, *, prompt_type=None, **_):
        texts = [text for batch in inputs for text in batch["text"]]
        name = {PromptType.query: "query", PromptType.document: "document"}.get(prompt_type)
        x = self.embedder.encode(texts, prompt=self.embedder.prompts.get(name, ""))
        return self.change(x)

    similarity = staticmethod(cos_sim)
    similarity_pairwise = staticmethod(pairwise_cos_sim)


def direct_scores(embedder, entries, change) -> dict[str, float]:
    encoder = PlainEncoder(embedder, change)
    tasks = [local_task(entry.name, entry.load()) for entry in entries]
    outcome = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    return {result.task_name: float(result.get_score()) for result in outcome.task_results}


def hand_int4(x: np.ndarray) -> np.ndarray:
    a = np.abs(x).max(axis=1, keepdims=True)
    y = (2 * np.clip(np.rint((x / a + 1) / 2 * 15), 0, 15) / 15 - 1) * a
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def hand_binary(x: np.ndarray) -> np.ndarray:
    a = np.abs(x).max(axis=1, keepdims=True)
    y = np.where(x >= 0, a, -a)
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def test_every_column_equals_a_direct_mteb_run(tiny_embedder, entries):
    tiny_embedder.settings.prompts.update(query="find: ", document="text: ")
    results = evaluate(tiny_embedder, entries, PRECISIONS)
    changes = {
        "float16": lambda x: x.astype(np.float16).astype(np.float32),
        "int4": hand_int4,
        "binary": hand_binary,
    }
    for precision, change in changes.items():
        ours = {task: scores[precision] for task, scores in results["tasks"].items()}
        assert ours == pytest.approx(direct_scores(tiny_embedder, entries, change), abs=1e-5), precision


def test_results_say_everything_and_are_json(tiny_embedder, make_embedder, entries, tmp_path):
    lines = []
    results = evaluate(
        tiny_embedder,
        entries,
        PRECISIONS,
        teacher=make_embedder("bert"),
        baselines={"untrained": make_embedder("qwen3")},
        name="ours",
        teacher_name="theirs",
        progress=lines.append,
    )
    write_results(tmp_path / "results.json", results)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read == results
    columns = ["teacher", "untrained", *PRECISIONS]
    assert all(list(scores) == columns for scores in read["tasks"].values())
    assert list(read["mean"]) == columns
    assert read["model"] == "ours"
    assert read["teacher"] == "theirs"
    assert read["baselines"] == ["untrained"]
    assert read["kernel"] == "float"
    assert read["task_types"] == {
        "ret_small": "retrieval",
        "sts_small": "sts",
        "cls_small": "classification",
        "clu_small": "clustering",
    }
    assert read["fingerprints"] == {entry.name: fingerprint(entry.load()) for entry in entries}
    assert set(read["subsets"]) == {"sts_small"}
    assert set(read["subsets"]["sts_small"]) == {"even", "odd"}
    assert read["caps"] == {}
    assert read["left_out"] == {}
    assert read["prompts"] == {}
    assert read["max_length"] == 128
    assert read["bytes_per_vector"] == {
        precision: StorageFormat(precision, 32).bytes_per_vector for precision in PRECISIONS
    }
    environment = read["environment"]
    assert {"python", "cpu", "cores", "threads", "packages", "commit", "platform"} <= set(environment)
    assert environment["packages"]["mteb"] == mteb.__version__
    # the teacher has the student's weights here, so it scores what the student scores at float16
    assert read["retention"]["float16"] == pytest.approx(1.0)
    assert len(lines) == len(entries) * len(columns)
    assert retention_table(results).count("\n") > len(entries)


def test_weights_are_identified(tiny_embedder, make_embedder, sts_entry):
    first = evaluate(tiny_embedder, sts_entry, ["float16"])["weights"]
    assert first == evaluate(make_embedder("bert"), sts_entry, ["float16"])["weights"]
    with torch.no_grad():
        next(tiny_embedder.model.parameters()).view(-1)[0] += 1e-3
    assert first != evaluate(tiny_embedder, sts_entry, ["float16"])["weights"]


def test_caps_are_applied_and_told(tiny_embedder, entries):
    results = evaluate(tiny_embedder, entries, ["float16"], cap=10)
    assert set(results["caps"]) == {entry.name for entry in entries}
    assert results["caps"]["clu_small"] == "10 of 60 texts"
    assert "10 of 12 queries" in retention_table(results)
    some = evaluate(tiny_embedder, entries, ["float16"], cap={"max_queries": 3})
    assert set(some["caps"]) == {"ret_small"}


def test_no_precision_is_encoded_again(table_embedder, random_table, entries, entry_texts):
    embedder = table_embedder(random_table(entry_texts(entries)))
    evaluate(embedder, entries, ["float32", *PRECISIONS])
    encoded = [text for _, texts in embedder.calls for text in texts]
    assert len(encoded) == len(set(encoded))


def test_random_numbers_of_a_training_run_go_on(tiny_embedder, sts_entry):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    evaluate(tiny_embedder, sts_entry, ["float16"])
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_nan_embeddings_name_task_and_column(tiny_embedder, sts_entry):
    with torch.no_grad():
        tiny_embedder.model.encoder.layer[0].output.dense.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"task 'sts_small', column 'float16': .*NaN"):
        evaluate(tiny_embedder, sts_entry, ["float16"])


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_score_that_is_no_number_is_an_error(tiny_embedder):
    rows = [("left", "right", float(i), "") for i in range(4)]
    alike = TaskEntry("sts_alike", "sts", "", "", lambda: StsData(rows))
    with pytest.raises(ValueError, match=r"'sts_alike', column 'float16': .*not a number"):
        evaluate(tiny_embedder, alike, ["float16"])
    flat = TaskEntry("sts_flat", "sts", "", "", lambda: StsData([("a", "b", 3.0, ""), ("c", "d", 3.0, "")]))
    with pytest.raises(ValueError, match=r"'sts_flat' rates all its pairs the same"):
        evaluate(tiny_embedder, flat, ["float16"])


def test_bad_requests(tiny_embedder, sts_entry):
    with pytest.raises(ValueError, match=r"'float8'.*int8"):
        evaluate(tiny_embedder, sts_entry, ["float16", "float8"])
    with pytest.raises(ValueError, match="no precision"):
        evaluate(tiny_embedder, sts_entry, [])
    with pytest.raises(ValueError, match=r"'int8'.*another column"):
        evaluate(tiny_embedder, sts_entry, ["int8"], baselines={"int8": tiny_embedder})
    with pytest.raises(ValueError, match=r"'teacher'.*another column"):
        evaluate(tiny_embedder, sts_entry, ["int8"], baselines={"teacher": tiny_embedder})
    with pytest.raises(ValueError, match="no task given"):
        evaluate(tiny_embedder, [], ["int8"])
