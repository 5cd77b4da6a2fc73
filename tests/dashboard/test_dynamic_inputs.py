"""Inputs with a range a batch have no calibrated grid, and are still int8: no page says float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.components import run_state
from dashboard.components.live_table import rows_of
from dashboard.figures.error_ridges import why_empty
from dashboard.layer_numbers import grid_rows
from dashboard.layer_rows import layer_row
from dashboard.runs import Run
from dashboard.state import Settings
from dashboard.verdicts import layer_verdicts
from dashboard.wording import DYNAMIC_INPUT, describe_input, describe_recipe, describe_schemes
from quant_engine.scheme import PRESETS, Recipe, TensorScheme
from tests.dashboard.app_harness import assert_alive, open_app, texts, use_home
from tests.dashboard.factories import (
    EXCLUDED_LAYER,
    make_dynamic_report,
    make_partial_report,
    make_report,
)

LAYER = "layer2.0.conv1"
SMALL = "mlp"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    return tmp_path


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
    assert rows_of([layer])[0]["Now"] == "int8 weights"
    assert not layer.has_dynamic_input


def test_recipes_name_the_dynamic_range() -> None:
    assert describe_recipe(PRESETS["int8_dynamic"]) == "Int8 dynamic"
    four_bits = Recipe(TensorScheme(), TensorScheme(bits=4, is_dynamic=True))
    assert describe_schemes(four_bits).endswith(
        f"inputs 4-bit symmetric per tensor, {DYNAMIC_INPUT}"
    )


def test_tables_name_the_dynamic_range() -> None:
    layer = make_dynamic_report().layer(LAYER)
    assert rows_of([layer])[0]["Now"] == "int8 weights, dynamic int8 input"
    inputs = {row["Number"]: row["Inputs"] for row in grid_rows(layer)}
    assert inputs["Scheme"].endswith(DYNAMIC_INPUT)
    assert inputs["Scale (one step)"] == "anew for each batch"
    assert "stays float" not in inputs.values()
    row = layer_row(layer)
    assert row["input_bits"] == 8
    assert row["input_scale_min"] is None


def test_a_verdict_says_why_the_input_has_no_numbers_of_its_own() -> None:
    report = make_dynamic_report()
    (verdict,) = [v for v in layer_verdicts(report.layer(LAYER), report) if v.subject == "Inputs"]
    assert verdict.text.startswith("Int8, range found anew for each batch")
    other = make_report("int8_weights_only")
    assert not [v for v in layer_verdicts(other.layer(LAYER), other) if v.subject == "Inputs"]


def test_the_overview_says_why_there_is_no_histogram() -> None:
    assert "anew for each batch" in why_empty(make_dynamic_report(), "input")
    assert "weights only" in why_empty(make_report("int8_weights_only"), "input")


def test_the_layer_page_shows_the_input_as_int8() -> None:
    run_state.store().put(Run(Settings("resnet", PRESETS["int8_dynamic"]), make_dynamic_report()))
    link = {"run": "resnet int8_dynamic", "layer": LAYER, "part": "Inputs", "overview": "Inputs"}

    app = open_app(link, page="views/layer.py")

    assert_alive(app)
    text = texts(app)
    assert f"Inputs are int8, {DYNAMIC_INPUT}" in text
    assert "stay in float" not in text
    assert "was not quantized" not in text


def form(run: str) -> AppTest:
    return open_app({"run": run}, page="views/experiment.py")


def widget(app: AppTest, kind: str, label: str) -> Any:
    (found,) = [w for w in getattr(app, kind) if w.label == label]
    return found


def activation(app: AppTest) -> TensorScheme | None:
    settings: Settings = app.session_state["draft_settings"]
    return settings.recipe.activation


def test_the_form_chooses_between_fixed_and_dynamic_ranges() -> None:
    app = form(f"{SMALL} int8_per_channel")
    assert widget(app, "radio", "Range of the inputs").value == "Fixed by calibration"

    widget(app, "radio", "Range of the inputs").set_value("Anew for each batch").run()

    assert_alive(app)
    assert activation(app) == TensorScheme(symmetric=False, is_dynamic=True)
    rules = [w for w in app.selectbox if w.label == "Range rule"]
    assert len(rules) == 1, "the rule for inputs is gone: it would be read by nothing"

    widget(app, "radio", "Range of the inputs").set_value("Fixed by calibration").run()
    assert activation(app) == TensorScheme(symmetric=False)


def test_a_rule_chosen_before_does_not_stop_the_range_from_being_dynamic() -> None:
    app = form(f"{SMALL} int8_entropy")

    widget(app, "radio", "Range of the inputs").set_value("Anew for each batch").run()

    assert_alive(app)
    assert activation(app) == TensorScheme(is_dynamic=True)


def test_bits_of_single_layers_keep_the_dynamic_range() -> None:
    app = form(f"{SMALL} int8_dynamic bits:network.0:4:6")

    assert_alive(app)
    settings: Settings = app.session_state["draft_settings"]
    own = settings.recipe.layer_scheme("network.0")
    assert own is not None
    assert own.activation is not None
    assert (own.weight.bits, own.activation.bits, own.activation.is_dynamic) == (4, 6, True)
