"""What is saved of a comparison has the numbers that were computed, and words that agree with them."""

import json

import numpy as np
import pytest

from workbench.relations import PHIS, LayerDivergence, RelationsConfig, average, read, relate
from workbench.relations_report import as_table, head_figures, in_words, map_figures, save


@pytest.fixture
def relations(make_embedder):
    student = make_embedder("qwen3")
    student.convert()
    by_name = {"teacher": make_embedder("qwen3"), "before": student, "after": student}
    return [relate(read(by_name, text, 48), 4, 0.1) for text in ("the cat", "a dog sleeps")]


def test_saved_numbers_are_those_of_the_loss_by_layer_and_head(relations, tmp_path):
    config = RelationsConfig(teacher="minilm", out=str(tmp_path / "out"))
    mean = average(relations)
    folder = save(config, relations[0], mean)
    assert sorted(path.name for path in folder.iterdir()) == ["relations.json", "report.html"]
    saved = json.loads((folder / "relations.json").read_text(encoding="utf-8"))
    tokens = sum(len(one.tokens) for one in relations)
    assert (saved["texts"], saved["tokens"], saved["layers"], saved["paper_layer"]) == (2, tokens, 2, 0)
    assert saved["config"]["temperature"] == 0.1
    for student in ("before", "after"):
        by_layer = []
        for phi in PHIS:
            by_head = sum(one.divergence[student][phi].sum(axis=-1) for one in relations) / tokens
            found = saved["divergence"][student][phi]
            np.testing.assert_allclose(found["by_head"], by_head, rtol=1e-5)
            np.testing.assert_allclose(found["by_layer"], by_head.mean(axis=1), rtol=1e-5)
            by_layer.append(by_head.mean(axis=1))
        np.testing.assert_allclose(saved["divergence"][student]["mean"], np.mean(by_layer, axis=0), rtol=1e-5)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"{phi}-{phi} relations" in page for phi in PHIS)
    # by layer; by head and student, three maps and the divergence by token for each phi
    assert page.count("Plotly.newPlot(") - page.split("<body>")[0].count("Plotly.newPlot(") == 1 + 3 * (
        2 + 3 + 1
    )


def divergence(before, after=None):
    given = {"before": before} | ({} if after is None else {"after": after})
    by_head = {
        name: dict.fromkeys(PHIS, np.array([[v, v] for v in values])) for name, values in given.items()
    }
    return LayerDivergence(1, 5, by_head)


def test_words_name_the_layers():
    words = in_words(divergence([0.1, 0.2, 0.3, 0.4, 0.5, 0.9]))
    assert "the paper would distil layer 3" in words
    assert "by 0.400 nats a token" in words
    assert "most in layer 5 (0.900)" in words
    assert "Afterwards" not in words
    words = in_words(divergence([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], [0.0, 0.0, 0.0, 0.1, 0.3, 0.2]))
    assert "Afterwards it is 0.100 (-75%), and most is left in layer 4 (0.300)" in words


def test_a_perfect_student_has_no_change_to_report():
    assert "Afterwards it is 0.000 (+0%)" in in_words(divergence([0.0] * 6, [0.0] * 6))


def test_table_has_a_row_per_layer():
    header, *rows = as_table(divergence([0.5, 1.5])).splitlines()
    assert header.split() == ["layer", *["before", "Q", "before", "K", "before", "V", "before", "mean"]]
    assert [row.split() for row in rows] == [["0", *["0.5000"] * 4], ["1", *["1.5000"] * 4]]


def test_compared_figures_share_their_colours(relations):
    mean = average(relations)
    assert len({figure.data[0].zmax for figure in head_figures(mean, "K")}) == 1
    maps = map_figures(relations[0], "Q", 1, 2)
    assert len({figure.data[0].zmax for figure in maps}) == 1
    np.testing.assert_array_equal(maps[0].data[0].z, relations[0].maps["teacher"]["Q"][1, 2])
