"""The three stages from their configurations: files and folders in, run folders out."""

import json
import logging
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears
from bitembed_core.embedding_table import quantized_tables
from workbench.catalog import shards
from workbench.catalog.example import Example
from workbench.recipes import mining
from workbench.recipes import stage as stage_module
from workbench.recipes.distill import DistillConfig, distill
from workbench.recipes.pretrain import PretrainConfig, pretrain
from workbench.recipes.stage import overlap_filter, sample_texts
from workbench.recipes.stages import StagesConfig
from workbench.recipes.teacher import TeacherConfig, teacher
from workbench.runs import Run

SMALL: dict[str, Any] = {"steps": 2, "batch_size": 4, "max_length": 32, "precision": "float32"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "cache_root", lambda: tmp_path / "cache")


@pytest.fixture
def data(tmp_path: Path, made_up_source: Any) -> dict[str, str]:
    """JSONL files of pairs and of triplets."""
    paths = {}
    for kind, negatives in (("pairs", 0), ("triplets", 2)):
        path = tmp_path / f"{kind}.jsonl"
        with path.open("w") as file:
            for e in made_up_source(kind, 24, negatives).examples:
                row = {"query": e.query, "positive": e.positive} | (
                    {"negatives": e.negatives} if negatives else {}
                )
                file.write(json.dumps(row) + "\n")
        paths[kind] = str(path)
    return paths


def test_the_whole_path(tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]) -> None:
    backbone = str(tiny_model_folder)
    stage_0 = TeacherConfig(backbone=backbone, out=str(tmp_path / "0"), triplets=data["triplets"], **SMALL)
    stage_1 = PretrainConfig(
        backbone=backbone, out=str(tmp_path / "1"), pairs=data["pairs"], teacher=stage_0.out, **SMALL
    )
    stage_2 = DistillConfig(
        backbone=stage_1.out, out=str(tmp_path / "2"), triplets=data["triplets"], teacher=stage_0.out, **SMALL
    )
    first, second, third = list(teacher(stage_0)), list(pretrain(stage_1)), list(distill(stage_2))

    for stage, records in (("teacher", first), ("pretrain", second), ("distill", third)):
        assert [(r["stage"], r["step"], r["steps"]) for r in records] == [(stage, 1, 2), (stage, 2, 2)]
        assert np.isfinite([float(r["loss"]) for r in records]).all()
    assert {"contrastive"} == first[0].keys() & {"contrastive", "similarity", "relations", "regression"}
    assert {"contrastive", "similarity", "regression"} <= second[0].keys()
    assert {"contrastive", "similarity", "relations", "contrastive_1bit", "contrastive_16bit"} <= third[
        0
    ].keys()
    assert first[0]["zero_share"] == 0.0
    assert 0.1 < float(third[0]["zero_share"]) < 0.6

    assert not BitEmbedder.from_pretrained(first[-1]["latent"]).is_ternary
    latent, packed = (BitEmbedder.from_pretrained(third[-1][name]) for name in ("latent", "model"))
    assert latent.is_ternary
    texts = ["w1 w2", "w3"]
    np.testing.assert_allclose(packed.encode(texts), latent.encode(texts), atol=1e-3)  # norms as float16
    assert Run.open(stage_2.out).recipe == "distill"


def test_the_token_table_is_trained_with_as_it_is_stored(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], sentences: list[str]
) -> None:
    config = PretrainConfig(
        backbone=str(tiny_model_folder),
        out=str(tmp_path / "1"),
        pairs=data["pairs"],
        token_table="int8",
        **SMALL,
    )
    last = list(pretrain(config))[-1]
    latent, packed = (BitEmbedder.from_pretrained(last[name]) for name in ("latent", "model"))
    assert quantized_tables(packed.model)["embeddings.word_embeddings"].precision == "int8"
    trained = latent.model.get_input_embeddings().weight.detach()
    assert torch.equal(packed.model.get_input_embeddings()(torch.arange(len(trained))), trained)
    with pytest.raises(ValueError, match="rounded to int8 and is to stay so"):
        list(pretrain(replace(config, out=str(tmp_path / "2"), freeze_token_embeddings=False)))
    thawed = DistillConfig(
        backbone=config.out,
        out=str(tmp_path / "3"),
        triplets=data["triplets"],
        teacher=str(tiny_model_folder),
        freeze_token_embeddings=False,
        **SMALL,
    )
    with pytest.raises(ValueError, match="cannot be trained"):
        list(distill(thawed))


