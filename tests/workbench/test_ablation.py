"""The ablation: variants differ in what their name says, share a stage 1, and go on after an interruption."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from workbench import ablation
from workbench.ablation import VARIANTS, AblationConfig, ablate, configurations, report
from workbench.figures.ablation import ablation_bars, ablation_table


def differences(name: str) -> dict[str, Any]:
    config = AblationConfig(out="x")
    (_, whole), (_, other) = configurations(config, "full"), configurations(config, name)
    return {field: value for field, value in asdict(other).items() if value != asdict(whole)[field]}


def test_a_variant_changes_what_its_name_says() -> None:
    assert differences("no-score") == {"similarity_weight": 0.0, "out": "x/no-score"}
    assert differences("no-relations") == {"relation_weight": 0.0, "out": "x/no-relations"}
    assert differences("relation-layer-4") == {"relation_layer": 4, "out": "x/relation-layer-4"}
    assert differences("no-stage-1") == {"backbone": "minilm", "out": "x/no-stage-1"}
    subln = {"sites": "none", "backbone": "x/no-subln-stage-1", "out": "x/no-subln"}
    assert differences("no-subln") == subln
    assert configurations(AblationConfig(), "no-subln")[0].sites == "none"
    alone = differences("fine-tuning-only")
    assert alone.keys() == {
        "backbone",
        "out",
        "bits",
        "similarity_weight",
        "relation_weight",
        "regression_weight",
        "float_queries_weight",
        "output_map_texts",
    }
    assert differences("no-output-map") == {"output_map_texts": 0, "out": "x/no-output-map"}
    assert configurations(AblationConfig(), "fine-tuning-only")[0] is None
    with pytest.raises(ValueError, match="no variant 'no-luck'; choose among full, no-subln"):
        AblationConfig(variants=("full", "no-luck"))
    with pytest.raises(ValueError, match="no recipe 'x'"):
        AblationConfig(recipe="x")


@pytest.fixture
def changes(tiny_model_folder, tmp_path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both stages on a tiny BERT and made-up text."""
    rows = [
        {"query": f"w{i} w{i + 1}", "positive": f"w{i} w{i + 1} w{i + 2}", "negatives": [f"w{i} w{i + 9}"]}
        for i in range(16)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, texts = str(tiny_model_folder), str(tmp_path / "texts.jsonl")
    common = {"teacher": model, "batch_size": 4, "exclude_tasks": "", "precision": "float32"}
    common |= {"relation_heads": 4, "dev_every": None}
    return common | {"backbone": model, "pairs": texts}, common | {"triplets": texts}


def test_it_trains_scores_and_goes_on(changes, tmp_path, monkeypatch) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    pairs = [{"s1": f"w{i}", "s2": f"w{i} w{i % 3}", "score": i % 3} for i in range(9)]
    (tasks / "sts_mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    config = AblationConfig(
        out=str(tmp_path / "a"),
        variants=("full", "no-subln", "no-stage-1", "relation-layer-1"),
        pretrain_steps=2,
        distill_steps=2,
        max_length=32,
        tasks=str(tasks),
        precisions=("float16", "binary"),
    )
    scored = []
    evaluate = ablation.evaluate

    def interrupted(*arguments, **options):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(options["name"])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(ablation, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablate(config, *changes)
    monkeypatch.setattr(ablation, "evaluate", lambda *a, **o: scored.append(o["name"]) or evaluate(*a, **o))
    results = ablate(config, *changes)
    assert scored == list(config.variants)  # none twice
    assert list(results["variants"]) == scored
    assert results == json.loads((tmp_path / "a" / "results.json").read_text())
    runs = {name: row["runs"] for name, row in results["variants"].items()}
    assert runs["full"][0] == runs["relation-layer-1"][0]
    assert len(runs["no-stage-1"]) == 1
    ablate(config, *changes)
    assert scored == list(config.variants)
    report(tmp_path / "a" / "report.html", results)
    assert "without the projection norms" in (tmp_path / "a" / "report.html").read_text()


def row(about: str, score: float) -> dict[str, Any]:
    by_type = {"STS": {"teacher": 0.9, "float16": score, "int8": score - 0.01}}
    return {"about": about, "mean": by_type["STS"], "mean_by_type": by_type}


def test_figures() -> None:
    variants = {"full": row("all", 0.8), "no-score": row("no score", 0.75), "no-subln": row("no norms", 0.82)}
    figure = ablation_bars({"variants": variants})
    assert list(figure.data[0].y) == ["no score", "no norms"] or list(figure.data[0].y) == [
        "no norms",
        "no score",
    ]
    assert dict(zip(figure.data[0].y, figure.data[0].x, strict=True)) == {
        "no score": pytest.approx(-5),
        "no norms": pytest.approx(2),
    }
    markup = ablation_table({"variants": variants}).markup
    for cell in ("teacher", "90.0", "80.0", "79.0", "no norms"):
        assert cell in markup
    assert "needed" in ablation_bars({"variants": {}}).layout.annotations[0].text


def test_every_variant_of_the_paper_is_there() -> None:
    assert {
        "full",
        "no-subln",
        "no-stage-1",
        "no-score",
        "no-relations",
        "fine-tuning-only",
    } <= VARIANTS.keys()
