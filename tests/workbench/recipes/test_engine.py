"""The training loop on a tiny BERT: it learns, resumes bit for bit, accumulates, freezes, stops at NaN."""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears
from bitembed_core.quantizers import quantize_weight
from workbench.config import option
from workbench.recipes.dev_set import DevSet
from workbench.recipes.engine import Training, TrainingDiverged
from workbench.recipes.forward import tokenize_batch
from workbench.recipes.settings import Record, TrainingConfig

Make = Callable[..., Training]


@dataclass(frozen=True)
class TinyConfig(TrainingConfig):
    """Everything on, at the size of a test."""

    out: str = option("run", "folder", changes_result=False)
    steps: int = option(10, "steps")
    batch_size: int = option(8, "examples")
    learning_rate: float = option(1e-3, "rate")
    max_length: int = option(40, "tokens")
    precision: str = option("float32", "arithmetic")
    save_every: int = option(5, "steps", changes_result=False)
    hard_negatives: int = option(2, "per query")
    bits: tuple[int, ...] = option((1, 2, 4, 8, 16), "precisions")
    contrastive_weight: float = option(1.0, "weight")
    similarity_weight: float = option(0.2, "weight")
    relation_weight: float = option(10.0, "weight")
    relation_heads: int = option(4, "heads")
    regression_weight: float = option(0.5, "weight")
    spread_out_weight: float = option(0.0, "weight")


CONTRASTIVE_ONLY: dict[str, Any] = {
    "bits": (16,),
    "similarity_weight": 0.0,
    "relation_weight": 0.0,
    "regression_weight": 0.0,
}


def parameters(training: Training) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in training.student.model.named_parameters()}


def without_clock(records: Iterator[Record] | list[Record]) -> list[Record]:
    clock = ("seconds", "tokens_per_second", "latent", "model")
    return [{name: value for name, value in record.items() if name not in clock} for record in records]


def test_ten_steps_are_five_and_a_resume_and_five(make_training: Make) -> None:
    whole = make_training(TinyConfig(out="whole"))
    expected = list(whole.records())

    interrupted = make_training(TinyConfig(out="parts"))
    first = list(islice(interrupted.records(), 7))  # two steps past the checkpoint, which have to be redone
    resumed = make_training(TinyConfig(out="parts"))
    second = list(resumed.records())

    assert [record["step"] for record in second] == [6, 7, 8, 9, 10]
    assert without_clock(first[:5] + second) == without_clock(expected)
    assert without_clock(resumed.run.records()) == without_clock(expected)
    for name, value in parameters(whole).items():
        assert torch.equal(value, resumed.student.model.get_parameter(name)), name
    assert [path.name for path in resumed.run.checkpoints()] == ["step-000005", "step-000010"]


def test_a_paused_run_goes_on_as_if_nothing_had_been(make_training: Make) -> None:
    whole = make_training(TinyConfig(out="whole", save_every=100))
    expected = list(whole.records())

    paused = make_training(TinyConfig(out="parts", save_every=100))
    first = []
    for record in paused.records():
        first.append(record)
        if record["step"] == 2:
            paused.run.request_pause()  # noticed after the step that comes next
    assert [record["step"] for record in first] == [1, 2, 3]
    assert [path.name for path in paused.run.checkpoints()] == ["step-000003"]
    assert not paused.run.finished

    resumed = make_training(TinyConfig(out="parts", save_every=100))
    with resumed.run.claimed():  # forgets what was asked of the process before
        second = list(resumed.records())
    assert without_clock(first + second) == without_clock(expected)
    for name, value in parameters(whole).items():
        assert torch.equal(value, resumed.student.model.get_parameter(name)), name


def test_a_pause_in_the_last_step_ends_the_run(make_training: Make) -> None:
    training = make_training(TinyConfig(steps=1, **CONTRASTIVE_ONLY))
    training.run.request_pause()
    list(training.records())
    assert training.run.finished


