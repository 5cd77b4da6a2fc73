"""The layer page: every state, every tab, every action, and links with nonsense in them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.session import run_state
from dashboard.session.jobs import store
from dashboard.views.layer.tensor import TABS
from dashboard.widgets.chart import selected_name
from dashboard.work import service
from quant_engine.report import ModelReport
from quant_engine.scheme import PRESETS, Recipe
from tests.dashboard.app_harness import assert_alive, button, link_of, open_app, texts
from tests.dashboard.factories import (
    EXACT_LAYER,
    EXCLUDED_LAYER,
    UNSUPPORTED_LAYER,
    WIDE_LAYER,
    make_partial_report,
    make_relative,
    make_report,
    replace_layer,
)

PAGE = "views/layer/layer.py"
LAYER = "layer2.0.conv1"
SETTINGS = Settings("resnet", PRESETS["int8_mse"])
LINK = {"run": "resnet int8_mse"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes the page asks to analyse; none is computed."""
    recipes: list[Recipe] = []
    monkeypatch.setattr(run_state, "rerun_with", recipes.append)
    return recipes


def open_layer(layer: str = LAYER, report: ModelReport | None = None, **link: str) -> AppTest:
    """Open the page on a run that is kept already."""
    store().put(Run(SETTINGS, report or make_report()))
    app = open_app({**LINK, "layer": layer, **link}, page=PAGE)
    assert_alive(app)
    return app


def figures(app: AppTest) -> dict[str, dict[str, Any]]:
    specs = (json.loads(chart.proto.spec) for chart in app.get("plotly_chart"))
    return {spec["layout"]["title"]["text"]: spec for spec in specs}


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


# --- States ---------------------------------------------------------------------------------------


def test_the_example_is_shown_without_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the page computed something")

    for name in ("analyze_settings", "measure_settings", "calibration_batches"):
        monkeypatch.setattr(service, name, fail)
    app = open_app(page=PAGE)

    assert_alive(app)
    first = next(iter(figures(app)))
    assert first == "Four errors, ranked by the measured output error"
    assert "Weights: float and dequantized (values per bin)" in figures(app)
    text = texts(app)
    assert text.index("287 of 576 weights became 0; 31 of 64 channels are all 0") < text.index(
        "Own error or inherited?"
    )
    assert ":green[:material/check_circle:]" not in text
    app.button(key="finding_weights").click().run()
    assert_alive(app)
    assert link_of(app)["tab"] == "Channels"
    assert any("output channels, widest first" in title for title in figures(app))


def test_a_broken_layer_starts_at_a_value_that_became_zero() -> None:
    app = open_app({"tab": "One value"}, page=PAGE)

    assert_alive(app)
    (table,) = [table.value for table in app.table]
    assert table.loc["Dequantize", "Result"] == "0"
    assert table.loc["Round", "Result"] == "0"
    element = next(box for box in app.selectbox if box.label == "Element")
    assert "became 0" in element.options[0]
    element.set_value(2).run()
    (other,) = [table.value for table in app.table]
    assert list(other["Numbers"]) != list(table["Numbers"])
    next(slider for slider in app.slider if slider.label == "Step").set_value(2).run()
    (part,) = [table.value for table in app.table]
    assert list(part.index) == ["Divide by the scale", "Round"]


def test_loud_input_channels_are_named_and_drawn() -> None:
    link = {
        "run": "vit_outlier_channels int8_per_channel",
        "layer": "blocks.0.attention.k_proj",
        "part": "Inputs",
        "tab": "Channels",
    }
    app = open_app(link, page=PAGE)

    assert_alive(app)
    assert "Input channels 0 and 7: up to 148 × the median" in texts(app)
    title = next(title for title in figures(app) if "Largest input of each" in title)
    assert max(figures(app)[title]["data"][0]["y"]) > 100


