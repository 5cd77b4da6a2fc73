import math

import numpy as np
import pytest
import torch
from torch import nn

from quant_engine.report import AgreementPoint
from quant_engine.response.agreement import (
    compare,
    draw_random,
    draw_single,
    judge,
)
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import case, measure


def points(predicted, measured):
    return [
        AgreementPoint((("a", "four"),), p, m) for p, m in zip(predicted, measured, strict=True)
    ]


def test_figures_by_hand():
    figures = compare(points([1.0, 2.0, 4.0, 3.0], [1.0, 4.0, 2.0, 3.0]))
    # Ranks 1, 2, 4, 3 against 1, 4, 2, 3: 1 - 6·(0 + 4 + 4 + 0) / (4·15).
    assert figures.rank_correlation == pytest.approx(0.2)
    assert figures.median_ratio == pytest.approx(1.0)


def test_what_is_not_defined_is_nan_and_not_a_success():
    same = points([1.0] * 9, [1.0] * 9)
    assert math.isnan(compare(same).rank_correlation)
    assert judge(same, same, ["four"], 5).level == "unknown"
    assert math.isnan(compare([]).median_ratio)


def increasing(count=10):
    return points(np.arange(1.0, count + 1), np.arange(1.0, count + 1))


@pytest.mark.parametrize(
    ("random", "level"),
    [
        (increasing(), "good"),
        (points(np.arange(1.0, 11) * 2, np.arange(1.0, 11)), "rough"),
        (points(np.arange(1.0, 11) * 9, np.arange(1.0, 11)), "poor"),
        (points([1, 3, 2, 5, 4, 7, 6, 9, 8, 10], np.arange(1.0, 11)), "good"),
        (points([3, 2, 1, 6, 5, 4, 9, 8, 7, 10], np.arange(1.0, 11)), "rough"),
        (points([10, 2, 3, 4, 5, 6, 7, 8, 9, 1], np.arange(1.0, 11)), "poor"),
        (increasing(5), "unknown"),
    ],
)
def test_a_verdict_is_no_surer_than_the_figures(random, level):
    agreement = judge(increasing(), random, ["four"], 10)
    assert agreement.level == level
    is_sure = agreement.verdict.startswith("Predictions can be relied on")
    assert is_sure == (level == "good")


def test_a_model_that_errors_do_not_add_up_in_gets_no_good_verdict():
    class Chaotic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = torch.sin(40.0 * layer(x))
            return 3.0 * x

    agreement = measure(fill(Chaotic()), seeded((16, 6)), agreement_configurations=20).agreement
    assert agreement.level != "good"


def test_the_agreement_is_about_runs_of_the_model():
    response = measure(*case("in_place"))
    agreement = response.agreement
    assert len(agreement.single_points) == len(response.layers) * len(response.options)
    for point in (*agreement.single_points, *agreement.random_points):
        assert response.score(dict(point.configuration)).degradation == pytest.approx(
            point.predicted
        )
    assert {name for name, _ in agreement.by_option} == set(response.options)


def test_draws_repeat_with_their_seed_and_cover_mild_and_harsh():
    layers, options = [f"layer{n}" for n in range(12)], ["eight", "four"]
    drawn = draw_random(layers, options, 30, np.random.default_rng(3))
    assert drawn == draw_random(layers, options, 30, np.random.default_rng(3))
    harshness = [sum(option == "four" for option in c.values()) for c in drawn]
    assert min(harshness) == 0
    assert max(harshness) >= 5
    candidates = [f"option{n}" for n in range(26)]
    mixed = [set(c.values()) for c in draw_random(layers, candidates, 60, np.random.default_rng(1))]
    assert max(map(len, mixed)) == 6
    assert len(set.union(*mixed)) == 27
    assert sum("option25" in options for options in mixed) < 20  # the harshest, say
    many = [(f"{n}", option) for n in range(300) for option in options]
    assert len(draw_single(many, np.random.default_rng(0))) == 200
