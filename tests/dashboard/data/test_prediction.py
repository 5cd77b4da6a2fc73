"""Predictions: configurations as text and as recipes, files, the store, and the figures."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dashboard.data.prediction import (
    FLOAT_LETTER,
    LETTERS,
    Prediction,
    bare_settings,
    options_of,
    prediction_id,
    widths_of,
)
from dashboard.data.prediction_files import pack_prediction, unpack_prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.store import PredictionStore
from dashboard.data.sweeps import Sweep
from dashboard.facts.accuracy import share_interval
from dashboard.facts.configurations import (
    compare_rows,
    data_rows,
    describe_choice,
    is_trusted,
    layer_data_rows,
    make_row,
    predicted_text,
    ratio_text,
    table_row,
    to_json,
    trust_text,
    with_run,
)
from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.proxies import measure_agreement, predicted_proxy
from dashboard.figures.kit.theme import NEUTRAL
from dashboard.figures.what_if.frontier import (
    CURRENT,
    FRONTIER,
    UNIFORM,
    chart_points,
    describe_frontier,
    frontier_figure,
    frontier_rows,
)
from dashboard.figures.what_if.trust import RANDOM, trust_picture, trust_rows
from dashboard.words.degradation import KL, NMSE
from dashboard.words.formatting import format_number, format_within
from dashboard.work import prediction_service, service
from quant_engine import analyze
from quant_engine.errors import SchemeError, StorageError
from quant_engine.report import ConfigurationPoint
from quant_engine.response.agreement import as_pairs, draw_random
from quant_engine.scheme import (
    ADAROUND,
    BIAS_CORRECTION,
    GPTQ,
    OUTPUT_MSE,
    AdaRound,
    BiasCorrection,
    Gptq,
    LayerScheme,
    OutputMse,
    Recipe,
    Remedy,
    SmoothQuant,
    TensorScheme,
)
from quant_engine.variants.options import name_options
from sample_models import load_model
from tests.dashboard.gptq_case import GPTQ_MODEL, Quiet, predict_with_gptq

MODEL = "cnn"
METRIC = KL


@pytest.fixture
def prediction() -> Prediction:
    found = prediction_service.example_prediction(MODEL)
    assert found is not None
    return found


@pytest.fixture
def run() -> Run:
    found = service.example_run(MODEL)
    assert found is not None
    return found


def option(prediction: Prediction, bits: int) -> str:
    return next(o.name for o in prediction.response.report.options if o.scheme.weight.bits == bits)


def test_runs_that_differ_in_single_layers_share_a_prediction() -> None:
    settings = Settings(MODEL)
    changed = replace(settings, recipe=settings.recipe.with_excluded("a").with_layer_bits("b", 4))
    assert prediction_id(changed) == prediction_id(settings)
    assert not bare_settings(changed).recipe.exclude_layers
    assert prediction_id(replace(settings, seed=1)) != prediction_id(settings)
    assert prediction_id(Settings("mlp")) != prediction_id(settings)


def test_what_layers_gptq_rounds_is_chosen_and_how_it_does_is_not() -> None:
    settings = Settings(MODEL)

    def treated(remedy: Remedy) -> Settings:
        return replace(settings, recipe=settings.recipe.with_remedy(remedy))

    assert bare_settings(treated(Gptq(("a", "b")))) == settings
    assert bare_settings(treated(Gptq(("a",), 0.1))) == treated(Gptq(damping=0.1))
    assert bare_settings(treated(SmoothQuant())) == treated(SmoothQuant())


def test_the_bits_of_the_recipe_can_be_chosen_whatever_they_are() -> None:
    assert widths_of(Recipe(TensorScheme(bits=5), None)) == (8, 6, 5, 4, 3, 2)
    options = name_options(options_of(Recipe(TensorScheme(bits=5), None))).values()
    widths: dict[tuple[int | None, tuple[str, ...]], list[int]] = {}
    for option in options:
        weight = option.scheme.weight
        widths.setdefault((weight.group_size, option.remedies), []).append(weight.bits)
    assert widths == {
        (None, ()): [8, 6, 5, 4, 3, 2],
        (None, (GPTQ,)): [5, 4, 3, 2],
        (None, (BIAS_CORRECTION,)): [4, 3, 2],
        (None, (GPTQ, BIAS_CORRECTION)): [4, 3, 2],
        (32, ()): [4, 3, 2],
        (32, (GPTQ,)): [4, 3, 2],
        (None, (OUTPUT_MSE,)): [4, 3, 2],
        (None, (OUTPUT_MSE, GPTQ)): [4, 3, 2],
    }


def test_a_recipe_in_groups_is_offered_no_other_groups() -> None:
    recipe = Recipe(TensorScheme(4, granularity="per_group", group_size=16))
    found = name_options(options_of(recipe)).values()
    assert {option.scheme.weight.group_size for option in found} == {16}


def test_text_is_one_letter_a_layer_and_comes_back(prediction: Prediction) -> None:
    layers = prediction.response.layers
    configuration = {layers[0]: option(prediction, 4), layers[2]: option(prediction, 2)}
    text = prediction.to_text(configuration)
    assert text == "4f2" + "f" * (len(layers) - 3)
    assert prediction.from_text(text) == configuration


@pytest.mark.parametrize("text", ["", "8", "9999999", "fffffff ", "FFFFFFF", "５555555", "8" * 400])
def test_text_that_does_not_fit_is_no_configuration(prediction: Prediction, text: str) -> None:
    assert prediction.from_text(text) is None


def test_every_configuration_is_a_recipe_and_comes_back(
    prediction: Prediction, rng: np.random.Generator
) -> None:
    response = prediction.response
    for drawn in draw_random(response.layers, response.options, 20, rng):
        configuration = dict(as_pairs(drawn))
        recipe = prediction.recipe_of(configuration)
        assert prediction.configuration_of(recipe) == (configuration, ())


def test_all_layers_at_the_recipes_own_bits_are_the_plain_recipe(prediction: Prediction) -> None:
    everything = prediction.uniform(option(prediction, 8))
    assert prediction.recipe_of(everything) == Settings(MODEL).recipe
    first = prediction.response.layers[0]
    mixed = prediction.recipe_of({**everything, first: option(prediction, 4)})
    assert list(mixed.overrides) == [first]


def test_a_scheme_that_is_no_option_has_a_stand_in(prediction: Prediction) -> None:
    first = prediction.response.layers[0]
    own = LayerScheme(TensorScheme(bits=5, observer="mse"), None)
    recipe = Recipe.default().with_override(first, own)
    configuration, stand_ins = prediction.configuration_of(recipe)
    assert stand_ins == (first,)
    assert configuration[first] in (option(prediction, 4), option(prediction, 6))


def test_the_degradation_of_a_layer_alone_is_its_score(prediction: Prediction) -> None:
    for (layer, chosen), degradation in prediction.alone.items():
        assert degradation == pytest.approx(
            prediction.response.score({layer: chosen}).degradation, rel=1e-9
        )


def test_a_file_holds_everything(prediction: Prediction) -> None:
    found = unpack_prediction(pack_prediction(prediction))
    assert found.frontier == prediction.frontier
    assert found.measured == prediction.measured
    configuration = prediction.uniform(option(prediction, 3))
    assert found.score(configuration) == prediction.score(configuration)


def test_a_small_file_is_smaller_and_predicts_nearly_the_same(
    prediction: Prediction, rng: np.random.Generator
) -> None:
    data = pack_prediction(prediction, is_small=True)
    assert len(data) < len(pack_prediction(prediction)) / 2
    found = unpack_prediction(data)
    response = prediction.response
    for configuration in draw_random(response.layers, response.options, 20, rng):
        expected = response.score(configuration)
        assert found.response.score(configuration).degradation == pytest.approx(
            expected.degradation, rel=1e-4
        )
        assert found.response.size(configuration) == expected.size


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_half_a_file_is_refused(prediction: Prediction, cut: int) -> None:
    with pytest.raises(StorageError):
        unpack_prediction(pack_prediction(prediction)[:cut])


def test_a_response_without_points_is_refused(prediction: Prediction) -> None:
    with pytest.raises(StorageError):
        unpack_prediction(prediction.response.to_bytes())


def test_the_store_keeps_over_a_restart_and_drops_the_oldest(
    prediction: Prediction, tmp_path: Path
) -> None:
    store = PredictionStore(tmp_path, max_files=2)
    for key in "abc":
        store.put(key, prediction)
    again = PredictionStore(tmp_path)
    assert again.get("a") is None
    found = again.get("c")
    assert found is not None
    assert found.frontier == prediction.frontier


def test_a_broken_file_is_spared_until_it_is_replaced(
    prediction: Prediction, tmp_path: Path
) -> None:
    store = PredictionStore(tmp_path, max_files=1)
    path = store.folder / "a.prediction.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK nonsense")
    assert store.get("a") is None
    store.put("b", prediction)
    assert path.exists()

    store.put("a", prediction)  # it can be read now, and counts like any other
    assert [kept.name for kept in store.folder.iterdir()] == [path.name]
    store.put("c", prediction)
    assert [kept.name for kept in store.folder.iterdir()] == ["c.prediction.npz"]


def test_the_store_survives_a_broken_file_and_a_full_disk(
    prediction: Prediction, tmp_path: Path
) -> None:
    store = PredictionStore(tmp_path)
    store.put("a", prediction)
    (path,) = store.folder.iterdir()
    path.write_bytes(b"PK nonsense")
    assert PredictionStore(tmp_path).get("a") is None
    blocked = PredictionStore(tmp_path / "file")
    (tmp_path / "file").write_text("in the way")
    blocked.put("a", prediction)
    assert blocked.get("a") is prediction
    assert blocked.problem is not None


def test_a_newer_run_replaces_an_older_one(prediction: Prediction) -> None:
    point = prediction.measured[0]
    assert point.measured is not None
    outputs = (replace(point.measured.outputs[0], degradation=1.25),)
    other = replace(point, measured=replace(point.measured, kl_divergence=1.25, outputs=outputs))
    changed = prediction.with_measured([other])
    assert len(changed.measured) == len(prediction.measured)
    score = changed.measured_score(point.as_dict())
    assert score is not None
    assert score.degradation == 1.25


@pytest.mark.parametrize(("by", "budget"), [("bits", 4.5), ("float_layers", 1), ("bytes", 60_000)])
def test_the_best_keeps_to_its_budget(prediction: Prediction, by: str, budget: float) -> None:
    found = prediction_service.find_best(prediction, by, budget)
    size = prediction.score(found).size
    floats = len(prediction.response.layers) - len(found)
    spent = {"bits": size.weight_bits, "float_layers": floats, "bytes": size.model_bytes}[by]
    assert spent <= budget


def test_a_budget_that_nothing_keeps_to_names_the_least(prediction: Prediction) -> None:
    with pytest.raises(SchemeError, match="the least"):
        prediction_service.find_best(prediction, "bytes", 10)


def test_the_chart_holds_frontier_uniform_and_current(prediction: Prediction) -> None:
    own = prediction.uniform(option(prediction, 8))
    current = {prediction.response.layers[0]: option(prediction, 2)}
    points = chart_points(prediction, current, own)
    groups = [point.group for point in points]
    assert groups.count(FRONTIER) == len(prediction.frontier.points)
    assert groups.count(UNIFORM) == len(prediction.letters)
    assert points[-1].group == CURRENT
    assert points[-1].text == prediction.to_text(current)
    figure = frontier_figure(points, METRIC)
    assert figure.layout.yaxis.type == "log"
    assert all(value > 0 for trace in figure.data for value in trace.y if value is not None)
    for trace in figure.data:
        for text in trace.customdata if trace.customdata is not None else ():
            assert prediction.from_text(text) is not None
    measured = next(trace for trace in figure.data if trace.name == "measured")
    assert len(measured.x) == sum(point.measured is not None for point in points)
    assert len(frontier_rows(points, METRIC)) == len(points)


def test_whiskers_span_the_interval_of_what_was_measured(prediction: Prediction) -> None:
    layer = prediction.response.layers[0]
    configuration = {layer: option(prediction, 2)}
    predicted = prediction.score(configuration)
    outputs = (replace(predicted.outputs[0], degradation=0.02),)
    score = replace(predicted, kl_divergence=0.02, interval=(0.015, 0.03), outputs=outputs)
    known = prediction.with_measured(
        [ConfigurationPoint(tuple(configuration.items()), predicted, score)]
    )
    points = chart_points(known, configuration, {})
    trace = next(t for t in frontier_figure(points, METRIC).data if t.name == "measured")
    place = list(trace.customdata).index(known.to_text(configuration))
    assert trace.error_y.array[place] == pytest.approx(0.01)
    assert trace.error_y.arrayminus[place] == pytest.approx(0.005)
    row = next(r for r in frontier_rows(points, METRIC) if r["what"] == CURRENT)
    assert (row["measured_kl_divergence_nats_low"], row["measured_kl_divergence_nats_high"]) == (
        0.015,
        0.03,
    )


def test_a_point_above_the_frontier_is_told_what_beats_it(prediction: Prediction) -> None:
    worst = {name: option(prediction, 2) for name in prediction.response.layers[:-1]}
    own = prediction.uniform(option(prediction, 8))
    assert "do better, predicted: " in describe_frontier(
        chart_points(prediction, worst, own), METRIC
    )
    bare = replace(prediction, measured=())
    best = prediction.frontier.points[5].as_dict()
    assert "Nothing predicted on the frontier" in describe_frontier(
        chart_points(bare, best, own), METRIC
    )
    smallest = min(prediction.frontier.points, key=lambda p: p.predicted.size.model_bytes).as_dict()
    assert "Nothing measured on the frontier" in describe_frontier(
        chart_points(prediction, smallest, own), METRIC
    )


def test_the_frontier_is_grey_beyond_where_predictions_hold(prediction: Prediction) -> None:
    points = chart_points(prediction, {}, {})
    limit = prediction.region.limit
    frontier = [point for point in points if point.group == "frontier"]
    beyond = [p.predicted for p in frontier if p.predicted > limit]
    assert beyond
    assert len(beyond) < len(frontier)

    figure = frontier_figure(points, METRIC, limit=limit)
    (trusted,) = [trace for trace in figure.data if trace.name == "frontier"]
    (grey,) = [trace for trace in figure.data if trace.name == "frontier, not reliable"]
    assert max(trusted.y) <= limit < min(grey.y)
    assert sorted(grey.y) == sorted(beyond)
    assert (grey.line.dash, grey.line.color) == ("dot", NEUTRAL)
    (ground,) = figure.layout.shapes
    assert ground.y0 == limit

    nowhere = frontier_figure(points, METRIC, limit=0.0)
    assert "not reliable" in nowhere.layout.title.text
    assert not frontier_figure(points, METRIC).layout.shapes
    (ground,) = trust_picture(prediction).figure.layout.shapes
    assert ground.y0 == limit


def test_beyond_the_region_numbers_have_one_digit_and_a_mark(prediction: Prediction) -> None:
    limit = prediction.region.limit
    assert predicted_text(limit * 0.987, prediction) == format_number(limit * 0.987, 2)
    assert predicted_text(limit * 1.234, prediction) == f"≈ {format_number(limit * 1.234, 1)}"
    assert predicted_text(0.0, prediction) == "0"
    assert predicted_text(limit / 2, with_level(prediction, "poor")).startswith("≈ ")
    text = trust_text(prediction)
    assert text.startswith(f"Predictions hold up to KL {limit:g} nats: ")


def test_the_scatter_shows_what_was_compared(prediction: Prediction) -> None:
    agreement = prediction.response.agreement
    figure = trust_picture(prediction).figure
    random = next(trace for trace in figure.data if trace.name == RANDOM)
    shown = [p for p in agreement.random_points if p.predicted > 0 and p.measured > 0]
    assert list(random.x) == [p.measured for p in shown]
    assert list(random.y) == [p.predicted for p in shown]
    diagonal = figure.data[0]
    assert list(diagonal.x) == list(diagonal.y)
    count = agreement.single.count + agreement.random.count + len(prediction.measured)
    assert len(trust_rows(prediction)) == count


@pytest.mark.parametrize(
    ("level", "trusted"), [("good", 1), ("rough", 1), ("poor", 0), ("unknown", 0)]
)
def test_what_is_trusted(prediction: Prediction, level: str, trusted: int) -> None:
    assert is_trusted(with_level(prediction, level)) == bool(trusted)


def with_level(prediction: Prediction, level: str) -> Prediction:
    report = prediction.response.report
    changed = replace(report, agreement=replace(report.agreement, level=level))
    return replace(prediction, response=replace(prediction.response, report=changed))


def test_the_run_shown_is_measured_by_its_own_analysis(prediction: Prediction, run: Run) -> None:
    unmeasured = replace(prediction, measured=())
    own, _ = unmeasured.configuration_of(run.recipe)
    first = unmeasured.response.layers[0]
    known = with_run(run, unmeasured)
    assert with_run(run, unmeasured) is known
    floats, shown, this = compare_rows(run, known, {**own, first: option(prediction, 2)})
    assert run.report.output is not None
    assert floats.measured is not None
    assert floats.measured.degradation == 0
    assert shown.measured is not None
    assert shown.measured.degradation == run.report.output.kl_divergence
    assert shown.predicted.size.model_bytes == run.report.size.quantized_bytes  # type: ignore[union-attr]
    assert this.measured is None
    partial = replace(run, report=replace(run.report, is_partial=True))
    assert compare_rows(partial, with_run(partial, unmeasured), own)[1].measured is None
    assert compare_rows(run, known, own)[2].measured == shown.measured
    (point,) = [p for p in chart_points(known, own, own) if p.group == CURRENT]
    assert point.measured == shown.measured.degradation
    assert "answers change (measured KL divergence" in describe_frontier(
        chart_points(known, own, own), METRIC
    ) or "no answer changes (measured KL divergence" in describe_frontier(
        chart_points(known, own, own), METRIC
    )
    reference = run.sensitivities[0].reference
    assert reference is not None
    assert shown.measured.interval == pytest.approx(reference.interval, rel=1e-4)


def test_the_float_model_is_named_after_what_makes_it_smaller(
    prediction: Prediction, run: Run
) -> None:
    size = run.report.size
    assert size is not None
    for added, name in ((0, "Float model"), (64, "Float, BatchNorm folded")):
        float_bytes = prediction.response.size({}).model_bytes + added
        given = replace(size, float_bytes=float_bytes)
        report = replace(run.report, size=given)
        assert compare_rows(replace(run, report=report), prediction, {})[0].name == name


def test_amounts_carry_their_unit(prediction: Prediction) -> None:
    own = prediction.uniform(prediction.response.options[0])
    points = chart_points(prediction, own, own)
    assert re.search(r"predicted KL divergence [\d.e−-]+ nats\)", describe_frontier(points, METRIC))
    hover = [
        text for trace in frontier_figure(points, METRIC).data for text in trace.hovertext or ()
    ]
    assert all(re.search(r"<br>predicted: [\d.e−-]+ nats<br>", text) for text in hover)
    measured = [text for text in hover if "not run" not in text]
    assert measured
    assert all(re.search(r"measured KL divergence: [\d.e−-]+ nats", text) for text in measured)
    without = frontier_figure(points, NMSE)
    assert not any("nats" in text for trace in without.data for text in trace.hovertext or ())


def test_rows_say_what_was_measured_and_how_surely(prediction: Prediction) -> None:
    row = make_row("x", prediction.frontier.points[0].as_dict(), prediction)
    assert row.measured is not None
    assert row.measured.accuracy is not None
    assert row.measured.degradation
    cells = table_row(row, prediction)
    interval = share_interval(row.measured.accuracy, prediction.response.report.samples)
    assert interval is not None
    low, high = interval
    measured, predicted = cells["Accuracy"].split(", predicted ")
    assert float(predicted.removesuffix(" %")) == pytest.approx(
        100 * row.predicted.accuracy, abs=0.01
    )
    assert measured.startswith(f"{100 * row.measured.accuracy:.2f}".rstrip("0").rstrip("."))
    ends = "–".join(f"{100 * edge:.1f}".removesuffix(".0") for edge in interval)
    assert measured.endswith(f" % ({ends})")
    unknown = table_row(replace(row, measured=None), prediction)
    assert unknown["KL (nats)"].startswith("predicted ")
    assert unknown["Accuracy"] == f"predicted {predicted}"
    # What was measured is rounded by its own interval, wherever predictions hold.
    measured, predicted = cells["KL (nats)"].split(", predicted ")
    assert measured == format_within(row.measured.degradation, row.measured.interval)
    assert low < row.measured.accuracy < high
    ratio = row.predicted.degradation / row.measured.degradation
    assert float(ratio_text(row).split()[0]) == pytest.approx(ratio, rel=0.06)
    assert ratio_text(replace(row, measured=None)) == "–"
    (data,) = data_rows([row], prediction)
    assert data["measured_kl_divergence_nats"] == row.measured.degradation


def test_the_download_holds_a_recipe_that_does_the_same(prediction: Prediction, run: Run) -> None:
    configuration = prediction.frontier.points[3].as_dict()
    data = json.loads(to_json(run, make_row("x", configuration, prediction), prediction))
    recipe = Recipe.from_dict(data["recipe"])
    assert prediction.configuration_of(recipe)[0] == configuration
    assert data["predicted"]["kl_divergence"] == prediction.score(configuration).degradation
    rows = layer_data_rows(prediction, configuration)
    assert [row["layer"] for row in rows] == list(prediction.response.layers)


def test_a_choice_in_words_counts_every_layer(prediction: Prediction) -> None:
    layers = prediction.response.layers
    text = describe_choice(prediction, {layers[0]: option(prediction, 4)})
    assert text == f"{len(layers) - 1} × float, 1 × 4 bits"


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_the_prediction_is_one_more_cheap_number(
    prediction: Prediction, run: Run, direction: str
) -> None:
    sensitivity = run.sensitivity_for(Sweep(direction))
    assert sensitivity is not None
    proxy = predicted_proxy(prediction, run.recipe, direction)
    agreement = measure_agreement(run.report, sensitivity, METRICS["kl_divergence"], proxy)
    assert agreement.spearman is not None
    assert agreement.spearman > 0.7  # the other sign would be near -1
    assert len(agreement.pairs) == len(sensitivity.layers)


def test_verifying_measures_what_the_frontier_says(prediction: Prediction) -> None:
    point = prediction.measured[2]
    (found,) = prediction_service.verify(Settings(MODEL), prediction, [point.as_dict()], Quiet())
    assert isinstance(found, ConfigurationPoint)
    assert found.measured is not None
    assert point.measured is not None
    assert found.measured.degradation == pytest.approx(point.measured.degradation, rel=1e-3)
    assert math.isfinite(found.predicted.degradation)


def test_a_measured_search_runs_the_few_that_are_predicted_best(prediction: Prediction) -> None:
    told: list[str] = []

    class Listening:
        def progress(self, done: int, total: int, text: str) -> None:
            told.append(text)

        def on_update(self, snapshot: object) -> None: ...

    settings, most = Settings(MODEL), 100_000
    found = prediction_service.search_measured(settings, prediction, "bytes", most, Listening())
    by_prediction = prediction_service.find_best(prediction, "bytes", most)

    assert 1 < len(found) <= prediction_service.CANDIDATES
    assert by_prediction in [point.as_dict() for point in found]
    measured = [point.measured for point in found if point.measured is not None]
    assert len(measured) == len(found)
    assert measured == sorted(measured, key=lambda score: score.degradation)
    assert all(score.size.model_bytes <= most for score in measured)
    assert any(text.startswith("run the chosen models") for text in told)


def test_choices_by_gptq_have_letters_words_and_a_twin() -> None:
    prediction = predict_with_gptq()
    layers, options = prediction.response.layers, prediction.response.options
    four = option(prediction, 4)
    ways = {prediction.way_words(way): way for way in prediction.ways}
    by_gptq = prediction.twin(layers[0], four, ways["GPTQ"])

    assert len(options) == 27
    assert list(prediction.letters.values()) == list("f86432HDCBKJIRQPihgponcbayxw")
    assert list(ways) == [
        *("nearest code", "GPTQ", "bias", "GPTQ + bias", "groups of 32", "groups of 32 + GPTQ"),
        *("narrow ranges", "narrow ranges + GPTQ"),
    ]
    assert by_gptq == f"{four}, GPTQ"
    assert prediction.words(by_gptq) == "4 bits GPTQ"
    assert prediction.twin(layers[0], by_gptq, ways["nearest code"]) == four
    grouped = prediction.twin(layers[0], by_gptq, ways["groups of 32 + GPTQ"])
    assert prediction.words(grouped) == "4 bits groups of 32 + GPTQ"
    assert prediction.twin(layers[0], option(prediction, 6), ways["GPTQ"]) is None
    assert prediction.twin(layers[0], "float", ways["GPTQ"]) is None
    assert prediction.ways_of(layers[0], option(prediction, 6)) == (ways["nearest code"],)
    assert prediction.ways_of(layers[0], four) == tuple(ways.values())
    chosen = {layers[0]: by_gptq, layers[1]: four}
    assert prediction.from_text(prediction.to_text(chosen)) == chosen
    assert describe_choice(prediction, chosen) == "1 × float, 1 × 4 bits, 1 × 4 bits GPTQ"
    again = unpack_prediction(pack_prediction(prediction, is_small=True))
    assert again.letters == prediction.letters


def test_adaround_is_a_choice_only_where_the_recipe_has_it_for_layers_by_themselves() -> None:
    alone = AdaRound(layers=("fc1",), steps=50, is_sequential=False)
    recipe = Recipe.default().with_remedy(alone)
    others = options_of(Recipe.default())

    assert {c.remedies for name, c in options_of(recipe).items() if name not in others} == {
        (ADAROUND,)
    }
    assert options_of(Recipe.default().with_remedy(AdaRound())) == others
    bare = bare_settings(Settings(MODEL, recipe)).recipe
    assert bare.remedies == (replace(alone, layers=("*",)),)
    usual = Recipe.default().with_remedy(AdaRound(is_sequential=False))
    assert bare_settings(Settings(MODEL, usual)).recipe == usual
    letters = "".join(LETTERS.values())
    assert len(set(letters) - {FLOAT_LETTER}) == len(letters) == 7 * len(LETTERS)


def test_a_choice_by_gptq_is_a_recipe_that_measures_what_verifying_does() -> None:
    """The page's Use this and its Verify, beside each other and beside what was predicted."""
    prediction, settings = predict_with_gptq(), Settings(GPTQ_MODEL)
    layers = prediction.response.layers
    four, three = option(prediction, 4), option(prediction, 3)
    chosen = {
        layers[0]: f"{three}, GPTQ + bias correction",
        layers[1]: f"{four}, groups of 32",
        layers[2]: f"{four}, narrow ranges + GPTQ",
    }

    recipe = prediction.recipe_of(chosen)
    (point,) = prediction_service.verify(settings, prediction, [chosen], Quiet())
    report = analyze(
        load_model(GPTQ_MODEL),
        service.calibration_batches(settings),
        recipe,
        evaluation_data=service.evaluation_batches(GPTQ_MODEL),
        measure_time=False,
    )

    assert recipe.remedies == (
        OutputMse(layers=(layers[2],)),
        Gptq(layers=(layers[0], layers[2])),
        BiasCorrection(layers=(layers[0],), is_sequential=False),
    )
    assert recipe.overrides[layers[1]].weight.group_size == 32
    assert prediction.configuration_of(recipe) == (chosen, ())
    assert point.measured is not None
    assert report.output is not None
    assert report.output.kl_divergence == pytest.approx(point.measured.kl_divergence, rel=1e-6)
    assert point.predicted.degradation == pytest.approx(point.measured.degradation, rel=0.5)
    budget = prediction.score(prediction.uniform(three)).size.model_bytes
    found = prediction_service.find_best(prediction, "bytes", budget)
    assert any(name.endswith("GPTQ") for name in found.values())


def test_a_prediction_without_gptq_has_stand_ins_for_it(prediction: Prediction) -> None:
    recipe = Recipe.default().with_remedy(Gptq())
    configuration, stand_ins = prediction.configuration_of(recipe)
    assert stand_ins == prediction.response.layers
    assert configuration == prediction.uniform(option(prediction, 8))


def test_a_run_with_corrected_biases_is_not_what_was_predicted(
    prediction: Prediction, run: Run
) -> None:
    corrected = Recipe.default().with_remedy(BiasCorrection())
    bare = replace(prediction, measured=())
    assert with_run(run, bare).measured
    other = replace(run, settings=replace(run.settings, recipe=corrected))
    assert not with_run(other, bare).measured