def test_relative_errors_tell_a_broken_layer_from_a_healthy_one() -> None:
    shown = []
    for preset in ("int8_per_tensor", "int8_per_channel"):
        link = {"run": f"mobilenet_unequal_channels {preset}", "overview": "Relative error"}
        app = open_app(link, page=PAGE)
        assert_alive(app)
        spec = next(s for title, s in figures(app).items() if title.startswith("Relative error"))
        bars = spec["data"][0]
        mine = [
            (x, share)
            for x, (name, _, share) in zip(bars["x"], bars["customdata"], strict=True)
            if name == "blocks.2.depthwise"
        ]
        shown.append(sum(share for x, share in mine if x > -2))  # errors above a quarter
    assert shown[0] > 0.25
    assert shown[1] < 0.1


def test_a_quantized_layer_shows_its_four_errors_side_by_side() -> None:
    app = open_layer()

    layer = make_report().layer(LAYER)
    assert layer.local_error is not None
    assert layer.accumulated_error is not None
    assert layer.weight is not None
    assert layer.weight.channels is not None
    noise = [10 ** (-value / 10) for value in layer.weight.channels.sqnr_db]
    by_channel = math.sqrt(sum(noise) / len(noise))
    assert metrics(app)["Weight error"] == f"{100 * by_channel:.2f} %"
    assert metrics(app)["Input error, pooled"] == f"{100 * 10 ** (-32.7 / 20):.1f} %"
    assert layer.local_relative is not None
    assert layer.accumulated_relative is not None
    assert metrics(app)["Local error"] == f"{100 * layer.local_relative.rms:.1f} %"
    assert metrics(app)["Accumulated error"] == f"{100 * layer.accumulated_relative.rms:.1f} %"
    pooled = {metric.label: metric.delta for metric in app.metric}
    assert pooled["Weight error"] == "pooled SQNR 44.0 dB"
    assert pooled["Input error, pooled"] == "pooled SQNR 32.7 dB"
    assert pooled["Local error"] == f"pooled SQNR {layer.local_error.sqnr_db:.1f} dB"
    assert pooled["Accumulated error"] == f"pooled SQNR {layer.accumulated_error.sqnr_db:.1f} dB"
    assert metrics(app)["Bytes"] == "4.87 kB"
    assert "weight 32 × 16 × 3 × 3" in texts(app)


def test_the_selected_layer_is_marked_in_the_overview() -> None:
    spec = figures(open_layer(overview="Weights (steps)"))["Error of every layer's weights (LSB)"]

    marked = [text for text in spec["layout"]["yaxis"]["ticktext"] if "▶" in text]
    assert marked == [f"<b>▶ {LAYER}</b>"]


def test_verdicts_on_trouble_stand_open_and_the_rest_is_one_click_away() -> None:
    app = open_layer()

    text = texts(app)
    assert "**Own error or inherited?** Mostly inherited" in text
    assert "99 % of the values share" in text
    assert any("nothing to worry about" in block.label for block in app.expander)


def test_an_excluded_layer_says_why_and_offers_to_include_it(asked: list[Recipe]) -> None:
    app = open_layer(EXCLUDED_LAYER)

    assert "This layer stays in float" in texts(app)
    assert "excluded by the recipe" in texts(app)
    assert metrics(app)["Weight error"] == "–"
    assert not app.tabs
    button(app, "Include it and re-run").click().run()
    assert_alive(app)
    assert [recipe.exclude_layers for recipe in asked] == [()]


def test_including_a_layer_warns_about_others_the_same_entry_excludes() -> None:
    report = make_report(exclude=("layer2.*",))
    app = open_layer(LAYER, report)

    assert "keeps 2 other layers in float" in texts(app)


def test_an_unsupported_layer_says_why_and_offers_nothing() -> None:
    app = open_layer(UNSUPPORTED_LAYER)

    assert "LSTM layers cannot be quantized yet" in texts(app)
    labels = [b.label for b in app.button]
    assert "Include it and re-run" not in labels
    assert "Keep in float and re-run" not in labels


def test_a_partial_run_says_what_is_missing() -> None:
    report = make_partial_report(3)
    app = open_layer("layer2.0.conv2", report, part="Inputs")

    text = texts(app)
    assert "stopped early" in text
    assert "Not measured: the analysis stopped" in text
    assert metrics(app)["Local error"] == "–"