@pytest.mark.parametrize("learned_scales", [False, True])
def test_what_makes_weights_ternary_resumes_too(make_training: Make, learned_scales: bool) -> None:
    """Interrupted while quantization sets in, and before the decay ends."""
    schedules = {"pressure_warmup_share": 0.8, "weight_decay": 0.5, "weight_decay_until": 0.7}
    config = TinyConfig(**schedules, **CONTRASTIVE_ONLY)
    make = partial(make_training, learned_scales=learned_scales)
    whole = make(replace(config, out="whole"))
    before = parameters(whole)
    expected = list(whole.records())
    assert [record["pressure"] for record in expected] == [k / 8 for k in range(8)] + [1.0, 1.0]
    assert whole.optimizer.param_groups[0]["weight_decay"] == 0.0

    list(islice(make(replace(config, out="parts")).records(), 5))
    resumed = make(replace(config, out="parts"))
    list(resumed.records())
    assert without_clock(resumed.run.records()) == without_clock(expected)
    for name, value in parameters(whole).items():
        assert torch.equal(value, resumed.student.model.get_parameter(name)), name
    assert not torch.equal(
        whole.student.model.get_parameter("encoder.layer.0.output.dense.weight"),
        trained_plainly(make).get_parameter("encoder.layer.0.output.dense.weight"),
    )
    scales = [name for name in before if name.endswith("log_scale")]
    assert len(scales) == (12 if learned_scales else 0)
    assert all(whole.student.model.get_parameter(name) != before[name] for name in scales)


def trained_plainly(make: Make) -> torch.nn.Module:
    training = make(TinyConfig(out="plain", **CONTRASTIVE_ONLY))
    list(training.records())
    return training.student.model


def test_held_out_examples_are_measured_now_and_then(make_training: Make) -> None:
    training = make_training(TinyConfig(steps=5, dev_every=2, dev_examples=8))
    dev = training.dev_set
    untrained = dev.ndcg(training.student, 40)
    records = list(training.records())
    assert [r["step"] for r in records if "dev_ndcg" in r] == [2, 4, 5]
    assert [r["dev_ndcg_before"] for r in records if "dev_ndcg_before" in r] == [untrained]
    assert records[0]["dev_retention_before"] == pytest.approx(untrained / dev.ndcg(training.teacher, 40))
    reloaded = BitEmbedder.from_pretrained(training.run.latent, device="cpu")
    expected = dev.ndcg(reloaded, 40)  # of the weights as they are now
    assert records[-1]["dev_ndcg"] == expected
    assert records[-1]["dev_retention"] == pytest.approx(expected / dev.ndcg(training.teacher, 40))


