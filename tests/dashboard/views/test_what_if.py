"""The What-if page: every state, every control, and that a choice runs no model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard.data.prediction import Prediction, prediction_id
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.accuracy import share_text
from dashboard.facts.sensitivity.layer_effects import LayerEffect, layer_effects
from dashboard.session.jobs import store
from dashboard.session.predictions import predictions
from dashboard.views.what_if.table import row_text
from dashboard.words.formatting import format_accuracy
from dashboard.work import prediction_service, service
from quant_engine import LogitResponse
from quant_engine.errors import DataError
from quant_engine.report import ConfigurationPoint
from tests.dashboard.app_harness import (
    Held,
    assert_alive,
    button,
    figures,
    link_of,
    open_app,
    texts,
    unescaped,
    use_home,
    wait_for_jobs,
)
from tests.dashboard.gptq_case import GPTQ_MODEL, predict_with_gptq

PAGE = "views/what_if/what_if.py"
MODEL = "cnn"
LINK = {"run": "cnn int8_per_channel"}
SETTINGS = Settings(MODEL)
OTHER = Settings(MODEL, seed=5)
OTHER_LINK = {"run": "cnn int8_per_channel seed:5"}
FOUR = "int4 weights + int8 inputs"


@pytest.fixture
def forwards() -> Iterator[list[str]]:
    """Names of the modules that were called."""
    calls: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: calls.append(type(module).__name__)
    )
    yield calls
    handle.remove()


@pytest.fixture
def example() -> Prediction:
    found = prediction_service.example_prediction(MODEL)
    assert found is not None
    return found


def keep_other_run() -> Run:
    """A run without a stored prediction."""
    stored = service.example_run(MODEL)
    assert stored is not None
    run = Run(OTHER, stored.report, created=stored.created)
    store().put(run)
    return run


def metric(app: AppTest, label: str) -> str:
    (found,) = [m for m in app.metric if m.label == label]
    return str(found.value)


def with_level(prediction: Prediction, level: str, verdict: str) -> Prediction:
    report = prediction.response.report
    changed = replace(report, agreement=replace(report.agreement, level=level, verdict=verdict))
    return replace(prediction, response=replace(prediction.response, report=changed))


def test_the_stored_example_shows_at_once_and_runs_nothing(
    forwards: list[str], example: Prediction
) -> None:
    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert not forwards
    assert len(figures(app)) == 2
    assert "Predictions hold up to KL " in texts(app)
    assert len([c for c in app.segmented_control if c.label.startswith("Bits of")]) == len(
        example.response.layers
    )
    assert "whatif" not in link_of(app)


def test_a_new_visitor_sees_the_first_example() -> None:
    app = open_app(page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 2


def test_a_choice_moves_the_figures_without_running_the_model(
    forwards: list[str], example: Prediction
) -> None:
    app = open_app(LINK, page=PAGE)
    before = {m.label: m.value for m in app.metric}

    app.segmented_control(key="what_if_3").set_value(FOUR).run()

    assert_alive(app)
    assert not forwards
    after = {m.label: m.value for m in app.metric}
    for label in ("Model size", "Bits per weight, codes"):
        assert after[label] != before[label]
    # What was measured for the run shown is not: the new choice was not run.
    assert {"KL (nats), measured", "Accuracy, measured"} <= set(before)
    assert {"KL (nats), predicted", "Accuracy, predicted"} <= set(after)
    layers = example.response.layers
    assert link_of(app)["whatif"] == "888" + "4" + "8" * (len(layers) - 4)
    assert app.session_state["layer"] == layers[3]


def test_a_linked_configuration_opens_as_it_was(example: Prediction) -> None:
    text = example.to_text(example.frontier.points[4].as_dict())

    app = open_app({**LINK, "whatif": text}, page=PAGE)

    assert_alive(app)
    for place, layer in enumerate(example.response.layers):
        chosen = app.segmented_control(key=f"what_if_{place}").value
        assert chosen == example.frontier.points[4].as_dict().get(layer, "float")
    assert link_of(app)["whatif"] == text
    assert button(app, "Verify").disabled  # the frontier of an example was run


@pytest.mark.parametrize("text", ["zz", "8", "9" * 7, "<script>", "8" * 900])
def test_nonsense_in_the_link_falls_back_with_a_notice(text: str) -> None:
    app = open_app({**LINK, "whatif": text}, page=PAGE)

    assert_alive(app)
    assert "The link's whatif is" in texts(app)
    assert len(figures(app)) == 2
    assert app.segmented_control(key="what_if_0").value.startswith("int8")
    app.run()
    assert link_of(app).get("whatif") != text


@pytest.mark.parametrize(("label", "text"), [("All float", "f"), ("All 8", ""), ("All 3", "3")])
def test_presets_fill_the_table(label: str, text: str, example: Prediction) -> None:
    app = open_app({**LINK, "whatif": "4" * len(example.response.layers)}, page=PAGE)

    button(app, label).click().run()

    assert_alive(app)
    expected = text * len(example.response.layers)
    assert link_of(app).get("whatif", "") == expected


def test_gptq_is_one_more_choice_of_a_layer(forwards: list[str]) -> None:
    prediction = predict_with_gptq()
    predictions().put(prediction_id(Settings(GPTQ_MODEL)), prediction)
    forwards.clear()
    app = open_app({"run": f"{GPTQ_MODEL} int8_per_channel", "whatif": "364"}, page=PAGE)
    assert_alive(app)
    ways = [app.selectbox(key=f"what_if_{place}_way") for place in range(3)]
    assert [way.disabled for way in ways] == [False, True, False]
    assert ways[0].options == [
        *("nearest code", "GPTQ", "bias", "GPTQ + bias", "groups of 32", "groups of 32 + GPTQ"),
        *("narrow ranges", "narrow ranges + GPTQ"),
    ]
    assert ways[1].help == "At these bits no more was measured."
    before = metric(app, "KL (nats), predicted")

    ways[0].select_index(1).run()

    assert link_of(app)["whatif"] == "C64"
    assert metric(app, "KL (nats), predicted") != before
    app.segmented_control(key="what_if_0").set_value(FOUR).run()
    assert link_of(app)["whatif"] == "D64"  # still by GPTQ
    app.segmented_control(key="what_if_1").set_value("float").run()
    assert app.selectbox(key="what_if_1_way").help == "A float layer is not rounded."
    app.selectbox(key="what_if_all_ways").select_index(5).run()
    assert link_of(app)["whatif"] == "pfp"
    assert app.selectbox(key="what_if_all_ways").value is None
    app.selectbox(key="what_if_all_ways").select_index(3).run()
    assert link_of(app)["whatif"] == "RfR"
    app.selectbox(key="what_if_all_ways").select_index(0).run()
    assert link_of(app)["whatif"] == "4f4"
    assert "Measure with remedies too" not in [b.label for b in app.button]
    assert not forwards


@pytest.mark.parametrize("has_remedies", [True, False])
def test_the_notes_say_what_can_be_chosen_and_what_stays(
    has_remedies: bool, example: Prediction
) -> None:
    prediction, model = (predict_with_gptq(), GPTQ_MODEL) if has_remedies else (example, MODEL)
    predictions().put(prediction_id(Settings(model)), prediction)

    app = open_app({"run": f"{model} int8_per_channel"}, page=PAGE)

    (notes,) = [m.value for m in app.markdown if "Predicted for" in m.value]
    ways = [prediction.way_words(way) for way in prediction.ways]
    assert len(ways) > 5 if has_remedies else ways == ["nearest code"]
    assert f"({', '.join(ways)})" in unescaped(notes)
    assert "Bits of inputs" in notes
    recipe = prediction.response.report.recipe
    inputs = {c.scheme.activation for c in prediction.response.candidates.values()}
    assert inputs == {recipe.activation}


def test_a_prediction_of_before_offers_to_measure_gptq_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Settings] = []

    def measured(settings: Settings, _: object) -> Prediction:
        asked.append(settings)
        found = prediction_service.example_prediction(MODEL)
        assert found is not None
        return found

    monkeypatch.setattr(prediction_service, "measure_prediction", measured)
    app = open_app(LINK, page=PAGE)
    assert "measured with plain rounding only" in texts(app)
    assert not [box for box in app.selectbox if box.label.startswith("Weights of")]

    button(app, "Measure with remedies too").click().run()
    wait_for_jobs(app)

    assert asked == [SETTINGS]


def test_reset_goes_back_to_the_run_shown(example: Prediction) -> None:
    app = open_app({**LINK, "whatif": "4" * len(example.response.layers)}, page=PAGE)

    button(app, "Reset").click().run()

    assert "whatif" not in link_of(app)
    assert button(app, "Reset").disabled


def test_a_float_model_has_nothing_to_use() -> None:
    app = open_app(LINK, page=PAGE)
    button(app, "All float").click().run()

    assert_alive(app)
    assert button(app, "Use this").disabled
    assert button(app, "Verify").disabled
    assert metric(app, "KL (nats), measured") == "0"


def test_the_filter_and_the_order_change_the_rows_only(example: Prediction) -> None:
    app = open_app(LINK, page=PAGE)
    name = example.response.layers[2]
    app.text_input(key="what_if_find").set_value(name.upper()).run()
    rows = [c.label for c in app.segmented_control if c.label.startswith("Bits of")]
    assert rows == [f"Bits of {n}" for n in example.response.layers if name in n]

    app.text_input(key="what_if_find").set_value("nothing like this").run()
    assert "No layer fits" in texts(app)

    app.text_input(key="what_if_find").set_value("").run()
    app.selectbox(key="what_if_order").set_value("Largest degradation alone first").run()
    rows = [c.label for c in app.segmented_control if c.label.startswith("Bits of")]
    eight = example.response.options[0]
    run = service.find_example(SETTINGS)
    assert run is not None
    effects = layer_effects(run, example)
    worst = effects.worst((layer, eight) for layer in example.response.layers)
    assert rows[0] == f"Bits of {worst}"
    assert len(rows) == len(example.response.layers)


def test_the_best_within_a_budget_fills_the_table(forwards: list[str], example: Prediction) -> None:
    app = open_app(LINK, page=PAGE)
    app.selectbox(key="what_if_by").set_value("Bits per weight, codes").run()
    app.number_input(key="what_if_bits").set_value(4.5).run()

    button(app, "Find the best").click().run()

    assert_alive(app)
    assert not forwards
    assert float(metric(app, "Bits per weight, codes")) <= 4.5
    found = example.from_text(link_of(app)["whatif"])
    assert found is not None
    assert found == prediction_service.find_best(example, "bits", 4.5)


def test_the_best_few_are_run_and_the_best_measured_is_shown(
    monkeypatch: pytest.MonkeyPatch, example: Prediction
) -> None:
    """The prediction prefers the first; running prefers the second, so that one is taken."""
    held = Held()
    layers = example.response.layers
    preferred, better = dict.fromkeys(layers[1:], FOUR), dict.fromkeys(layers[:1], FOUR)

    def search(*given: Any) -> tuple[ConfigurationPoint, ...]:
        settings, known, by, budget, control = given
        assert (settings, by, budget) == (SETTINGS, "bits", 4.5)
        control.progress(3, 10, "run the chosen models: batch 1")
        held.wait()
        points = []
        for configuration, measured in ((better, 0.02), (preferred, 0.03)):
            predicted = known.score(configuration)
            (output,) = predicted.outputs
            score = replace(
                predicted,
                interval=(0.5 * measured, 2 * measured),
                outputs=(replace(output, degradation=measured),),
            )
            points.append(ConfigurationPoint(tuple(configuration.items()), predicted, score))
        return tuple(points)

    monkeypatch.setattr(prediction_service, "search_measured", search)
    app = open_app(LINK, page=PAGE)
    app.selectbox(key="what_if_by").set_value("Bits per weight, codes").run()
    app.number_input(key="what_if_bits").set_value(4.5).run()
    button(app, "Find and run the best").click().run()
    held.look(app)
    assert button(app, "Find and run the best").disabled
    assert "run the chosen models" in "".join(bar.proto.text for bar in app.get("progress"))
    assert "whatif" not in link_of(app)

    held.end(app)

    assert_alive(app)
    assert link_of(app)["whatif"] == example.to_text(better)
    assert metric(app, "KL (nats), measured") == "0.02"
    said = unescaped(texts(app))
    assert "Within 4.5 bits per weight the 2 configurations predicted best were run" in said
    assert "KL divergence 0.02 (0.01–0.04), predicted" in said
    assert "1 of the others lies within its 95 % interval" in said
    (table,) = [frame.value for frame in app.dataframe if "Rank" in frame.value]
    assert list(table["Rank"]) == ["taken", "2."]
    assert list(table["KL (nats), measured"]) == ["0.02 (0.01–0.04)", "0.03 (0.015–0.06)"]

    app.segmented_control(key="what_if_0").set_value("float").run()
    assert link_of(app)["whatif"] == "f" * len(layers)  # it is taken once, not held


def test_a_search_that_is_cancelled_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()

    def search(*given: Any) -> tuple[ConfigurationPoint, ...]:
        held.wait()
        given[-1].progress(4, 10, "run the chosen models")
        raise AssertionError("it was not cancelled")

    monkeypatch.setattr(prediction_service, "search_measured", search)
    app = open_app(LINK, page=PAGE)
    button(app, "Find and run the best").click().run()
    held.cancel(app)

    assert_alive(app)
    assert "was cancelled before it had a result" in texts(app)
    assert "whatif" not in link_of(app)
    assert not button(app, "Find and run the best").disabled


def test_a_budget_that_nothing_keeps_to_fails_in_the_units_of_its_field() -> None:
    app = open_app(LINK, page=PAGE)
    app.selectbox(key="what_if_by").set_value("Bits per weight, codes").run()
    app.number_input(key="what_if_bits").set_value(0.5).run()
    button(app, "Find and run the best").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    assert "No choice has 0.5 bits per weight or fewer" in unescaped(texts(app))


def test_a_budget_that_nothing_keeps_to_is_explained() -> None:
    app = open_app(LINK, page=PAGE)
    app.selectbox(key="what_if_by").set_value("Bits per weight, codes").run()
    app.number_input(key="what_if_bits").set_value(0.5).run()

    button(app, "Find the best").click().run()

    assert_alive(app)
    (text,) = [unescaped(word.value) for word in app.warning if "bits per weight" in word.value]
    least = re.fullmatch(
        r"No choice has 0\.5 bits per weight or fewer: the least is ([\d.]+)\.", text
    )
    assert least is not None
    assert "whatif" not in link_of(app)

    app.number_input(key="what_if_bits").set_value(float(least[1])).run()
    button(app, "Find the best").click().run()

    assert "No choice of bits" not in texts(app)
    assert "whatif" in link_of(app)


def test_a_budget_in_bytes_is_refused_in_the_units_of_its_field() -> None:
    app = open_app(LINK, page=PAGE)
    size = app.number_input(key=next(n.key for n in app.number_input if "what_if_kb" in str(n.key)))
    size.set_value(10.0).run()
    button(app, "Find the best").click().run()

    (text,) = [unescaped(word.value) for word in app.warning if "kB" in word.value]
    least = re.fullmatch(
        r"No choice of bits fits into 10 kB: the smallest model takes ([\d.]+) kB\.", text
    )
    assert least is not None
    app.number_input(key=size.key).set_value(float(least[1])).run()
    button(app, "Find the best").click().run()
    assert "No choice of bits" not in texts(app)
    assert "whatif" in link_of(app)


def test_a_row_says_what_the_layer_does_alone_and_whether_that_was_measured(
    example: Prediction,
) -> None:
    layer, option = example.response.layers[0], example.plain_options[1]
    effect = LayerEffect(0.01234, is_measured=True, interval=(0.01, 0.015))
    name, kind, degradation = row_text(example, layer, option, effect, None, is_worst=True).split(
        "  \n"
    )
    assert name == f"**{layer}**"
    assert "weights" in kind
    assert "worst" in kind
    assert degradation == ":small[:gray[KL 0.0123 alone, measured]]"
    predicted = LayerEffect(0.01234, is_measured=False)
    assert "KL 0.012 alone, predicted" in row_text(
        example, layer, option, predicted, None, is_worst=False
    )
    assert "as trained" in row_text(example, layer, "float", None, None, is_worst=False)


def test_a_row_says_what_no_degradation_means(example: Prediction) -> None:
    report = example.response.report
    first, second, *others = report.layers
    option = example.plain_options[1]
    layers = (replace(first, reaches_output=False), second, *others)
    response = LogitResponse(replace(report, layers=layers), example.response.output_arrays)
    changed = Prediction(response, example.frontier)
    none = LayerEffect(0.0, is_measured=True)

    unreached = row_text(changed, first.name, option, none, None, is_worst=False)
    unmoved = row_text(changed, second.name, option, none, None, is_worst=False)

    assert "does not reach the judged output" in unreached
    assert f"no effect on these {report.samples} samples" in unmoved


def test_every_figure_has_a_text_an_explanation_and_its_data() -> None:
    app = open_app(LINK, page=PAGE)

    for chart in app.get("plotly_chart"):
        assert len(chart.proto.alt) > 40
    labels = [b.proto.label for b in app.get("download_button")]
    assert labels.count("Data (CSV)") == 2
    assert {"Configuration (JSON)", "Comparison (CSV)", "Layers (CSV)"} <= set(labels)


def test_predictions_that_do_not_hold_are_said_not_to_first(example: Prediction) -> None:
    verdict = "Do not rely on predictions for this model. Run what you consider."
    predictions().put(prediction_id(SETTINGS), with_level(example, "poor", verdict))

    text = "4" + "8" * (len(example.response.layers) - 1)
    app = open_app({**LINK, "whatif": text}, page=PAGE)

    assert_alive(app)
    assert [error.value for error in app.error] == [verdict]
    assert metric(app, "KL (nats), predicted").startswith("≈ ")
    assert metric(app, "Accuracy, predicted").startswith("≈ ")
    assert any("not reliable" in s["layout"]["title"]["text"] for s in figures(app))
    assert not metric(app, "Model size").startswith("≈")


def test_measured_wins_and_predicted_stands_beside_predicted(example: Prediction) -> None:
    stored = service.find_example(SETTINGS)
    assert stored is not None
    assert stored.report.output is not None
    own, _ = example.configuration_of(SETTINGS.recipe)
    predicted = format_accuracy(example.score(own).accuracy)
    right = share_text(stored.report.output.accuracy_quantized, 400)

    (shown,) = [m for m in open_app(LINK, page=PAGE).metric if m.label == "Accuracy, measured"]
    assert shown.value == right
    assert shown.delta.endswith(f"; predicted {predicted}")
    assert "no difference the data shows" in shown.delta
    text = "8" * (len(example.response.layers) - 1) + "6"
    app = open_app({**LINK, "whatif": text}, page=PAGE)
    (other,) = [m for m in app.metric if m.label == "Accuracy, predicted"]
    floats = format_accuracy(example.score({}).accuracy)
    assert other.delta == f"run {predicted}, float {floats}, predicted too"
    assert "What a search found does worse than predicted: run it." in texts(app)


def test_a_choice_beyond_the_region_is_said_to_be_there(example: Prediction) -> None:
    layers = example.response.layers
    app = open_app({**LINK, "whatif": "2" * (len(layers) - 1) + "3"}, page=PAGE)

    (warning,) = [w.value for w in app.warning]
    assert "up to which predictions hold" in warning
    assert metric(app, "KL (nats), predicted").startswith("≈ ")


def test_rough_predictions_carry_a_warning(example: Prediction) -> None:
    rough = with_level(example, "rough", "Not shown: the region says where.")
    predictions().put(prediction_id(SETTINGS), rough)

    app = open_app(LINK, page=PAGE)

    (warning,) = [w.value for w in app.warning]
    assert warning.startswith("Predictions hold up to KL ")


def test_a_run_without_a_prediction_offers_to_measure_one() -> None:
    keep_other_run()

    app = open_app({**OTHER_LINK, "whatif": "8" * 7}, page=PAGE)

    assert_alive(app)
    assert not figures(app)
    assert "Nothing can be predicted for this run yet" in texts(app)
    assert not button(app, "Learn to predict this model").disabled
    assert link_of(app)["whatif"] == "8" * 7  # for when there is one


def test_a_prediction_is_measured_shown_and_there_again(
    monkeypatch: pytest.MonkeyPatch, example: Prediction, tmp_path: Path
) -> None:
    keep_other_run()
    held = Held()

    def measure(settings: Settings, control: Any) -> Prediction:
        assert settings == OTHER
        control.progress(3, 10, "layer conv2")
        held.wait()
        return replace(example, measured=())

    monkeypatch.setattr(prediction_service, "measure_prediction", measure)
    app = open_app(OTHER_LINK, page=PAGE)
    button(app, "Learn to predict this model").click().run()
    held.look(app)
    assert "appear here when the measurement is done" in texts(app)
    assert "layer conv2" in "".join(bar.proto.text for bar in app.get("progress"))

    held.end(app)
    assert_alive(app)
    assert len(figures(app)) == 2

    use_home(monkeypatch, tmp_path)  # a restart: what is in memory is gone
    again = open_app(OTHER_LINK, page=PAGE)
    assert len(figures(again)) == 2
    assert len(again.dataframe[1].value) == 1  # the run shown, by its own analysis


def test_cancelling_keeps_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_other_run()
    held = Held()

    def measure(settings: Settings, control: Any) -> Prediction:
        held.wait()
        control.progress(4, 10, "layer conv2")
        raise AssertionError("it was not cancelled")

    monkeypatch.setattr(prediction_service, "measure_prediction", measure)
    app = open_app(OTHER_LINK, page=PAGE)
    button(app, "Learn to predict this model").click().run()
    held.look(app)
    assert "what was measured is thrown away" in texts(app)
    held.cancel(app)

    assert_alive(app)
    assert "was cancelled before it had a result" in texts(app)
    assert button(app, "Learn to predict this model")


def test_a_failure_is_told_and_the_page_can_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_other_run()

    def measure(settings: Settings, control: Any) -> Prediction:
        raise DataError("The evaluation data is empty. Give at least one batch.")

    monkeypatch.setattr(prediction_service, "measure_prediction", measure)
    app = open_app(OTHER_LINK, page=PAGE)
    button(app, "Learn to predict this model").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    assert "The evaluation data is empty" in texts(app)
    assert "Traceback" not in texts(app)
    assert button(app, "Learn to predict this model")


def test_verifying_places_the_measured_point_beside_the_predicted_one(
    example: Prediction,
) -> None:
    layers = example.response.layers
    text = "4" + "8" * (len(layers) - 1)
    app = open_app({**LINK, "whatif": text}, page=PAGE)
    measured = next(t for t in figures(app)[0]["data"] if t["name"] == "measured")
    assert text not in measured["customdata"]

    button(app, "Verify").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    measured = next(t for t in figures(app)[0]["data"] if t["name"] == "measured")
    assert text in measured["customdata"]
    assert button(app, "Verify").disabled
    table = app.dataframe[0].value
    cell = table["KL (nats)"].iloc[2]
    assert re.fullmatch(r"\S+ \(\S+–\S+\), predicted .+", cell)
    kept = predictions().get(prediction_id(SETTINGS))
    assert kept is not None
    assert kept.measured_score(
        dict.fromkeys(layers[1:], example.response.options[0]) | {layers[0]: FOUR}
    )


def test_use_this_carries_the_configuration_to_experiment_and_into_the_link(
    monkeypatch: pytest.MonkeyPatch, example: Prediction
) -> None:
    asked: list[Settings] = []
    stored = service.example_run(MODEL)
    assert stored is not None

    def analyze(settings: Settings, control: Any) -> Any:
        asked.append(settings)
        return stored.report

    monkeypatch.setattr(service, "analyze_settings", analyze)
    layers = example.response.layers
    app = open_app({**LINK, "whatif": "4f" + "8" * (len(layers) - 2)}, page=PAGE)

    button(app, "Use this").click().run()

    assert_alive(app)
    assert app.title[0].value == "Experiment"
    assert link_of(app)["run"] == f"cnn int8_per_channel exclude:{layers[1]} bits:{layers[0]}:4"
    wait_for_jobs(app)
    assert [settings.recipe.exclude_layers for settings in asked] == [(layers[1],)]
    assert asked[0].recipe.overrides[layers[0]].weight.bits == 4


def test_a_run_of_the_same_schemes_shares_the_prediction_and_begins_as_it_is(
    example: Prediction,
) -> None:
    layers = example.response.layers
    stored = service.example_run(MODEL)
    assert stored is not None
    recipe = SETTINGS.recipe.with_excluded(layers[1]).with_layer_bits(layers[0], 4)
    store().put(Run(Settings(MODEL, recipe), stored.report, created=stored.created))

    app = open_app(
        {"run": f"cnn int8_per_channel exclude:{layers[1]} bits:{layers[0]}:4"}, page=PAGE
    )

    assert_alive(app)
    assert app.segmented_control(key="what_if_0").value == FOUR
    assert app.segmented_control(key="what_if_1").value == "float"
    assert app.segmented_control(key="what_if_2").value.startswith("int8")


def test_measured_points_are_listed_and_what_was_run_is_kept_with_its_prediction(
    example: Prediction,
) -> None:
    app = open_app(LINK, page=PAGE)
    table = app.dataframe[1].value
    run = [p for p in example.measured if p.configuration]

    assert len(table) == len(run) + 1  # and the run shown, by its own analysis
    assert list(table.columns[:4]) == ["Accuracy", "Same answer", "KL (nats)", "Ratio"]
    assert all(isinstance(p, ConfigurationPoint) and p.measured for p in run)


def test_presenter_mode_draws_one_figure_of_the_page() -> None:
    app = open_app({**LINK, "present": "1"}, page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 1  # one figure a screen