def test_weights_only_says_that_inputs_stay_float() -> None:
    app = open_layer(
        LAYER, make_report("int8_weights_only"), part="Inputs", overview="Inputs (steps)"
    )

    assert "only its weights are quantized" in texts(app)
    overview = figures(app)["Error of every layer's inputs (LSB)"]
    assert overview["data"] == []


def test_a_model_without_layers_says_so() -> None:
    app = open_layer(LAYER, replace(make_report(), layers=()))

    assert "no layer that holds weights" in texts(app)


def test_names_are_shown_as_they_are() -> None:
    report = make_report()
    layers = (replace(x, name="a__b*c$d") if x.name == LAYER else x for x in report.layers)
    app = open_layer("a__b*c$d", replace(report, layers=tuple(layers)))

    assert "`a__b*c$d`" in texts(app)


# --- Tabs and controls ----------------------------------------------------------------------------


TAB_FIGURES = {
    "Values": ["float and dequantized"],
    "Error": ["error in LSB"],
    "Channels": ["output channels, widest first", "lowest SQNR"],
    "Codes": ["values with each code"],
    "Ranges": ["range and SQNR (dB) by range estimator"],
    "One value": ["One value on the grid"],
    "All numbers": [],
}


def test_each_tab_is_tested() -> None:
    assert set(TAB_FIGURES) == set(TABS)


@pytest.mark.parametrize("layer", [LAYER, WIDE_LAYER, EXACT_LAYER])
@pytest.mark.parametrize("tab", TABS)
def test_a_link_opens_each_tab_of_the_weights(tab: str, layer: str) -> None:
    app = open_layer(layer, tab=tab)

    shown = list(figures(app))
    for words in TAB_FIGURES[tab]:
        assert any(words in title or "Channels with the lowest" in title for title in shown), shown
    assert len(shown) == 1 + len(TAB_FIGURES[tab]), "the overview, and this tab's figures alone"


@pytest.mark.parametrize("tab", TABS)
def test_a_link_opens_each_tab_of_the_inputs(tab: str) -> None:
    app = open_layer(LAYER, make_report("int8_entropy"), tab=tab, part="Inputs")

    if tab == "Channels":
        assert "Inputs have one scale" in texts(app)
    elif TAB_FIGURES[tab]:
        assert any(words in title for words in TAB_FIGURES[tab] for title in figures(app))


def test_logarithmic_counts_reach_the_figure() -> None:
    title = "Weights: float and dequantized (values per bin)"
    linear = figures(open_layer())[title]
    logarithmic = figures(open_layer(log_counts="true"))[title]

    assert linear["layout"]["yaxis"].get("type") != "log"
    assert logarithmic["layout"]["yaxis"]["type"] == "log"


def test_all_numbers_are_two_tables() -> None:
    tables = [table.value for table in open_layer(tab="All numbers").table]

    assert [list(table.columns) for table in tables] == [
        ["Weights", "Inputs"],
        ["Weights", "Inputs", "Local", "Accumulated"],
    ]
    assert tables[0].loc["Codes used", "Weights"] == "245 of 255"


def test_one_value_is_worked_through() -> None:
    app = open_layer(tab="One value")

    (table,) = [table.value for table in app.table]
    assert list(table.index)[:4] == ["Divide by the scale", "Round", "Add the zero point", "Clamp"]


def test_the_overview_can_show_inputs_and_four_errors() -> None:
    assert "Error of every layer's inputs (LSB)" in figures(open_layer(overview="Inputs (steps)"))
    four = open_layer(overview="Four errors")
    assert any(title.startswith("Four errors, ranked by") for title in figures(four))


def test_many_layers_are_cut_to_the_worst_until_all_are_asked_for() -> None:
    report = make_report()
    many = [
        replace(layer, name=f"block{i}.{layer.name}") for i in range(3) for layer in report.layers
    ]
    report = replace(report, layers=tuple(many))
    title = "Error of every layer's weights (LSB)"

    few = figures(open_layer(many[0].name, report, overview="Weights (steps)"))[
        "Error of the weights, 16 of 30 layers (LSB)"
    ]
    everything = figures(
        open_layer(many[0].name, report, overview="Weights (steps)", overview_all="true")
    )[title]
    assert len(few["layout"]["yaxis"]["ticktext"]) == 16
    assert len(everything["layout"]["yaxis"]["ticktext"]) == 30