def test_learned_scales_go_from_stage_to_stage(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    common = {**SMALL, "learning_rate": 1e-2}
    stage_1 = PretrainConfig(
        backbone=str(tiny_model_folder),
        out=str(tmp_path / "1"),
        pairs=data["pairs"],
        learned_scales=True,
        **common,
    )
    stage_2 = DistillConfig(
        backbone=stage_1.out,
        out=str(tmp_path / "2"),
        triplets=data["triplets"],
        teacher=str(tiny_model_folder),
        **common,
    )
    after = [
        BitEmbedder.from_pretrained(list(run)[-1]["latent"]) for run in (pretrain(stage_1), distill(stage_2))
    ]
    first, second = ([layer.log_scale for _, layer in bit_linears(embedder.model)] for embedder in after)
    assert all(s.item() != t.item() for s, t in zip(first, second, strict=True))
    packed, texts = BitEmbedder.from_pretrained(Run.open(stage_2.out).model), ["w1 w2", "w3"]
    np.testing.assert_allclose(packed.encode(texts), after[1].encode(texts), atol=1e-3)  # norms as float16


def test_both_stages_read_a_mixture_of_shards_while_they_train(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "cache_root", lambda: tmp_path / "cache")
    mixture = {kind: {"data": path, "weight": 1} for kind, path in data.items()}
    (tmp_path / "pairs.json").write_text(json.dumps(mixture))
    (tmp_path / "triplets.json").write_text(json.dumps({"triplets": mixture["triplets"]}))
    common = {**SMALL, "backbone": str(tiny_model_folder), "dev_every": 2, "dev_examples": 2}
    pairs, triplets = str(tmp_path / "pairs.json"), str(tmp_path / "triplets.json")
    first = list(pretrain(PretrainConfig(out=str(tmp_path / "1"), pairs=pairs, **common)))
    teacher_name = str(tiny_model_folder)
    config = DistillConfig(out=str(tmp_path / "2"), triplets=triplets, teacher=teacher_name, **common)
    second = list(distill(config))
    assert all(np.isfinite(float(record["loss"])) for record in first + second)
    assert "dev_ndcg" in first[-1]
    assert {record["source"] for record in first} <= {"pairs", "triplets"}
    card = (tmp_path / "2" / "latent" / "README.md").read_text()
    assert "triplets (24)" in card
    with pytest.raises(ValueError, match="has no negatives"):
        next(distill(replace(config, out=str(tmp_path / "3"), triplets=pairs)))


def test_a_rotation_does_not_disturb_imitation_and_is_kept(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    common = {
        **SMALL,
        "backbone": str(tiny_model_folder),
        "teacher": str(tiny_model_folder),
        "triplets": data["triplets"],
        "regression_weight": 5.0,
        "bits": (16, "binary-fitted"),
    }
    plain = next(distill(DistillConfig(out=str(tmp_path / "plain"), **common)))
    turned = list(distill(DistillConfig(out=str(tmp_path / "turned"), rotation="random", **common)))
    for term in ("regression", "relations", "contrastive_16bit"):
        assert turned[0][term] == pytest.approx(plain[term], rel=1e-4)
    assert turned[0]["contrastive_binary-fitted"] != pytest.approx(
        plain["contrastive_binary-fitted"], rel=1e-2
    )
    packed = BitEmbedder.from_pretrained(turned[-1]["model"])
    assert packed.rotation is not None
    again = DistillConfig(out=str(tmp_path / "again"), **common | {"backbone": str(tmp_path / "turned")})
    assert next(distill(again))["regression"] == pytest.approx(turned[-1]["regression"], rel=0.5)


@pytest.mark.parametrize("texts", [0, 40])
def test_student_and_teacher_have_one_centre(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], texts: int
) -> None:
    common = {
        **SMALL,
        "backbone": str(tiny_model_folder),
        "teacher": str(tiny_model_folder),
        "triplets": data["triplets"],
        "regression_weight": 5.0,
        "output_map_texts": texts,  # fitted to vectors with their mean, and before the centre
    }
    centred = list(
        distill(DistillConfig(out=str(tmp_path / "c"), rotation="random", centre_texts=40, **common))
    )
    packed, teacher = (BitEmbedder.from_pretrained(f) for f in (centred[-1]["model"], tiny_model_folder))
    words = [f"w{i} w{i + 1}" for i in range(1, 60)]
    mean = 0.8 * teacher.encode(words).mean(axis=0)
    assert mean @ packed.centre.vector.numpy() > 0.9 * (mean @ mean)
    teacher.centre, teacher.rotation = packed.centre, packed.rotation
    alike = (packed.encode(words) * teacher.encode(words)).sum(axis=1).mean()
    assert 5 * (1 - alike) < 1.5 * centred[-1]["regression"]
    # A next stage finds the centre with the student and gives it to its teacher, or one with the teacher.
    again = common | {"backbone": str(tmp_path / "c"), "output_map_texts": 0}
    first = next(distill(DistillConfig(out=str(tmp_path / "again"), **again)))
    assert first["regression"] < 1.5 * centred[-1]["regression"]
    taught = common | {"teacher": centred[-1]["model"], "output_map_texts": 0, "rotation": "none"}
    second = list(distill(DistillConfig(out=str(tmp_path / "taught"), **taught)))
    back = BitEmbedder.from_pretrained(second[-1]["model"])
    assert torch.equal(back.centre.vector, packed.centre.vector)


def test_the_last_step_maps_the_students_embeddings_to_the_teachers(
    tiny_model_folder: Path, tmp_path: Path, made_up_source: Any
) -> None:
    path = tmp_path / "many.jsonl"
    rows = [{"query": e.query, "positive": e.positive} for e in made_up_source("many", 80, 0).examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        **SMALL,
        "backbone": str(tiny_model_folder),
        "teacher": str(tiny_model_folder),
        "triplets": str(path),
        "hard_negatives": 0,
        "rotation": "random",
        "dev_every": None,
    }
    plain, mapped = (
        list(distill(DistillConfig(out=str(tmp_path / f"m{count}"), output_map_texts=count, **common)))[-1]
        for count in (0, 80)
    )
    texts = [text for row in rows for text in row.values()]
    teacher_model = BitEmbedder.from_pretrained(tiny_model_folder, device="cpu")
    for folder in ("latent", "model"):
        without, with_map = (
            BitEmbedder.from_pretrained(run[folder], device="cpu") for run in (plain, mapped)
        )
        assert without.output_map is None
        assert with_map.output_map is not None
        teacher_model.rotation = with_map.rotation
        expected = teacher_model.encode(texts)
        cosines = [(model.encode(texts) * expected).sum(axis=1).mean() for model in (without, with_map)]
        assert 1 - cosines[1] < (1 - cosines[0]) / 5
    assert "output map fitted to 80 texts" in (Path(mapped["model"]) / "README.md").read_text()
    # After a kill between the two folders the missing one is the same again.
    weights = (Path(mapped["model"]) / "2_Dense" / "model.safetensors").read_bytes()
    shutil.rmtree(mapped["model"])
    again = DistillConfig(out=str(tmp_path / "m80"), output_map_texts=80, resume=True, **common)
    assert list(distill(again))[-1]["model"] == mapped["model"]
    assert (Path(mapped["model"]) / "2_Dense" / "model.safetensors").read_bytes() == weights


def test_principal_axes_are_mixed_within_what_the_shortest_format_keeps(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        stage_module, "rotate", lambda _, kind, *others, **__: asked.append((kind, others[-1]))
    )
    for bits in ((16, "int2-fitted-8d", "int8-12d"), (16, 1)):
        config = DistillConfig(
            out=str(tmp_path / str(bits[1])),
            backbone=str(tiny_model_folder),
            teacher=str(tiny_model_folder),
            triplets=data["triplets"],
            rotation="principal",
            bits=bits,
            **SMALL,
        )
        assert np.isfinite(next(distill(config))["contrastive"])
    assert asked == [("principal", 8), ("principal", None)]


def test_more_names_of_tasks_than_a_file_name_is_long() -> None:
    names = ",".join(["cls_20news"] * 40)
    assert StagesConfig(tasks=names).excluded == names


def test_pretraining_alone_is_contrastive(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]
) -> None:
    config = PretrainConfig(
        backbone=str(tiny_model_folder), out=str(tmp_path / "1"), pairs=data["pairs"], **SMALL
    )
    first = next(pretrain(config))
    assert first["loss"] == first["contrastive"]
    assert "regression" not in first


