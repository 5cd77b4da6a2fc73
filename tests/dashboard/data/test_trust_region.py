"""Up to where predictions hold, and what layers do alone by the surest source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.sensitivity.layer_effects import layer_effects
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