def test_training_stops_when_the_dev_score_no_longer_grows(
    make_training: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1, 0.5, 0.4, 0.5: at the second one without a better score; the one from before training does not count."""
    config = TinyConfig(steps=10, dev_every=1, dev_examples=8, patience=2, save_every=2, **CONTRASTIVE_ONLY)
    scores = iter([0.9, 0.1, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(DevSet, "ndcg", lambda *_: next(scores))
    interrupted = list(islice(make_training(config).records(), 2))
    stopped = make_training(config)  # it remembers the scores before the interruption
    records = interrupted + list(stopped.records())
    assert [r["dev_ndcg"] for r in records] == [0.1, 0.5, 0.4, 0.5]
    assert stopped.run.finished
    assert [path.name for path in stopped.run.checkpoints()][-1] == "step-000004"
    again = list(make_training(config).records())
    assert [(r["step"], r["latent"]) for r in again] == [(4, str(stopped.run.latent))]


def test_a_finished_run_yields_its_last_record_again(make_training: Make) -> None:
    config = TinyConfig(steps=2, **CONTRASTIVE_ONLY)
    last = list(make_training(config).records())[-1]
    again = make_training(config)
    shutil.rmtree(again.run.model)  # as if it had died before the very end
    assert list(again.records()) == [last]
    assert (again.run.model / "config.json").is_file()


def test_the_record_says_what_happened(make_training: Make) -> None:
    config = TinyConfig(steps=4, warmup_share=0.5)
    training = make_training(config)
    codes = [quantize_weight(m.weight)[0] for m in training.student.model.modules() if hasattr(m, "ternary")]
    record = next(training.records())
    assert (record["step"], record["steps"], record["stage"]) == (1, 4, "test")
    terms = [record[name] for name in ("contrastive", "similarity", "relations", "regression")]
    assert record["loss"] == pytest.approx(sum(terms), rel=1e-6)
    assert record["contrastive"] == pytest.approx(
        sum(record[f"contrastive_{bits}bit"] for bits in config.bits) / 5, rel=1e-6
    )
    assert record["relation_ratio"] == pytest.approx(record["relations"] / record["contrastive"])
    assert record["lr"] == pytest.approx(5e-4)
    assert record["zero_share"] == pytest.approx(
        sum(int((c == 0).sum()) for c in codes) / sum(c.numel() for c in codes), abs=0.01
    )
    now = [quantize_weight(m.weight)[0] for m in training.student.model.modules() if hasattr(m, "ternary")]
    flips = sum(int((new != old).sum()) for new, old in zip(now, codes, strict=True))
    assert flips > 0
    assert record["flip_share"] == pytest.approx(flips / sum(c.numel() for c in codes))
    batch = training.schedule.batch(0)
    texts = [*batch.queries, *batch.positives, *(text for chosen in batch.negatives for text in chosen)]
    tokens = sum(min(len(text) + 2, 40) for text in texts)  # one a byte, <cls> and <sep>
    assert record["tokens_per_second"] == pytest.approx(tokens / record["seconds"])
    assert record["source"] == batch.source
    assert training.run.records() == [record]


def test_reports_on_the_layers_are_kept_with_the_run_and_cut_back_with_it(make_training: Make) -> None:
    config = TinyConfig(steps=7, watch_every=3, save_every=4, **CONTRASTIVE_ONLY)
    interrupted = make_training(config)
    list(islice(interrupted.records(), 6))
    assert [(r["step"], r["since"]) for r in interrupted.run.layers()] == [(3, 0), (6, 3)]
    training = make_training(config)
    records = list(training.records())
    reports = training.run.layers()
    assert [(r["step"], r["since"]) for r in reports] == [(3, 0), (6, 4), (7, 6)]
    assert list(reports[0]["layers"]) == [
        name for name, m in training.student.model.named_modules() if hasattr(m, "ternary")
    ]
    sizes = {name: m.weight.numel() for name, m in bit_linears(training.student.model)}
    flips = sum(layer["flip_share"] * sizes[name] for name, layer in reports[-1]["layers"].items())
    assert records[-1]["flip_share"] == pytest.approx(flips / sum(sizes.values()))


def test_it_learns(make_training: Make, made_up_source: Callable[..., Any]) -> None:
    config = TinyConfig(steps=30, batch_size=16, learning_rate=3e-3, **CONTRASTIVE_ONLY)
    training = make_training(config, sources=[made_up_source("a", 16, negatives=1)])
    records = list(training.records())
    assert records[-1]["loss"] < 0.3 * records[0]["loss"]
    assert (training.run.latent / "config.json").is_file()
    assert (training.run.model / "config.json").is_file()
    assert (records[-1]["latent"], records[-1]["model"]) == (
        str(training.run.latent),
        str(training.run.model),
    )


def test_it_imitates(make_training: Make, made_up_source: Callable[..., Any]) -> None:
    config = TinyConfig(
        steps=30,
        batch_size=16,
        learning_rate=3e-3,
        contrastive_weight=0.0,
        similarity_weight=1.0,
        relation_weight=30.0,
        regression_weight=5.0,
    )
    training = make_training(config, sources=[made_up_source("a", 16, negatives=1)])
    records = list(training.records())
    for name in ("similarity", "relations", "regression"):
        assert records[-1][name] < 0.6 * records[0][name], name
    assert (records[-1]["contrastive"], records[-1]["relation_ratio"]) == (0.0, 0.0)


def test_a_floating_point_student_has_no_packed_model(make_training: Make) -> None:
    training = make_training(TinyConfig(steps=1, **CONTRASTIVE_ONLY), ternary=False)
    (record,) = training.records()
    assert record["zero_share"] == 0.0
    assert training.run.latent.is_dir()
    assert not training.run.model.exists()


@pytest.mark.parametrize("frozen", [True, False])
def test_the_token_table_moves_only_when_it_may(make_training: Make, frozen: bool) -> None:
    config = TinyConfig(steps=1, freeze_token_embeddings=frozen, **CONTRASTIVE_ONLY)
    training = make_training(config)
    before = parameters(training)
    next(training.records())
    unchanged = [name for name, value in parameters(training).items() if torch.equal(value, before[name])]
    assert unchanged == (["embeddings.word_embeddings.weight"] if frozen else [])


def test_micro_batches_give_the_mean_of_their_gradients(make_training: Make) -> None:
    """Against two separate backward passes, each over its own half with its own negatives only."""
    config = TinyConfig(accumulation=2, max_grad_norm=1e9, **CONTRASTIVE_ONLY)
    training = make_training(config, ternary=False)
    batch = training.schedule.batch(0)
    expected: dict[str, Tensor] = {}
    losses = []
    for half in (slice(0, 4), slice(4, 8)):
        loss = slow_info_nce(training, batch.queries[half], batch.positives[half], batch.negatives[half])
        losses.append(loss.item())
        loss.backward()
        for name, p in training.student.model.named_parameters():
            if p.grad is not None:
                expected[name] = expected.get(name, 0) + p.grad / 2
        training.student.model.zero_grad()
    seen = gradients_of_step(training, step=0)
    assert seen.record["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert seen.gradients.keys() == expected.keys()
    for name, gradient in seen.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 100, 10_000])
def test_chunks_give_the_gradients_of_the_whole_batch(make_training: Make, chunk: int) -> None:
    config = TinyConfig(max_grad_norm=1e9, spread_out_weight=0.1)
    whole, parts = (
        gradients_of_step(make_training(replace(config, chunk_tokens=size), ternary=False), step=0)
        for size in (None, chunk)
    )
    for name in ("loss", "contrastive", "similarity", "relations", "regression", "spread_out"):
        assert parts.record[name] == pytest.approx(whole.record[name], rel=1e-5), name
    assert parts.gradients.keys() == whole.gradients.keys()
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(parts.gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_no_chunk_is_larger_than_asked_for(make_training: Make) -> None:
    training = make_training(TinyConfig(chunk_tokens=100, **CONTRASTIVE_ONLY))
    seen: list[int] = []
    training.student.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    training.step(0)
    assert 50 < max(seen) <= 100
    tokens = tokenize_batch(training.student, training.schedule.batch(0), training.config.max_length)
    assert sum(seen) == 2 * int(tokens["attention_mask"].sum())  # each goes through the model twice


def slow_info_nce(training: Training, queries: Any, positives: Any, negatives: Any) -> Tensor:
    """-log of the positive's share among all positives and hard negatives, query by query."""
    embedder = training.student
    e = {
        text: embedder.embed(embedder.tokenize([text], max_length=40))[0]
        for text in {*queries, *positives, *(t for chosen in negatives for t in chosen)}
    }
    candidates = [*positives, *(text for chosen in negatives for text in chosen)]
    total = torch.tensor(0.0)
    for query, positive in zip(queries, positives, strict=True):
        scores = [(e[query] @ e[candidate]) / 0.02 for candidate in candidates]
        total = total + torch.logsumexp(torch.stack(scores), 0) - (e[query] @ e[positive]) / 0.02
    return total / len(queries)


@dataclass
class Seen:
    record: Record
    gradients: dict[str, Tensor]


def gradients_of_step(training: Training, step: int) -> Seen:
    """Run a step and look at the gradients that the optimizer was given."""
    gradients: dict[str, Tensor] = {}

    def look(*_: Any) -> None:
        for name, p in training.student.model.named_parameters():
            if p.grad is not None:
                gradients[name] = p.grad.clone()

    handle = training.optimizer.register_step_pre_hook(look)
    record = training.step(step)
    handle.remove()
    return Seen(record, gradients)


def test_gradients_are_clipped_to_the_norm(make_training: Make) -> None:
    training = make_training(TinyConfig(max_grad_norm=0.01, **CONTRASTIVE_ONLY))
    seen = gradients_of_step(training, 0)
    norm = math.sqrt(sum(float(g.square().sum()) for g in seen.gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert seen.record["grad_norm"] > 0.01


@pytest.mark.parametrize("poison", ["parameter", "gradient"])
def test_nan_stops_with_step_and_batch_and_keeps_the_checkpoint(make_training: Make, poison: str) -> None:
    config = TinyConfig(save_every=2, **CONTRASTIVE_ONLY)
    training = make_training(config)
    records = training.records()
    list(islice(records, 3))
    checkpoint = training.run.checkpoints()[-1]
    kept = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    before = parameters(training)
    bias = training.student.model.get_parameter("encoder.layer.0.output.dense.bias")
    if poison == "parameter":
        with torch.no_grad():
            bias[0] = torch.nan
    else:
        bias.register_hook(lambda gradient: gradient * torch.inf)
    batch = training.schedule.batch(3)
    with pytest.raises(TrainingDiverged) as stop:
        next(records)
    told = str(stop.value)
    assert ("loss and contrastive and gradient" if poison == "parameter" else "gradient not finite") in told
    assert "in step 4 of test" in told
    assert f"source {batch.source!r}" in told
    assert f"{batch.indices[0]} {batch.queries[0]!r}" in told
    assert str(checkpoint) in told
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == kept
    assert len(training.run.records()) == 3
    assert torch.equal(
        parameters(training)["encoder.layer.1.output.dense.bias"], before["encoder.layer.1.output.dense.bias"]
    )
    assert len(list(make_training(config).records())) == 8  # and it can be resumed from step 2


def test_bfloat16_is_close_to_float32(make_training: Make) -> None:
    exact = make_training(TinyConfig(out="f32")).step(0)
    rough = make_training(TinyConfig(out="bf16", precision="bfloat16")).step(0)
    assert rough["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert rough["loss"] != exact["loss"]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 8 does not divide into 3 micro-batches"):
        TinyConfig(accumulation=3)


def test_relations_need_the_same_tokens(make_training: Make) -> None:
    training = make_training(TinyConfig())
    training.teacher.tokenizer.add_tokens(["a new word"])
    with pytest.raises(ValueError, match="compared token by token"):
        replace(training, run=training.run)
