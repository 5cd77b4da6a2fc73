"""One culprit: by measured effect, else predicted, else its own error, and the same everywhere."""

from __future__ import annotations

import html
from dataclasses import replace
from itertools import pairwise

import pytest

from dashboard.data.settings import Settings
from dashboard.export.files import to_html
from dashboard.export.sections import key_numbers
from dashboard.facts.diagnosis.culprit import (
    LOCAL,
    MEASURED,
    PREDICTED,
    OutputEffects,
    effects_under,
    find_culprit,
    output_effects,
)
from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.ranking import rank_layers
from dashboard.session import run_state
from dashboard.work import prediction_service, service
from quant_engine.report import NeighbourComparison, Ranking
from tests.dashboard.app_harness import open_app, texts
from tests.dashboard.factories import make_partial_report, make_report, make_sensitivity

REPORT = make_report()
MEASUREMENT = make_sensitivity()
LARGEST = max(MEASUREMENT.layers, key=lambda layer: layer.kl_divergence or 0.0)
FORETOLD = OutputEffects(PREDICTED, {"conv1": 0.5, "head.0": 0.25})


def test_a_measured_effect_comes_before_a_predicted_one_and_that_before_an_own_error() -> None:
    measured = find_culprit(REPORT, [MEASUREMENT], FORETOLD)
    predicted = find_culprit(REPORT, [], FORETOLD)
    local = find_culprit(REPORT)

    assert measured is not None
    assert predicted is not None
    assert local is not None
    assert (measured.basis, measured.name) == (MEASURED, LARGEST.name)
    assert measured.value == LARGEST.kl_divergence
    assert (predicted.basis, predicted.name, predicted.value) == (PREDICTED, "conv1", 0.5)
    lowest = min(
        (layer for layer in REPORT.layers if layer.local_error is not None),
        key=lambda layer: layer.local_error.sqnr_db if layer.local_error else 0.0,
    )
    assert (local.basis, local.name) == (LOCAL, lowest.name)
    assert "by its predicted effect on the output: 0.5 nats" in predicted.sentence


def test_measurements_of_something_else_are_not_read() -> None:
    others = (
        make_sensitivity("leave_one_out"),
        replace(MEASUREMENT, parts="weights"),
        replace(MEASUREMENT, is_partial=True),
        replace(MEASUREMENT, rankings=(Ranking("int4 weights", (), ()),)),
    )

    assert output_effects(REPORT, others) is None
    culprit = find_culprit(REPORT, others, FORETOLD)
    assert culprit is not None
    assert culprit.basis == PREDICTED


def test_an_output_without_logits_is_named_by_its_nmse() -> None:
    energies = make_sensitivity(has_logits=False)

    culprit = find_culprit(REPORT, [energies])

    assert culprit is not None
    assert culprit.value == max(layer.nmse for layer in energies.layers)
    assert culprit.text.startswith("NMSE ")


def test_a_tie_is_told() -> None:
    order = [row.name for row in rank_layers(MEASUREMENT, METRICS["kl_divergence"])]
    second = order[1]
    pairs = tuple(
        NeighbourComparison(above, below, 0.0, (0.0, 1.0), is_tied=below == second)
        for above, below in pairwise(order)
    )
    ranking = Ranking("", tuple(order), pairs)

    culprit = find_culprit(REPORT, [replace(MEASUREMENT, rankings=(ranking,))])

    assert culprit is not None
    assert culprit.tied == (second,)
    assert f"Statistically tied with {second}." in culprit.sentence


def test_nothing_quantized_or_measured_has_no_culprit() -> None:
    floats = make_report(exclude=("*",))

    assert find_culprit(floats) is None
    assert find_culprit(None) is None
    assert find_culprit(floats, [], FORETOLD) is None
    assert find_culprit(make_partial_report()) is not None


@pytest.mark.parametrize("name", ["mobilenet_unequal_channels", "vit_outlier_channels"])
def test_headline_sidebar_and_report_name_the_same_layer(name: str) -> None:
    run = service.example_run(name)
    assert run is not None
    culprit = run_state.culprit_of(run)
    assert culprit is not None
    assert culprit.basis == MEASURED

    app = open_app({"run": f"{name} int8_per_channel"}, page="views/experiment/experiment.py")
    metric = next(m for m in app.metric if m.label.startswith("Culprit"))
    assert culprit.name in (metric.help or "")
    assert f"Culprit (measured): {culprit.name}, {culprit.text}" in texts(app)
    number = next(n for n in key_numbers(run.report, run.sensitivities) if "Culprit" in n.name)
    assert number.value == culprit.name
    assert culprit.sentence in html.unescape(to_html(run.report, run.sensitivities).decode())


def test_a_prediction_names_the_culprit_of_a_run_without_sensitivity() -> None:
    settings = Settings("mlp")
    prediction = prediction_service.find_example(settings)
    assert prediction is not None
    effects = effects_under(prediction, settings.recipe)

    assert effects.basis == PREDICTED
    option = prediction.response.options[0]
    assert effects.values == {
        name: prediction.alone[name, option] for name in prediction.response.layers
    }
