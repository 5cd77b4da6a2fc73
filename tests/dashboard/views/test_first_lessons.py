"""Lessons 1 to 5: what they say is what the numbers say."""

from __future__ import annotations

import pytest

from dashboard.views.learn.lessons import l04_range
from dashboard.views.learn.lessons.l01_steps import LESSON as STEPS
from dashboard.views.learn.lessons.l02_zero import LESSON as ZERO
from dashboard.views.learn.lessons.l03_codes import ASYMMETRIC, LAYER, MODEL, SYMMETRIC
from dashboard.views.learn.lessons.l03_codes import LESSON as CODES
from dashboard.views.learn.lessons.l05_ruler import EQUAL, NOTHING
from dashboard.views.learn.lessons.l05_ruler import LESSON as RULER
from dashboard.work.lessons import ruler, sample_layers
from dashboard.work.lessons.numbers import read_numbers
from dashboard.work.lessons.range_errors import range_errors
from dashboard.work.lessons.zero_off_grid import KERNEL, run_convolution
from quant_engine.scheme import TensorScheme
from tests.dashboard.shown_lessons import shown

RANGE = l04_range.LESSON


def test_each_bit_is_worth_six_decibels_of_evenly_spread_numbers() -> None:
    many, few = (
        sample_layers.weight_report(
            sample_layers.EVEN, "", TensorScheme(bits=bits, symmetric=False)
        ).error
        for bits in (8, 4)
    )

    assert shown(STEPS).right == 1
    assert (many.sqnr_db - few.sqnr_db) / 4 == pytest.approx(6.02, abs=0.3)
    assert f"{(many.sqnr_db - few.sqnr_db) / 4:.1f} dB" in shown(STEPS).insight


@pytest.mark.parametrize(("model", "layer"), [("mlp", "network.0"), ("resnet", "fc")])
def test_the_typical_error_is_the_same_in_steps_whatever_the_layer(model: str, layer: str) -> None:
    for bits in (8, 4, 3):
        scheme = TensorScheme(bits=bits, symmetric=False)
        error = sample_layers.weight_report(model, layer, scheme).error
        assert error.rmse_over_scale == pytest.approx(12**-0.5, abs=0.01)
        rms_error = sample_layers.weight_rms_error(model, layer, scheme)
        assert rms_error == pytest.approx(error.mse**0.5, rel=1e-5)


def test_the_number_line_moves_no_number_by_more_than_half_a_step() -> None:
    for bits in ("8", "4", "2"):
        rows = shown(STEPS, bits=bits, numbers="evenly spread").pictures[0].rows()
        step = 2 / (2 ** int(bits) - 1)
        ways = [abs(row["value"] - row["rounded"]) for row in rows]
        assert 0 < max(ways) <= 0.5001 * step


def test_the_border_lights_up_only_where_zero_is_beside_a_mark() -> None:
    exact, quarter, half = (run_convolution(shift) for shift in (0.0, 0.25, 0.5))

    assert shown(ZERO).right == 1
    assert exact.border < exact.inside
    assert quarter.border > 2 * quarter.inside
    assert half.border > 4 * half.inside
    # A third of what the filter covers at an edge is padding, each number off by half a step.
    edge = half.errors[0][1:-1]
    assert sum(edge) / len(edge) == pytest.approx(0.5 / KERNEL, abs=0.02)
    assert (exact.values[0], exact.stand_ins[0]) == (0.0, 0.0)
    assert half.stand_ins[0] == pytest.approx((half.marks[1] - half.marks[0]) / 2)


def test_after_a_relu_a_symmetric_grid_uses_at_most_half_of_its_codes() -> None:
    symmetric, asymmetric = (
        sample_layers.input_report(MODEL, LAYER, TensorScheme(symmetric=is_symmetric))
        for is_symmetric in (True, False)
    )

    assert shown(CODES).right == 1
    assert symmetric.codes.codes_used <= (len(symmetric.codes.counts) + 1) / 2
    assert asymmetric.codes.codes_used > 1.5 * symmetric.codes.codes_used
    gained = asymmetric.error.sqnr_db - symmetric.error.sqnr_db
    assert gained == pytest.approx(6.02, abs=0.3)
    assert "none of them below 0" in shown(CODES).truth
    for ruler_name, report in ((SYMMETRIC, symmetric), (ASYMMETRIC, asymmetric)):
        assert str(report.codes.codes_used) in shown(CODES, ruler=ruler_name).pictures[0].alt


def test_the_best_range_clips_and_min_max_is_the_worst_rule() -> None:
    scheme = TensorScheme(bits=4, symmetric=False)
    errors = range_errors(l04_range.MODEL, l04_range.LAYER, scheme)
    best = min(errors, key=lambda error: error.total)
    report = sample_layers.input_report(l04_range.MODEL, l04_range.LAYER, scheme)
    worst = min(report.range_choices, key=lambda choice: choice.sqnr_db)

    assert shown(RANGE).right == 1
    assert 0 < best.clipped < 0.01
    assert errors[-1].total > 2 * best.total
    assert worst.observer == "minmax"
    assert 8 <= report.hi / l04_range._typical() <= 9
    assert f"{100 * best.share:.0f} % of the largest number" in shown(RANGE).truth


def test_rounding_and_clipping_are_what_the_engine_reports_of_that_range() -> None:
    scheme = TensorScheme(bits=4, symmetric=False)
    (found,) = (
        error
        for error in range_errors(l04_range.MODEL, l04_range.LAYER, scheme)
        if error.share == 0.61
    )
    error = sample_layers.input_report(l04_range.MODEL, l04_range.LAYER, scheme, 0.61).error
    assert error.clipping_mse is not None

    assert found.total == pytest.approx(error.nmse, rel=1e-4)
    assert found.clipping / found.total == pytest.approx(error.clipping_mse / error.mse, rel=1e-3)
    assert found.clipped == pytest.approx(error.clipped_fraction)


def test_only_equal_channels_bring_the_answers_back() -> None:
    values = read_numbers("ruler").values
    treatments = values["treatments"]
    accuracy = {name: one["accuracy"] for name, one in treatments.items()}

    assert shown(RULER).right == 3
    assert 0.15 <= accuracy[ruler.NOTHING] <= 0.20
    assert accuracy[ruler.EQUALIZE] >= values["float_accuracy"] - 0.005
    assert accuracy[ruler.OWN_SCALES] >= values["float_accuracy"] - 0.01
    for name in (ruler.MORE_IMAGES, ruler.SMARTER_RANGE, ruler.BIAS_CORRECTION, ruler.GPTQ):
        assert accuracy[name] < 0.35
    assert values["float_change"] < 1e-6
    largest = treatments[ruler.NOTHING]["largest"]
    assert 200 < max(largest) / min(largest) < 1000


def test_the_ruler_figure_shows_both_layers_and_what_became_zero() -> None:
    before, after = shown(RULER, repair=NOTHING), shown(RULER, repair=EQUAL)

    assert "layout.xaxis2" not in str(before.pictures[1].figure.layout)
    assert len(after.pictures[1].rows()) == 2 * len(before.pictures[1].rows())
    assert "216 of 432 weights became 0" in before.pictures[1].alt
