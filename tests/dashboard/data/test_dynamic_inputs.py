"""Inputs with a range per batch: their figures, the words for them, and runs that have none yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.diagnosis.verdicts import layer_verdicts, tensor_verdicts
from dashboard.facts.layer_rows import grid_rows, layer_row
from dashboard.figures.kit.theme import FLOAT
from dashboard.figures.layers.error_ridges import describe_errors, layer_errors_picture, why_empty
from dashboard.figures.tensor.codes import codes_picture
from dashboard.figures.tensor.distributions import values_picture
from dashboard.figures.tensor.range_choices import ranges_picture
from dashboard.session import run_state
from dashboard.session.jobs import store
from dashboard.views.experiment.live_table import rows_of
from dashboard.words.recipes import (
    DYNAMIC_INPUT,
    describe_batches,
    describe_input,
    describe_recipe,
    describe_schemes,
    measured_in_batches,
)
from dashboard.work import service
from quant_engine.report import ModelReport
from quant_engine.scheme import PRESETS, Recipe, TensorScheme
from tests.dashboard.app_harness import assert_alive, open_app, texts, use_home, widget
from tests.dashboard.factories import (
    EXCLUDED_LAYER,
    make_dynamic_report,
    make_partial_report,
    make_report,
    replace_layer,
)

LAYER = "layer2.0.conv1"
SMALL = "mlp"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    return tmp_path


class Listener:
    """Takes what long work reports, and lets it go on."""

    def progress(self, done: int, total: int, text: str) -> None:
        pass

    def on_update(self, snapshot: Callable[[], object]) -> None:
        pass


def spans(low: float, high: float) -> str:
    return f"{low:.4g} to {high:.4g}"


def open_layer(report: ModelReport, layer: str = LAYER, **link: str) -> AppTest:
    """Open the Layer page on the inputs of a kept run."""
    store().put(Run(Settings("resnet", PRESETS["int8_dynamic"]), report))
    words = {"run": "resnet int8_dynamic", "layer": layer, "part": "Inputs"}
    words["overview"] = "Inputs (steps)"
    app = open_app({**words, **link}, page="views/layer/layer.py")
    assert_alive(app)
    return app


def figures(app: AppTest) -> dict[str, dict[str, Any]]:
    specs = (json.loads(chart.proto.spec) for chart in app.get("plotly_chart"))
    return {spec["layout"]["title"]["text"]: spec for spec in specs}


def figure(app: AppTest, title: str) -> dict[str, Any]:
    (found,) = [spec for name, spec in figures(app).items() if name.startswith(title)]
    return found


# --- Words ----------------------------------------------------------------------------------------


def test_words_for_inputs() -> None:
    dynamic = make_dynamic_report()
    assert describe_input(dynamic.layer(LAYER)) == f"int8, {DYNAMIC_INPUT}"
    assert describe_input(dynamic.layer(EXCLUDED_LAYER)) == "float"
    assert describe_input(make_report().layer(LAYER)) == "int8"
    assert describe_input(make_report("int8_weights_only").layer(LAYER)) == "float"


def test_a_layer_whose_fixed_range_is_not_measured_yet_is_not_called_dynamic() -> None:
    layer = replace(
        make_partial_report().layers[-1], input_scheme=PRESETS["int8_per_channel"].activation
    )
    assert layer.input is None
    assert rows_of([layer])[0]["Kind and bits"] == f"{layer.kind}, int8 weights"
    assert not layer.has_dynamic_input


def test_recipes_name_the_dynamic_range() -> None:
    assert describe_recipe(PRESETS["int8_dynamic"]) == "Int8 dynamic"
    four_bits = Recipe(TensorScheme(), TensorScheme(bits=4, is_dynamic=True))
    assert describe_schemes(four_bits).endswith(
        f"inputs 4-bit symmetric per tensor, {DYNAMIC_INPUT}"
    )


def test_batches_are_told_as_they_were_cut() -> None:
    report = make_dynamic_report()
    assert report.evaluation_samples == 360
    assert describe_batches(report) == "4 batches of at most 100 samples"
    even = replace(report, evaluation_batches=6, evaluation_batch_size=60)
    assert describe_batches(even) == "6 batches of 60 samples"
    single = replace(report, evaluation_batches=1, evaluation_batch_size=360)
    assert describe_batches(single) == "1 batch of 360 samples"
    assert measured_in_batches(report).endswith("4 batches of at most 100 samples.")
    assert measured_in_batches(make_report()) == ""


def test_the_page_names_the_batches_that_the_analysis_ran() -> None:
    batches = service.evaluation_batches(SMALL)
    report = service.analyze_settings(Settings(SMALL, PRESETS["int8_dynamic"]), Listener())
    assert report.evaluation_batches == len(batches)
    assert report.evaluation_batch_size == max(len(labels) for _, labels in batches)
    assert report.evaluation_batch_size == service.BATCH_SIZE


def test_tables_name_the_dynamic_range() -> None:
    layer = make_dynamic_report().layer(LAYER)
    entry = layer.input
    assert entry is not None
    assert entry.zero_point[0] < entry.zero_point[1]
    assert rows_of([layer])[0]["Kind and bits"].endswith("int8 weights, dynamic int8 input")
    inputs = {row["Number"]: row["Inputs"] for row in grid_rows(layer)}
    assert inputs["Scheme"].endswith(DYNAMIC_INPUT)
    assert inputs["Scale (one step)"] == f"{spans(*entry.scale)}, per batch"
    assert inputs["Zero point (code of 0.0)"].endswith(", per batch")
    assert not any("channel" in text for text in inputs.values())
    row = layer_row(layer)
    assert row["input_bits"] == 8
    assert (row["input_scale_min"], row["input_scale_max"]) == entry.scale
    assert row["input_sqnr_db"] == entry.error.sqnr_db


def test_a_grid_that_is_the_same_in_every_batch_is_told_as_one() -> None:
    layer = make_dynamic_report().layer(LAYER)
    assert layer.input is not None
    entry = replace(layer.input, scale=(0.25, 0.25), zero_point=(0, 0))
    inputs = {row["Number"]: row["Inputs"] for row in grid_rows(replace(layer, input=entry))}
    assert inputs["Scale (one step)"] == "0.25 in every batch"
    assert inputs["Zero point (code of 0.0)"] == "0 in every batch"


def verdicts_on(report: ModelReport, subject: str, layer: str = LAYER) -> list[str]:
    shown = report.layer(layer)
    found = list(layer_verdicts(shown, report))
    if shown.input is not None:
        found += tensor_verdicts(shown.input, "Inputs")
    return [verdict.text for verdict in found if verdict.subject == subject]


def test_verdicts_say_that_nothing_is_clipped_and_in_which_batches() -> None:
    report = make_dynamic_report()
    (text,) = verdicts_on(report, "Inputs: range")
    assert text.startswith(f"Int8, {DYNAMIC_INPUT}. Over 4 batches of at most 100 samples")
    entry = report.layer(LAYER).input
    assert entry is not None
    assert f"between {spans(*entry.scale).replace(' to ', ' and ')}. Batches of another" in text
    (cause,) = verdicts_on(report, "Inputs: rounding or clipping?")
    assert "nothing is clipped, as the range is that of each batch" in cause
    assert verdicts_on(report, "Weights or inputs?")
    assert not verdicts_on(make_report("int8_weights_only"), "Inputs: range")


def test_a_layer_that_is_called_twice_has_a_range_for_each_call() -> None:
    report = replace_layer(make_dynamic_report(), LAYER, calls=2)
    (text,) = verdicts_on(report, "Inputs: range")
    assert text.startswith(f"Int8, {DYNAMIC_INPUT}, and for each of its 2 calls.")


# --- Figures --------------------------------------------------------------------------------------


def test_the_ridges_draw_every_dynamic_input() -> None:
    report = make_dynamic_report()
    spec = layer_errors_picture(report, "input").figure.to_plotly_json()
    names = {custom[0] for trace in spec["data"] for custom in trace.get("customdata") or ()}
    assert names == {layer.name for layer in report.quantized_layers}
    kinds = [trace["name"] for trace in spec["data"] if trace.get("name")]
    assert "rounding" in kinds
    assert "clipping" not in kinds
    text = describe_errors(report, "input")
    assert "the error is rounding alone" in text
    assert text.endswith("4 batches of at most 100 samples.")
    assert "batches" not in describe_errors(report, "weight")


def test_values_beyond_the_calibration_are_not_drawn_as_clipped() -> None:
    entry = make_dynamic_report().layer(LAYER).input
    assert entry is not None
    assert entry.values.float_above > 0
    spec = values_picture(entry, "Inputs").figure.to_plotly_json()
    colors = {
        trace["marker"]["color"] for trace in spec["data"] if trace["name"].startswith("float")
    }
    assert colors == {FLOAT}
    assert "grid ends" not in str(spec["layout"].get("annotations"))
    assert not spec["layout"].get("shapes")


def test_codes_mark_the_smallest_and_the_largest_zero_point() -> None:
    entry = make_dynamic_report().layer(LAYER).input
    assert entry is not None
    spec = codes_picture(entry, "Inputs").figure.to_plotly_json()
    assert [shape["x0"] for shape in spec["layout"]["shapes"]] == list(entry.zero_point)
    texts = [note["text"] for note in spec["layout"]["annotations"]]
    assert f" zero point {entry.zero_point[0]} to {entry.zero_point[1]} " in texts
    assert not any("clipped" in trace["name"] for trace in spec["data"])
    same = replace(entry, zero_point=(3, 3))
    layout = codes_picture(same, "Inputs").figure.to_plotly_json()["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == [3]
    assert " zero point 3 " in [note["text"] for note in layout["annotations"]]


def test_no_rules_are_compared() -> None:
    entry = make_dynamic_report().layer(LAYER).input
    assert entry is not None
    layout = ranges_picture(entry, "Inputs").figure.to_plotly_json()["layout"]
    assert "No range estimator chooses this range" in str(layout["annotations"])
    assert "channel" not in str(layout["annotations"])


# --- The Layer page -------------------------------------------------------------------------------


TAB_FIGURES = {
    "Values": "Inputs: float and dequantized",
    "Error": "Inputs: error in LSB",
    "Codes": "Inputs: values with each code",
}


@pytest.mark.parametrize("tab", TAB_FIGURES)
def test_the_layer_page_draws_the_input(tab: str) -> None:
    app = open_layer(make_dynamic_report(), tab=tab)

    bars = [t for t in figure(app, TAB_FIGURES[tab])["data"] if t["type"] == "bar"]
    entry = make_dynamic_report().layer(LAYER).input
    assert entry is not None
    counted = sum(sum(bar["y"]) for bar in bars)
    assert counted == entry.error.count * (2 if tab == "Values" else 1)
    assert figure(app, "Error of every layer's inputs")["data"]
    text = texts(app)
    assert "4 batches of at most 100 samples" in text
    assert f"pooled SQNR {entry.error.sqnr_db:.1f} dB" in text
    for wrong in ("stay in float", "was not quantized", "no fixed grid", "not measured"):
        assert wrong not in text


@pytest.mark.parametrize("tab", ["Channels", "Ranges", "One value", "All numbers"])
def test_the_other_tabs_are_alive(tab: str) -> None:
    app = open_layer(make_dynamic_report(), tab=tab)

    text = texts(app)
    if tab == "Ranges":
        assert "No range estimator chooses this range" in text
    if tab == "One value":
        assert "of the first batch" in text
        assert figure(app, "One value on the grid of its batch")
    if tab == "All numbers":
        grid, _ = (table.value for table in app.table)
        assert grid.loc["Scale (one step)", "Inputs"].endswith("per batch")


def test_a_fixed_range_can_be_asked_for_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []
    monkeypatch.setattr(run_state, "rerun_with", asked.append)
    app = open_layer(make_dynamic_report(), tab="Ranges")

    widget(app, "selectbox", "A fixed range for this layer").set_value("minmax").run()
    widget(app, "button", "Use it and re-run").click().run()

    assert_alive(app)
    own = asked[0].layer_scheme(LAYER)
    assert own is not None
    assert own.activation == TensorScheme(symmetric=False)
    other = asked[0].layer_scheme("conv1")
    assert other is not None
    assert other.activation is not None
    assert other.activation.is_dynamic


# --- Runs that did not come to the inputs --------------------------------------------------------


def test_a_run_that_was_stopped_says_so() -> None:
    report = make_dynamic_report()
    layers = tuple(replace(layer, input=None) for layer in report.layers)
    stopped = replace(report, layers=layers, is_partial=True)
    inputs = {row["Number"]: row["Inputs"] for row in grid_rows(stopped.layer(LAYER))}
    assert inputs["Scheme"].endswith(DYNAMIC_INPUT)
    assert inputs["Scale (one step)"] == "not measured"
    assert "stays float" not in inputs.values()
    assert layer_row(stopped.layer(LAYER))["input_bits"] == 8
    assert layer_row(stopped.layer(LAYER))["input_scale_min"] is None
    assert "weights only" in why_empty(make_report("int8_weights_only"), "input")
    assert measured_in_batches(stopped) == ""
    assert verdicts_on(stopped, "Inputs: range") == []
    assert why_empty(stopped, "input") == "The analysis stopped before it measured inputs."

    text = texts(open_layer(stopped))

    assert "Not measured: the analysis stopped before it came to this." in text
    assert "stay in float" not in text
    assert "was not quantized" not in text


def test_a_layer_that_never_ran_says_so() -> None:
    report = replace_layer(make_dynamic_report(), LAYER, input=None, input_shape=())
    assert verdicts_on(report, "Inputs: range") == []
    assert "Nothing was measured: it never ran on the data." in texts(open_layer(report))


def test_a_layer_whose_weight_a_function_reads_says_which() -> None:
    reason = "its weight is read by `F.linear` in `layers.1`"
    report = replace_layer(make_dynamic_report(), LAYER, input=None, input_shape=(), reason=reason)
    text = texts(open_layer(report))
    assert "its weight is read by" in text
    assert "F.linear" in text
    assert "never ran" not in text


# --- The form -------------------------------------------------------------------------------------


def form(run: str) -> AppTest:
    return open_app({"run": run}, page="views/experiment/experiment.py")


def activation(app: AppTest) -> TensorScheme | None:
    settings: Settings = app.session_state["session"].draft
    return settings.recipe.activation


def test_the_form_chooses_between_fixed_and_dynamic_ranges() -> None:
    app = form(f"{SMALL} int8_per_channel")
    assert widget(app, "radio", "Range of the inputs").value == "Fixed by calibration"

    widget(app, "radio", "Range of the inputs").set_value("Dynamic, per batch").run()

    assert_alive(app)
    assert activation(app) == TensorScheme(symmetric=False, is_dynamic=True)
    rules = [w for w in app.selectbox if w.label == "Range estimator"]
    assert len(rules) == 1, "the rule for inputs is gone: it would be read by nothing"
    assert f"measured in batches of up to {service.BATCH_SIZE} samples" in texts(app)

    widget(app, "radio", "Range of the inputs").set_value("Fixed by calibration").run()
    assert activation(app) == TensorScheme(symmetric=False)


def test_a_rule_chosen_before_does_not_stop_the_range_from_being_dynamic() -> None:
    app = form(f"{SMALL} int8_entropy")

    widget(app, "radio", "Range of the inputs").set_value("Dynamic, per batch").run()

    assert_alive(app)
    assert activation(app) == TensorScheme(is_dynamic=True)


def test_bits_of_single_layers_keep_the_dynamic_range() -> None:
    app = form(f"{SMALL} int8_dynamic bits:network.0:4:6")

    assert_alive(app)
    settings: Settings = app.session_state["session"].draft
    own = settings.recipe.layer_scheme("network.0")
    assert own is not None
    assert own.activation is not None
    assert (own.weight.bits, own.activation.bits, own.activation.is_dynamic) == (4, 6, True)