def test_missing_negatives_are_mined(tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]) -> None:
    config = TeacherConfig(
        backbone=str(tiny_model_folder),
        out=str(tmp_path / "0"),
        triplets=data["triplets"],
        mine=True,
        **SMALL,
    )
    bare = Path(data["triplets"])
    rows = [json.loads(line) for line in bare.read_text().splitlines()]
    bare.write_text(
        "".join(json.dumps({k: r[k] for k in ("query", "positive")} | {"negatives": []}) + "\n" for r in rows)
    )
    assert len(list(teacher(config))) == 2
    assert len(list((tmp_path / "cache" / "mined").iterdir())) == 1


def test_an_interrupted_stage_resumes(tiny_model_folder: Path, tmp_path: Path, data: dict[str, str]) -> None:
    config = PretrainConfig(
        backbone=str(tiny_model_folder), out=str(tmp_path / "1"), pairs=data["pairs"], save_every=1, **SMALL
    )
    interrupted = pretrain(config)
    list(islice(interrupted, 1))
    interrupted.close()
    with pytest.raises(FileExistsError, match="holds a run already"):
        next(pretrain(config))
    with pytest.raises(ValueError, match="seed was 0, now 5"):
        next(pretrain(replace(config, resume=True, seed=5)))
    text = Path(data["pairs"]).read_text()
    Path(data["pairs"]).write_text(text.replace("w1", "w2"))
    with pytest.raises(
        ValueError, match=r"began with other data, and cannot be resumed with these: pairs was"
    ):
        next(pretrain(replace(config, resume=True)))
    Path(data["pairs"]).write_text(text)
    assert [r["step"] for r in pretrain(replace(config, resume=True))] == [2]
    assert [r["step"] for r in pretrain(replace(config, resume=True))] == [2]
    assert [r["step"] for r in Run.open(config.out).records()] == [1, 2]
    assert [r["step"] for r in pretrain(replace(config, overwrite=True))] == [1, 2]


