"""Up to where predictions hold, and what layers do alone by the surest source."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.trust_region import FACTOR, find_region
from dashboard.facts.layer_effects import layer_effects
from dashboard.work import prediction_service, service

MODEL = "resnet"


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    found = prediction_service.example_prediction(MODEL)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def run() -> Run:
    found = service.find_example(Settings(MODEL))
    assert found is not None
    return found


def pairs(count: int, ratio: float, start: float = 1e-4) -> list[tuple[float, float]]:
    return [(start * (1 + i), start * (1 + i) / ratio) for i in range(count)]


def test_the_region_ends_where_predictions_begin_to_be_off() -> None:
    right, wrong = pairs(30, 1.0), pairs(30, 5.0, start=0.1)

    region = find_region([*wrong, *right])

    assert region.limit == 0.003
    assert region.checked == 30
    assert region.factor == 1.0
    assert region.holds(0.003)
    assert region.holds(0.0)
    assert not region.holds(0.0031)


def test_predictions_that_are_too_large_or_too_small_count_alike() -> None:
    for ratio in (1.01 * FACTOR, 1 / (1.01 * FACTOR)):
        assert find_region(pairs(30, ratio)).limit == 0
    for ratio in (0.99 * FACTOR, 1 / (0.99 * FACTOR)):
        assert find_region(pairs(30, ratio)).limit == 0.003


def test_a_few_stray_pairs_do_not_end_the_region() -> None:
    stray = [(p, m / 9) if i % 8 == 3 else (p, m) for i, (p, m) in enumerate(pairs(40, 1.0))]

    assert find_region(stray).limit == 0.004
    assert find_region(stray).factor == pytest.approx(9)


def test_too_few_pairs_show_nothing_and_pairs_without_degradation_are_left_out() -> None:
    assert not find_region(pairs(7, 1.0)).limit
    nothing = [(0.0, 0.1), (0.1, 0.0), (math.inf, 1.0), (1.0, math.nan)]
    assert find_region(nothing).limit == 0
    assert find_region([*pairs(20, 1.0), *nothing]).checked == 20


def test_the_region_of_a_stored_model_is_what_its_pairs_say(prediction: Prediction) -> None:
    region = prediction.region
    agreement = prediction.response.report.agreement
    checks = [*agreement.single_points, *agreement.random_points]
    inside = [p for p in checks if 0 < p.predicted <= region.limit and p.measured > 0]
    beyond = [p for p in checks if p.predicted > 3 * region.limit and p.measured > 0]
    good = [0.5 <= p.predicted / p.measured <= 2 for p in inside]
    bad = [0.5 <= p.predicted / p.measured <= 2 for p in beyond]

    assert sum(good) / len(good) > 0.9
    assert sum(bad) / len(bad) < 0.5


def test_measured_effects_of_layers_replace_predicted_ones(
    prediction: Prediction, run: Run
) -> None:
    effects = layer_effects(run, prediction)
    own, _ = prediction.configuration_of(run.recipe)
    (sweep,) = [s for s in run.sensitivities if s.direction == "one_at_a_time"]
    layer = sweep.layers[0]
    four = prediction.response.options[2]

    known = effects.of(layer.name, own[layer.name])
    assert known.is_measured
    assert known.degradation == layer.kl_divergence
    assert known.interval == layer.interval
    checked = effects.of(layer.name, four)
    assert checked.is_measured
    assert checked.degradation == prediction.measured_alone[layer.name, four]
    bare = layer_effects(replace(run, sensitivities=()), prediction)
    assert bare.of(layer.name, own[layer.name]).interval is None


def test_effects_are_compared_within_one_source(prediction: Prediction, run: Run) -> None:
    effects = layer_effects(run, prediction)
    own, _ = prediction.configuration_of(run.recipe)
    (sweep,) = [s for s in run.sensitivities if s.direction == "one_at_a_time"]
    worst = max(sweep.layers, key=lambda layer: layer.kl_divergence or 0.0)

    assert effects.worst(own.items()) == worst.name
    mixed = {**own, worst.name: prediction.response.options[2]}
    found = effects.comparable(mixed.items())
    assert all(effect.interval is None for effect in found.values())
    assert all(effect.is_measured for effect in found.values())
    assert effects.worst([]) is None
