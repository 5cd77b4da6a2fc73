"""A model with two outputs on every page: each in its own unit, and never the first alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.prediction import prediction_id
from dashboard.export.files import to_html, to_layer_csv
from dashboard.facts.compare.differences import outcomes
from dashboard.facts.configurations import data_rows, layer_data_rows, make_row, to_json, with_run
from dashboard.facts.diagnosis.culprit import effects_under, find_culprit
from dashboard.facts.output_change import effect_on_all
from dashboard.facts.outputs import judged_number
from dashboard.facts.sensitivity.layer_effects import layer_effects
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.session.jobs import store
from dashboard.session.predictions import predictions
from dashboard.words.formatting import format_nats
from tests.dashboard.app_harness import assert_alive, figures, open_app, texts
from tests.dashboard.two_outputs import (
    JUDGED,
    LINK,
    OTHER,
    PAIR,
    SETTINGS,
    make_prediction,
    make_run,
)

PAGES = ("start/start", "experiment/experiment", "layer/layer", "sensitivity/sensitivity")


@pytest.fixture(autouse=True)
def stored() -> None:
    for settings in (SETTINGS, OTHER):
        store().put(make_run(settings))
    predictions().put(prediction_id(SETTINGS), make_prediction())


def page(name: str, link: dict[str, str] = LINK) -> AppTest:
    app = open_app(link, page=f"views/{name}.py")
    assert_alive(app)
    return app


@pytest.mark.parametrize("name", [*PAGES, "what_if/what_if"])
def test_the_page_says_both_outputs(name: str) -> None:
    assert texts(page(name)).count(f"Judged on 60 samples: {JUDGED}.") == 1


@pytest.mark.parametrize("name", ["start/start", "experiment/experiment"])
def test_the_headline_has_each_output_in_its_own_unit(name: str) -> None:
    found = texts(page(name))

    boxes, scores = make_run().report.outputs
    assert f"boxes: Output NMSE: {judged_number(boxes)[1]}" in found
    assert f"scores: KL divergence: {judged_number(scores)[1]}" in found
    assert judged_number(scores)[1].split(" ")[1] == "nats"
    assert "accuracy 90 % → " in found
    assert "Same answer as float" not in found
    assert not re.search(r"^Output SQNR", found, re.MULTILINE)


def test_the_ranking_is_by_the_largest_ratio_and_names_its_output() -> None:
    app = page("sensitivity/sensitivity")
    (report,) = make_run().sensitivities
    first = max(report.layers, key=lambda layer: layer.value)

    assert f"Degradation ratio {first.value:.3f}, by {first.decided_by}" in texts(app)
    (table,) = app.dataframe
    by_name = table.value.set_index("Layer")
    for layer in report.layers:
        row = by_name.loc[layer.name]
        # The largest share of what all layers quantized do to one output, worked out here.
        assert report.reference is not None
        pairs = zip(layer.outputs, report.reference.outputs, strict=True)
        shares = {own.name: own.degradation / whole.degradation for own, whole in pairs}
        assert row["Degradation ratio"] == pytest.approx(max(shares.values()))
        assert row["Decided by"] == max(shares, key=lambda name: shares[name])
        assert row["boxes: Output NMSE (share of energy)"] == layer.outputs[0].value
        assert row["scores: KL divergence (nats)"] == layer.outputs[1].value
    assert not {"Answers changed (%)", "Accuracy lost (points)"} & set(table.value.columns)
    whole = report.reference
    assert whole is not None
    assert f"scores: KL divergence {format_nats(whole.outputs[1].value)}" in texts(app)
    labels = [metric.label for metric in available_metrics(report)]
    assert labels == ["Degradation ratio", "boxes: Output NMSE", "scores: KL divergence"]
    curve = next(f for f in figures(app) if "model size" in f["layout"]["title"]["text"])
    assert curve["layout"]["yaxis"]["title"]["text"] == "Degradation ratio"
    assert list(curve["data"][0]["y"])[-1] == pytest.approx(1.0)


def test_one_output_can_be_ranked_by_alone() -> None:
    app = page("sensitivity/sensitivity", {**LINK, "metric": "scores: KL divergence"})
    (report,) = make_run().sensitivities
    found = texts(app)

    worst = max(report.layers, key=lambda layer: layer.outputs[1].value)
    assert f"{worst.name} matters most" in found
    assert "by scores" not in found.partition("matters most")[2].partition("\n")[0]


def test_what_if_has_each_output_beside_the_ratio() -> None:
    app = page("what_if/what_if", {**LINK, "whatif": "444"})
    found, (point,) = texts(app), make_prediction().measured
    assert point.measured is not None

    four = point.measured
    assert [metric.label for metric in app.metric][:4] == [
        "Accuracy of scores, measured",
        "degradation ratio, measured",
        "boxes: NMSE, measured",
        "scores: KL (nats), measured",
    ]
    values = {metric.label: metric.value for metric in app.metric}
    assert values["boxes: NMSE, measured"].startswith(f"{four.outputs[0].degradation:.3f}"[:5])
    table = app.dataframe[0].value.set_index("Configuration")
    assert "predicted" in table.loc["This configuration", "scores: KL (nats)"]
    assert table.loc["Float model", "boxes: NMSE"].startswith("0")
    shares = "of what the fully quantized model does to an output (largest of `boxes`, `scores`)"
    assert shares in found
    assert "degradation ratio" in found.partition("trunk")[2]


def test_what_a_layer_does_alone_is_the_largest_share_everywhere() -> None:
    run, prediction = make_run(), make_prediction()
    report = prediction.response.report
    own, _ = prediction.configuration_of(run.recipe)
    effects = layer_effects(run, prediction)
    for layer in run.sensitivities[0].layers:
        choice = (layer.name, own[layer.name])
        score = prediction.score(dict([choice]))
        shares = [
            one.degradation / (output.reference or 1.0)
            for one, output in zip(score.outputs, report.outputs, strict=True)
        ]
        assert prediction.alone[choice] == pytest.approx(max(shares))
        # Measured on the same samples, against the same reference.
        assert effects.of(*choice).is_measured
        assert effects.of(*choice).degradation == pytest.approx(layer.value, rel=1e-6)
    predicted = effects_under(prediction, run.recipe)
    assert set(predicted.decided_by.values()) <= {"boxes", "scores"}
    culprit = find_culprit(run.report, run.sensitivities)
    assert culprit is not None
    assert re.fullmatch(r"degradation ratio [\d.]+ \((boxes|scores)\)", culprit.text)


def test_the_own_analysis_counts_as_measured_for_every_output() -> None:
    run, prediction = make_run(), with_run(make_run(), make_prediction())
    own, _ = prediction.configuration_of(run.recipe)
    row = make_row("run", own, prediction)

    values = [output.value for output in run.report.outputs]
    assert row.measured is not None
    assert [score.degradation for score in row.measured.outputs] == pytest.approx(values)
    # It is the fully quantized model itself, which ratios are shares of.
    assert row.measured.degradation == pytest.approx(1.0, rel=1e-6)
    assert row.measured.accuracy == run.report.outputs[1].accuracy_quantized


def test_files_have_a_column_for_each_output() -> None:
    run, prediction = make_run(), make_prediction()
    (point,) = prediction.measured
    row = make_row("four", point.as_dict(), prediction)
    (data,) = data_rows([row], prediction)
    assert point.measured is not None

    assert data["measured_degradation_ratio"] == point.measured.degradation
    names = ("boxes_output_nmse", "scores_kl_divergence_nats")
    for name, score in zip(names, point.measured.outputs, strict=True):
        assert data[f"measured_{name}"] == score.degradation
        assert data[f"predicted_{name}"] > 0.0
    first = layer_data_rows(prediction, point.as_dict())[0]
    assert first["predicted_boxes_output_nmse_alone"] > 0.0
    found = json.loads(to_json(run, row, prediction))["measured"]["outputs"]
    assert [output["name"] for output in found] == ["boxes", "scores"]
    heads = to_layer_csv(run.report, run.sensitivities).decode("utf-8-sig").splitlines()[0]
    for column in ("degradation_ratio", "boxes_output_nmse", "scores_kl_divergence_nats_low"):
        assert f"one_at_a_time_{column}" in heads
    assert "one_at_a_time_output_nmse" not in heads
    text = to_html(run.report, run.sensitivities).decode()
    assert f"<p>Judged on 60 samples: {JUDGED}.</p>" in text
    assert "boxes: Output NMSE" in text
    assert "scores: KL divergence" in text


def test_compare_has_a_row_for_each_output() -> None:
    app = page("compare/compare", PAIR)
    names = [one.name for one in outcomes(make_run(), make_run(OTHER))]

    assert names[:4] == [
        "Degradation of boxes",
        "Right answers of scores",
        "Same answer as float of scores",
        "Degradation of scores",
    ]
    assert "Degradation of boxes" in texts(app)
    assert "scores: B against A" in texts(app)


def test_a_change_that_harms_one_output_is_worse() -> None:
    report = make_run().report
    boxes, scores = report.outputs
    kl = scores.kl_divergence
    assert kl is not None
    scores = replace(scores, kl_interval=(0.9 * kl, 1.1 * kl))
    before = replace(report, outputs=(boxes, scores))
    less = replace(scores, kl_divergence=kl / 2)
    broken = replace(boxes, error=replace(boxes.error, nmse=1.0))

    assert effect_on_all(before, before) == "none"
    assert effect_on_all(before, replace(report, outputs=(boxes, less))) == "better"
    assert effect_on_all(before, replace(report, outputs=(broken, less))) == "worse"


def test_a_list_of_runs_shows_no_accuracy_of_one_output() -> None:
    assert make_run().summary().accuracy_quantized is None