def test_resume_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run that could be resumed"):
        next(pretrain(PretrainConfig(out=str(tmp_path / "none"), resume=True)))


def test_a_wrong_start_leaves_nothing_behind(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(
        backbone=str(tiny_model_folder), out=str(tmp_path / "1"), pairs=data["pairs"], **SMALL
    )
    with pytest.raises(FileNotFoundError):
        next(pretrain(replace(config, backbone=str(tmp_path / "no model"))))
    with pytest.raises(ValueError, match="no source of examples can fill a batch of 400"):
        next(pretrain(replace(config, batch_size=400)))
    imitating = replace(config, teacher=str(tiny_model_folder), relation_weight=1.0)
    with pytest.raises(ValueError, match="relation_layer must be 0 to 1"):
        next(pretrain(replace(imitating, relation_layer=2)))
    monkeypatch.setattr(BitEmbedder, "dimension", property(lambda self: 32 if self.is_ternary else 64))
    with pytest.raises(ValueError, match="64 dimensions and the student's 32: set regression_weight to 0"):
        next(pretrain(imitating))
    assert not Path(config.out).exists()


def test_distillation_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match="stage 2 imitates a teacher"):
        next(distill(DistillConfig()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"temperature": float("nan")}, "temperature must be greater than 0"),
        ({"warmup_share": 1.5}, "warmup_share is a share"),
        ({"batch_size": 10, "accumulation": 4}, "does not divide into 4 micro-batches"),
        ({"resume": True, "overwrite": True}, "choose one"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherConfig(**change)


def test_progress_is_logged(
    tiny_model_folder: Path, tmp_path: Path, data: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    config = PretrainConfig(
        backbone=str(tiny_model_folder), out=str(tmp_path / "1"), pairs=data["pairs"], **SMALL
    )
    with caplog.at_level(logging.INFO, "bitembed"):
        list(pretrain(config))
    assert "pretrain: cpu, torch.float32, processes: 1" in caplog.messages
    lines = [message for message in caplog.messages if message.startswith("pretrain ")]
    assert lines[0].startswith("pretrain 1/2  loss ")
    assert len(lines) == 2


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
def test_a_tracker_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.is_wandb_available", lambda: False)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    config = PretrainConfig(out=str(tmp_path / "1"), tracker="wandb")
    with pytest.raises(ValueError, match="'wandb' is not installed"):
        next(pretrain(config))
    with pytest.raises(ValueError, match="nonsense"):
        next(pretrain(replace(config, tracker="nonsense")))


def test_calibration_texts_come_from_all_sources(made_up_source: Any) -> None:
    sources = [made_up_source("a", 50), made_up_source("b", 3, seed=1)]
    texts = sample_texts(sources, 20, seed=0)
    known = [{text for e in source.examples for text in (e.query, e.positive)} for source in sources]
    assert sum(text in known[0] for text in texts) == 10
    assert sum(text in known[1] for text in texts) == 3
    assert sample_texts(sources, 20, seed=0) == texts


def test_examples_that_overlap_evaluation_text_are_left_out(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    secret = "one two three four five six seven eight nine ten eleven"
    rows = [{"text": secret, "label": "a"}, {"text": "something else entirely", "label": "b"}]
    (tasks / "clu_secret.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert overlap_filter("") is None
    found = overlap_filter(str(tasks))
    assert found is not None
    assert not found.allows(Example("q", f"it was {secret.title()}, they said"))
    assert found.allows(Example("something else entirely", "one two three four five six seven eight nine"))
    with pytest.raises(ValueError, match="no task called 'nonsense'"):
        overlap_filter("nonsense")
