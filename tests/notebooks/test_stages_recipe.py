"""A teacher on demand: where it starts from, where it goes, and what cannot become one."""

import shutil

import pytest

from workbench.catalog.models import load_embedder
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.stages import StagesConfig, origin_of, teach_and_distill, untrained
from workbench.runs import Run


@pytest.fixture
def ternary(backbone, tmp_path):
    embedder = load_embedder(backbone)
    embedder.convert()
    embedder.save_pretrained(tmp_path / "ternary", layout="latent")
    return str(tmp_path / "ternary")


def settings(backbone, examples, tmp_path, **changes):
    small = {
        "exclude_tasks": "",
        "steps": 1,
        "teacher_steps": 2,
        "batch_size": 4,
        "relation_heads": 2,
        "calibration_texts": 8,
    }
    return StagesConfig(
        backbone=backbone, out=str(tmp_path / "run"), triplets=examples, hard_negatives=1, **small | changes
    )


def test_origin_is_found_through_a_chain_of_runs(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    Run.create(first, ConvertConfig(backbone="minilm", out=str(first)))
    Run.create(second, ConvertConfig(backbone=str(first / "latent"), out=str(second)))
    assert origin_of(str(second)) == "minilm"
    assert origin_of(str(second / "model")) == "minilm"
    assert origin_of("minilm") == "minilm"


def test_a_paused_teacher_does_not_teach_yet(backbone, examples, tmp_path):
    config = settings(backbone, examples, tmp_path, teacher_steps=3)
    records = teach_and_distill(config)
    next(records)
    Run(tmp_path / "run-teacher").request_pause()
    assert [(r["stage"], r["step"]) for r in records] == [("teacher", 2)]
    continued = [(r["stage"], r["step"]) for r in teach_and_distill(config)]
    assert continued == [("teacher", 1), ("teacher", 2), ("teacher", 3), ("distill", 1)]


def test_a_run_to_be_overwritten_goes_with_the_first_step_of_its_teacher(backbone, examples, tmp_path):
    list(teach_and_distill(settings(backbone, examples, tmp_path)))
    with pytest.raises(FileNotFoundError):  # nothing is lost to a mistake
        next(teach_and_distill(settings(backbone, str(tmp_path / "absent.jsonl"), tmp_path, overwrite=True)))
    assert Run(tmp_path / "run").finished
    anew = settings(backbone, examples, tmp_path, teacher_steps=3, seed=1, overwrite=True)
    records = teach_and_distill(anew)
    next(records)
    Run(tmp_path / "run-teacher").request_pause()
    assert [r["stage"] for r in records] == ["teacher"]
    assert not Run(tmp_path / "run").exists
    resumed = settings(backbone, examples, tmp_path, teacher_steps=3, seed=1)
    stages = [(r["stage"], r["step"]) for r in teach_and_distill(resumed)]
    assert stages == [("teacher", 1), ("teacher", 2), ("teacher", 3), ("distill", 1)]


def test_no_teacher_is_trained_for_a_folder_that_is_taken(backbone, examples, tmp_path):
    config = settings(backbone, examples, tmp_path)
    Run.create(config.out, config)
    with pytest.raises(FileExistsError, match="holds a run already"):
        next(teach_and_distill(config))
    assert not (tmp_path / "run-teacher").exists()


def test_teacher_is_trained_once_and_found_again(backbone, examples, tmp_path):
    config = settings(backbone, examples, tmp_path)
    stages = [(record["stage"], record["step"]) for record in teach_and_distill(config)]
    assert stages == [("teacher", 1), ("teacher", 2), ("distill", 1)]
    assert not load_embedder(config.teacher_name).is_ternary
    assert load_embedder(config.out).is_ternary
    again = settings(backbone, examples, tmp_path, resume=True)
    stages = [(record["stage"], record["step"]) for record in teach_and_distill(again)]
    assert stages == [("teacher", 1), ("teacher", 2), ("distill", 1)]
    shutil.rmtree(config.out)
    other = StagesConfig(**{**config.__dict__, "seed": 1})
    with pytest.raises(ValueError, match="seed"):
        next(teach_and_distill(other))


@pytest.mark.parametrize(
    ("tasks", "exclude", "expected"),
    [
        ("sts_words,STS12,ret_debian", "tasks", "sts_words,ret_debian"),
        ("sts_words,offline", "tasks", "offline"),
        ("sts_words", "", ""),
        ("sts_words", "offline", "offline"),
        ("", "tasks", ""),
    ],
)
def test_text_of_the_evaluated_tasks_is_kept_out_of_training(tasks, exclude, expected):
    config = StagesConfig(tasks=tasks, exclude_tasks=exclude)
    assert config.excluded == expected
    assert config.teacher_config.exclude_tasks == expected


def test_text_of_a_folder_of_tasks_is_kept_out_of_training(tmp_path):
    assert StagesConfig(tasks=str(tmp_path)).excluded == str(tmp_path)


def test_a_teacher_that_is_given_is_not_trained(backbone, examples, tmp_path):
    config = settings(backbone, examples, tmp_path, teacher=backbone)
    assert {record["stage"] for record in teach_and_distill(config)} == {"distill"}
    assert not (tmp_path / "run-teacher").exists()


def test_a_ternary_model_cannot_become_a_teacher(ternary, backbone, examples, tmp_path):
    with pytest.raises(ValueError, match="--teacher-backbone"):
        next(teach_and_distill(settings(ternary, examples, tmp_path)))
    config = settings(ternary, examples, tmp_path, teacher_backbone=backbone)
    assert next(teach_and_distill(config))["stage"] == "teacher"


def test_untrained_is_the_origin_made_ternary(backbone, examples, tmp_path):
    embedder = untrained(settings(backbone, examples, tmp_path))
    assert embedder.is_ternary
    origin = load_embedder(backbone).model.state_dict()
    for name, parameter in embedder.model.named_parameters():
        if not name.endswith(".norm.weight"):
            deployed = (
                origin[name] if ".layer." in name and parameter.ndim == 2 else origin[name].half().float()
            )
            assert (parameter == deployed).all(), name
