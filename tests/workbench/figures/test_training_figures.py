"""Training figures: the right numbers on the right axes, for one or several stages, few or no records."""

import math

import numpy as np
import pytest

from workbench.figures import loss_curves, training_health
from workbench.figures.training import GAUSSIAN_ZERO_SHARE, log_ticks, moving_mean


def record(stage, step, **values):
    return {"stage": stage, "step": step, "steps": 3, "lr": 1e-3, "source": "a", **values}


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_each_loss_of_each_stage_is_drawn_over_its_steps():
    records = [record("teacher", s, loss=3.0 / s, contrastive=3.0 / s) for s in (1, 2, 3)]
    records += [record("distill", s, loss=5.0 / s, contrastive=1.0 / s, similarity=4.0 / s) for s in (1, 2)]
    figure = loss_curves(records)
    first, second = traces(figure, "contrastive")
    assert list(first.x) == [1, 2, 3]
    assert list(first.y) == [3.0, 1.5, 1.0]
    assert list(second.x) == [1, 2]
    assert first.xaxis != second.xaxis
    assert len(traces(figure, "score distillation")) == 1
    assert not traces(figure, "relation distillation")
    assert [a.text for a in figure.layout.annotations] == ["Stage 0: teacher", "Stage 2: distillation"]


def test_a_loss_is_named_once_in_the_legend():
    records = [record(stage, s, loss=1.0 + s) for stage in ("teacher", "pretrain", "distill") for s in (1, 2)]
    assert [trace.showlegend for trace in traces(loss_curves(records), "total")] == [True, False, False]


def test_loss_by_precision_gets_a_row_of_its_own():
    records = [record("distill", s, loss=1.0, contrastive_1bit=2.0, contrastive_16bit=0.5) for s in (1, 2)]
    figure = loss_curves(records)
    (one_bit,) = traces(figure, "1-bit vectors")
    (total,) = traces(figure, "total")
    assert one_bit.yaxis != total.yaxis


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, None])
def test_values_that_have_no_place_on_a_log_axis_are_left_out(bad):
    records = [record("distill", s, loss=1.0, relations=value) for s, value in ((1, 1.0), (2, bad), (3, 2.0))]
    (relations,) = traces(loss_curves(records), "relation distillation")
    assert list(relations.x) == [1, 3]


def test_no_records_is_said_in_words():
    for draw in (loss_curves, training_health):
        figure = draw([])
        assert not figure.data
        assert figure.layout.annotations[0].text == "no records yet"


def test_a_single_record_is_visible():
    (total,) = traces(loss_curves([record("pretrain", 1, loss=1.0)]), "total")
    assert total.mode == "markers"


def test_many_records_keep_every_point_under_the_smooth_line():
    losses = np.random.default_rng(0).uniform(1, 2, 400)
    figure = loss_curves([record("pretrain", s, loss=float(loss)) for s, loss in enumerate(losses, start=1)])
    every, smooth = (trace for trace in figure.data if trace.legendgroup == "loss")
    np.testing.assert_allclose(every.y, losses)
    assert np.std(smooth.y) < np.std(losses)
    (rate,) = traces(figure, "learning rate")
    assert set(rate.y) == {1e-3}


def test_moving_mean_against_a_loop():
    values = np.random.default_rng(1).normal(size=130)
    half = 6  # 130 * 0.1 / 2
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(130)]
    np.testing.assert_allclose(moving_mean(values), expected)
    np.testing.assert_array_equal(moving_mean(values[:19]), values[:19])


def test_health_shows_only_what_was_recorded():
    records = [record("teacher", s, grad_norm=1.0) for s in (1, 2)]
    assert {trace.name for trace in training_health(records).data} == {"gradient norm before clipping"}
    records += [record("distill", s, grad_norm=1.0, zero_share=0.3, relation_ratio=4.0) for s in (1, 2)]
    names = [trace.name for trace in training_health(records).data]
    assert names.count("gradient norm before clipping") == 2
    assert names.count("weights that are zero") == 1
    assert names.count("relation loss / contrastive loss") == 1


def test_a_floating_point_teacher_has_no_zero_share():
    records = [record("teacher", 1, zero_share=0.0), record("distill", 1, zero_share=0.3)]
    (zeros,) = training_health(records).data
    assert list(zeros.y) == [0.3]


def test_axes_hold_all_values_and_the_reference():
    records = [record("distill", s, loss=1.0, relation_ratio=38.0 + s, zero_share=0.4) for s in (1, 2)]
    figure = training_health(records)
    zeros, ratio = figure.layout.yaxis.range, figure.layout.yaxis2.range
    assert zeros[0] == 0
    assert zeros[1] > 0.4
    assert ratio[0] < 0
    assert ratio[1] > math.log10(40)


def test_gaussian_reference_is_the_zero_share_of_normal_weights():
    weights = np.random.default_rng(2).normal(size=1_000_000)
    share = np.mean(np.abs(weights) < np.abs(weights).mean() / 2)
    assert pytest.approx(share, abs=2e-3) == GAUSSIAN_ZERO_SHARE


def test_log_ticks_are_round():
    assert log_ticks(0.3, 4.0) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50])
    assert log_ticks(1e-5, 30) == pytest.approx([10.0**p for p in range(-5, 3)])
    assert log_ticks(2.7, 2.7) == [2.7]


@pytest.mark.parametrize("low", [1e-6, 0.03, 0.97, 2.6, 4321.0])
@pytest.mark.parametrize("ratio", [1.001, 1.07, 1.5, 3.0, 20.0, 1e4])
def test_log_ticks_are_seen_and_not_too_many(low, ratio):
    seen = [tick for tick in log_ticks(low, low * ratio) if low <= tick <= low * ratio]
    assert 3 <= len(seen) <= 40


def test_long_runs_are_drawn_with_fewer_points():
    figure = loss_curves([record("distill", s, loss=1.0 + s) for s in range(1, 10_001)])
    (total,) = traces(figure, "total")
    assert len(total.x) == 1500
    assert (total.x[0], total.x[-1]) == (1, 10_000)


def test_terms_of_the_loss_are_shown_as_shares_of_it():
    records = [record("distill", s, loss=4.0, contrastive=1.0, regression=3.0) for s in (1, 2)]
    figure = training_health(records)
    (contrastive,) = traces(figure, "contrastive, share of the loss")
    (regression,) = traces(figure, "embedding regression, share of the loss")
    assert [list(contrastive.y), list(regression.y)] == [[0.25, 0.25], [0.75, 0.75]]