# --- Actions --------------------------------------------------------------------------------------


def test_previous_and_next_walk_the_layers_and_the_link_follows() -> None:
    app = open_layer("conv1")

    assert button(app, "Previous").disabled
    button(app, "Next").click().run()
    assert_alive(app)
    assert link_of(app)["layer"] == "layer1.0.conv1"
    assert "`layer1.0.conv1`" in texts(app)


def test_keeping_a_layer_in_float_asks_for_it(asked: list[Recipe]) -> None:
    app = open_layer()

    button(app, "Keep in float and re-run").click().run()
    assert_alive(app)
    (recipe,) = asked
    assert recipe.exclude_layers == ("fc", LAYER)


def test_changing_the_bits_asks_for_them(asked: list[Recipe]) -> None:
    app = open_layer()

    (bits,) = [box for box in app.selectbox if box.label == "Weight bits (now 8)"]
    assert "8" not in bits.options, "the present width is no change"
    assert bits.value == 4
    bits.set_value(3).run()
    button(app, "Change weights to 3 bits and re-run").click().run()
    assert_alive(app)
    (recipe,) = asked
    scheme = recipe.layer_scheme(LAYER)
    assert scheme is not None
    assert scheme.weight.bits == 3
    assert scheme.activation == make_report().recipe.activation


def test_another_rule_can_be_asked_for(asked: list[Recipe]) -> None:
    app = open_layer(tab="Ranges", part="Inputs")

    (rule,) = [box for box in app.selectbox if box.label == "Another range estimator"]
    rule.set_value("mse").run()
    button(app, "Use it and re-run").click().run()
    assert_alive(app)
    scheme = asked[0].layer_scheme(LAYER)
    assert scheme is not None
    assert scheme.activation is not None
    assert scheme.activation.observer == "mse"
    assert scheme.weight == make_report().recipe.weight


def test_a_click_in_a_figure_names_its_layer() -> None:
    point = {"curve_number": 0, "customdata": ["conv1", "below", 3, 0.1]}

    assert selected_name({"selection": {"points": [point]}}) == "conv1"
    assert selected_name({"selection": {"points": [{"customdata": "conv1"}]}}) == "conv1"
    indexed = {"customdata": {"0": "conv1", "1": 3}}
    assert selected_name({"selection": {"points": [indexed]}}) == "conv1"
    for nothing in (None, {}, {"selection": {"points": []}}, {"selection": {"points": [{}]}}):
        assert selected_name(nothing) is None


# --- Links ----------------------------------------------------------------------------------------


def test_a_link_with_nonsense_falls_back_with_notices() -> None:
    app = open_layer("nowhere", part="Bla", tab="Nonsense", overview="7", log_counts="perhaps")

    text = texts(app)
    for word in ("nowhere", "Bla", "Nonsense", "7"):
        assert f"“{word}”" in text
    assert "Weights: float and dequantized (values per bin)" in figures(app)


def test_an_infinite_error_is_exact_on_the_page() -> None:
    report = make_report()
    layer = report.layer(EXACT_LAYER)
    assert layer.weight is not None
    exact = replace_layer(
        report,
        EXACT_LAYER,
        accumulated_error=layer.weight.error,
        accumulated_relative=make_relative(layer.weight.error),
    )
    app = open_layer(EXACT_LAYER, exact)

    assert metrics(app)["Weight error"] == "exact"
    assert metrics(app)["Accumulated error"] == "exact"
    assert "No error has reached" in texts(app)


def test_parameters_of_the_model_itself_have_a_name_to_be_picked_by() -> None:
    app = open_app({"run": "vit int8_per_channel", "layer": "(model itself)"}, page=PAGE)

    assert_alive(app)
    assert link_of(app)["layer"] == "(model itself)"
    assert "`(model itself)`" in [heading.value for heading in app.subheader]
    assert "VisionTransformer is a custom module" in texts(app)
    [picker] = [box for box in app.selectbox if box.label == "Layer"]
    assert all(picker.options)
