"""Embeddings, masks and functions of the caller's: each in its own measure, on every page."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.prediction import prediction_id
from dashboard.export.files import to_html, to_layer_csv
from dashboard.facts.accuracy import agreement_text, output_change, right_text
from dashboard.facts.compare.compared_layers import available_metrics as compared_metrics
from dashboard.facts.configurations import make_row, with_run
from dashboard.facts.diagnosis.culprit import find_culprit, output_effects
from dashboard.facts.output_change import effect, output_text
from dashboard.facts.outputs import degradation_of
from dashboard.facts.sensitivity.layer_effects import layer_effects
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.figures.compare.pair import pair
from dashboard.figures.layers.four_errors import four_errors_picture, run_series
from dashboard.figures.sensitivity.cumulative import cumulative_picture
from dashboard.session.jobs import store
from dashboard.session.predictions import predictions
from dashboard.words.degradation import COSINE, MEAN_IOU, PEAK_ERROR, degradation_by
from tests.dashboard.app_harness import assert_alive, figures, open_app, texts
from tests.dashboard.other_outputs import OTHER, SETTINGS, make_prediction, make_run

LINK = {"run": "mlp int8_per_tensor"}
MEASURES = {"embedding": COSINE, "mask": MEAN_IOU, "function": degradation_by("farthest")}
NOT_ITS_OWN = r"\bKL\b|\bnats\b|Same answer|Accuracy, float|loss of accuracy|probabilit"


def page(name: str, run: str) -> AppTest:
    store().put(make_run(run))
    app = open_app(LINK, page=f"views/{name}.py")
    assert_alive(app)
    return app


@pytest.mark.parametrize("name", MEASURES)
def test_layers_are_blamed_in_what_the_output_is_judged_by(name: str) -> None:
    run, measure = make_run(name), MEASURES[name]
    (report,) = run.sensitivities
    effects = output_effects(run.report, run.sensitivities)

    assert effects is not None
    assert effects.measure is measure
    for layer in report.layers:
        lost = layer.value if name == "function" else 1.0 - layer.value
        assert effects.values[layer.name] == pytest.approx(lost, abs=1e-12)
    culprit = find_culprit(run.report, run.sensitivities)
    assert culprit is not None
    assert culprit.name == report.rankings[0].layers[0]
    assert culprit.text.startswith(f"{measure.short} ")
    picture = four_errors_picture(run_series(run.report, effects))
    assert measure.about in " ".join(picture.about)
    assert picture.figure.layout.xaxis4.title.text == f"<b>Output</b><br>{measure.head}"
    assert measure.column in picture.rows()[0]


@pytest.mark.parametrize("name", MEASURES)
def test_the_ranking_and_the_curve_show_what_is_lost(name: str) -> None:
    run, measure = make_run(name), MEASURES[name]
    (report,) = run.sensitivities
    metric = available_metrics(report)[0]

    assert (metric.key, metric.label) == (measure.key, measure.label)
    assert metric.is_higher_worse
    for layer in report.layers:
        value, interval = metric.value(layer), metric.interval(layer, report)
        assert value is not None
        assert interval is not None
        assert value == pytest.approx(measure.of_value(layer.value))
        assert sorted(map(measure.of_value, layer.interval)) == list(interval)
    picture = cumulative_picture(report)
    assert picture.figure.layout.yaxis.title.text == measure.heading
    last = picture.rows()[-1]
    assert report.reference is not None
    assert last[measure.column] == pytest.approx(measure.of_value(report.reference.value))


@pytest.mark.parametrize("name", MEASURES)
def test_two_runs_are_compared_in_what_they_are_judged_by(name: str) -> None:
    a, b, measure = make_run(name), make_run(name, OTHER), MEASURES[name]
    assert a.report.output is not None
    assert b.report.output is not None
    found, value, interval = degradation_of(a.report.output)

    assert found is measure
    assert value is not None
    assert interval is not None
    assert interval[0] <= value <= interval[1]
    assert output_text(a.report.output).startswith(f"{measure.short} ")
    worse = replace(a.report.output, value=0.5 if name != "function" else 10 * value)
    assert effect(a.report.output, worse) == "worse"
    effects = tuple(output_effects(run.report, run.sensitivities) for run in (a, b))
    output = next(m for m in compared_metrics(a, b, effects) if m.key == "output")  # type: ignore[arg-type]
    assert output.unit == measure.label
    shown = pair(a, b)
    assert not re.search(r"not kept|right answers", f"{shown.difference} {shown.flipped_text}")


def test_pixels_give_no_interval_of_a_share() -> None:
    output = make_run("mask").report.output
    assert output is not None

    assert output.labelled_samples == 16 * 36
    assert output.accuracy_float == 1.0
    assert right_text(output.accuracy_quantized, output).endswith(" %")
    assert agreement_text(output).endswith(" %")
    assert output_change(output) is None


@pytest.mark.parametrize("name", MEASURES)
def test_an_interval_belongs_to_the_number_it_stands_behind(name: str) -> None:
    run, prediction = make_run(name), with_run(make_run(name), make_prediction(name))
    own, _ = prediction.configuration_of(run.recipe)
    row = make_row("run", own, prediction)

    assert row.measured is not None
    interval = row.measured.interval
    if interval is not None:  # of an NMSE that was not judged there is none
        assert interval[0] <= row.measured.degradation <= interval[1]
    assert (interval is None) == (name == "function")
    for layer, option in own.items():
        found = layer_effects(run, prediction).of(layer, option)
        assert found.is_measured
        if found.interval is not None:
            assert found.interval[0] <= found.degradation <= found.interval[1]


@pytest.mark.parametrize("name", ["start/start", "sensitivity/sensitivity", "what_if/what_if"])
def test_a_page_on_embeddings_speaks_of_cosine_only(name: str) -> None:
    predictions().put(prediction_id(SETTINGS), make_prediction("embedding"))
    app = page(name, "embedding")
    found = texts(app)

    assert "Judged on 40 samples: the output as embeddings by cosine." in found
    assert "1 − cosine" in found
    assert not re.search(NOT_ITS_OWN, found)
    for table in app.dataframe:
        assert not re.search(NOT_ITS_OWN, " ".join(table.value.columns))
    for figure in figures(app):
        assert not re.search(NOT_ITS_OWN, str(figure["layout"]))


def test_the_headline_of_a_mask_has_its_overlap_and_no_interval_over_pixels() -> None:
    found = texts(page("start/start", "mask"))

    output = make_run("mask").report.output
    assert output is not None
    assert "Mean IoU with the float model: " in found
    assert "Culprit (measured): " in found
    (accuracy,) = re.findall(r"Accuracy, float → now: (.*)", found)
    assert not re.search(r"\d+–\d+", accuracy)


@pytest.mark.parametrize("name", ["embedding", "function"])
def test_files_speak_of_what_is_judged(name: str) -> None:
    run = make_run(name)
    html = to_html(run.report, run.sensitivities).decode()
    text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    head = to_layer_csv(run.report, run.sensitivities).decode("utf-8-sig").splitlines()[0]

    assert not re.search(NOT_ITS_OWN, text)
    assert ("Cosine similarity" if name == "embedding" else "farthest") in text
    assert f"one_at_a_time_{'cosine' if name == 'embedding' else 'farthest'}_low" in head


def test_degradations_are_0_for_the_float_model_and_grow() -> None:
    assert COSINE.of_value(1.0 + 1e-15) == 0.0
    assert PEAK_ERROR.of_value(math.inf) == 0.0
    assert PEAK_ERROR.of_value(30.0) == pytest.approx(1e-3)
    assert degradation_by("perplexity").key == "kl_divergence"
