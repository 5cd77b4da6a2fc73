"""The sensitivity page: every state, every control, and acting on what it shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.sweeps import Sweep
from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.ranking import rank_layers
from dashboard.session.jobs import store
from dashboard.views.sensitivity.table import chosen_names, column_settings, table_rows
from dashboard.work import service
from quant_engine.errors import DataError
from quant_engine.report import SensitivityReport
from quant_engine.scheme import PRESETS
from tests.dashboard.app_harness import (
    Held,
    assert_alive,
    button,
    figure,
    figures,
    link_of,
    open_app,
    texts,
    wait_for_jobs,
)
from tests.dashboard.factories import (
    EXACT_LAYER,
    make_partial_report,
    make_report,
    make_sensitivity,
)

PAGE = "views/sensitivity/sensitivity.py"
SETTINGS = Settings("resnet", PRESETS["int8_mse"])
LINK = {"run": "resnet int8_mse"}
pytestmark = pytest.mark.usefixtures("no_computing")


def keep_run(*sensitivities: SensitivityReport, **changes: Any) -> Run:
    run = Run(SETTINGS, changes.pop("report", make_report()), sensitivities, **changes)
    store().put(run)
    return run


def test_a_measured_run_shows_four_figures_and_the_table() -> None:
    keep_run(make_sensitivity())

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 4
    (table,) = app.dataframe
    expected = [row.name for row in rank_layers(make_sensitivity(), METRICS["kl_divergence"])]
    assert list(table.value["Layer"]) == expected
    bars = figure(app, "KL divergence")["data"][0]
    assert bars["customdata"] == expected
    assert f"Culprit (measured): {expected[0]}" in texts(app)


def test_the_stored_example_shows_without_computing() -> None:
    app = open_app(page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 4
    assert "Stored example" in texts(app)


def test_every_figure_has_a_text_and_an_explanation() -> None:
    keep_run(make_sensitivity())
    app = open_app(LINK, page=PAGE)

    for chart in app.get("plotly_chart"):
        assert len(chart.proto.alt) > 20
    assert len(app.get("popover")) >= 4
    assert len(app.get("download_button")) >= 4


@pytest.mark.parametrize("key", list(METRICS))
def test_each_measure_orders_bars_and_table(key: str) -> None:
    keep_run(make_sensitivity())
    metric = METRICS[key]

    app = open_app({**LINK, "metric": metric.label}, page=PAGE)

    assert_alive(app)
    expected = [row.name for row in rank_layers(make_sensitivity(), metric)]
    assert list(app.dataframe[0].value["Layer"]) == expected
    assert figure(app, metric.label)["data"][0]["customdata"] == expected
    assert app.toggle(key="log").disabled == (not metric.allows_log)


def test_the_axis_is_logarithmic_until_it_is_switched() -> None:
    keep_run(make_sensitivity())
    app = open_app(LINK, page=PAGE)
    assert figure(app, "KL divergence")["layout"]["xaxis"]["type"] == "log"

    app.toggle(key="log").set_value(False).run()

    assert figure(app, "KL divergence")["layout"]["xaxis"].get("type") != "log"
    linked = open_app({**LINK, "log": "false"}, page=PAGE)
    assert figure(linked, "KL divergence")["layout"]["xaxis"].get("type") != "log"


def test_number_of_layers_and_filter_change_the_bars_only() -> None:
    keep_run(make_sensitivity())
    app = open_app({**LINK, "find": "LAYER1", "top": "10"}, page=PAGE)

    assert sorted(figure(app, "KL divergence")["data"][0]["customdata"]) == [
        "layer1.0.conv1",
        "layer1.0.conv2",
    ]
    assert len(app.dataframe[0].value) == len(make_sensitivity().layers)

    app.text_input(key="find").set_value("nothing like this").run()
    assert_alive(app)
    empty = figure(app, "KL divergence")
    assert not empty["data"]
    assert "No layer fits" in empty["layout"]["annotations"][0]["text"]


def test_the_selected_layer_is_marked_in_every_figure() -> None:
    keep_run(make_sensitivity())
    app = open_app({**LINK, "layer": "head.0"}, page=PAGE)

    assert any(text.startswith("▶") for text in figure(app, "KL")["layout"]["yaxis"]["ticktext"])
    assert any("head.0" in (t.get("name") or "") for t in figure(app, "Bytes saved")["data"])
    assert any(t.get("name") == "selected layer" for t in figure(app, "Error and")["data"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metric", "Vibes"),
        ("direction", "sideways"),
        ("top", "1e9"),
        ("proxy", "Guess"),
        ("kept", "lots"),
        ("find", "<script>alert(1)</script>"),
        ("log", "maybe"),
    ],
)
def test_nonsense_in_the_link_leaves_the_page_alive(key: str, value: str) -> None:
    keep_run(make_sensitivity())

    app = open_app({**LINK, key: value}, page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 4
    if key != "find":  # any text may be looked for
        assert f"The link's {key} is" in texts(app)
        assert link_of(app).get(key) != value


def test_a_run_without_sensitivity_offers_to_measure_it() -> None:
    keep_run()

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert not figures(app)
    assert "Not measured yet for this run" in texts(app)
    assert not button(app, "Measure sensitivity").disabled


def test_the_other_direction_is_measured_on_its_own() -> None:
    keep_run(make_sensitivity())

    app = open_app({**LINK, "direction": "Leave-one-out"}, page=PAGE)

    assert_alive(app)
    assert "leave-one-out" in texts(app)
    assert not figures(app)
    assert button(app, "Measure sensitivity")


def test_both_directions_are_kept_apart() -> None:
    keep_run(make_sensitivity(), make_sensitivity("leave_one_out"))
    metric = METRICS["kl_divergence"]

    app = open_app({**LINK, "direction": "Leave-one-out"}, page=PAGE)

    assert_alive(app)
    expected = [row.name for row in rank_layers(make_sensitivity("leave_one_out"), metric)]
    assert list(app.dataframe[0].value["Layer"]) == expected
    assert figure(app, "Bytes given back")
    app.segmented_control(key="direction").set_value("Single-layer").run()
    assert list(app.dataframe[0].value["Layer"]) == expected[::-1]


def test_a_run_measured_in_one_direction_opens_with_it() -> None:
    keep_run(make_sensitivity("leave_one_out"))

    app = open_app(LINK, page=PAGE)

    assert app.segmented_control(key="direction").value == "Leave-one-out"
    assert figures(app)


def test_a_model_that_quantizes_nothing_says_so() -> None:
    report = make_report()
    floats = tuple(replace(layer, status="excluded", weight=None) for layer in report.layers)
    keep_run(report=replace(report, layers=floats))

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert "quantizes no layer" in texts(app)
    assert "Measure sensitivity" not in [b.label for b in app.button]


def test_outputs_that_are_no_logits_are_ranked_by_their_error() -> None:
    keep_run(make_sensitivity(has_logits=False, has_labels=False))

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert app.selectbox(key="metric").options == ["Output NMSE", "Output SQNR"]
    assert len(figures(app)) == 4
    app.selectbox(key="metric").set_value("Output SQNR").run()
    assert_alive(app)


def test_a_link_with_a_measure_the_run_does_not_have_falls_back() -> None:
    keep_run(make_sensitivity(has_logits=False, has_labels=False))

    app = open_app({**LINK, "metric": "KL divergence"}, page=PAGE)

    assert_alive(app)
    assert "The link's metric is “KL divergence”" in texts(app)
    assert app.selectbox(key="metric").value == "Output NMSE"


def test_a_partial_measurement_is_shown_and_marked() -> None:
    partial = replace(make_sensitivity(), cumulative=(), samples=64, is_partial=True)
    keep_run(partial)

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert "Stopped early: measured on 64 samples" in texts(app)
    assert "stopped before it" in texts(app)
    assert len(figures(app)) == 3
    assert button(app, "Measure again in full")


def test_layers_that_were_stopped_are_named_and_can_be_measured_in_full() -> None:
    whole = make_sensitivity()
    first, *others = whole.layers
    keep_run(replace(whole, layers=(replace(first, samples=64), *others)))

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert f"1 layer of {len(whole.layers)} judged on fewer than all" in texts(app)
    assert button(app, "Measure all layers on all samples")
    report, metric = make_report(), METRICS["kl_divergence"]
    stopped = replace(whole, layers=(replace(first, samples=64), *others))
    rows = {r["Layer"]: r for r in table_rows(report, rank_layers(stopped, metric), metric)}
    assert rows[first.name]["Samples"] == 64
    assert {rows[other.name]["Samples"] for other in others} == {report.evaluation_samples}
    assert not any("Samples" in r for r in table_rows(report, rank_layers(whole, metric), metric))


@pytest.mark.usefixtures("computes")
def test_a_measurement_may_stop_where_it_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(settings: Settings, sweep: Sweep, control: Any) -> SensitivityReport:
        asked.append(sweep.precision)
        return make_sensitivity(sweep.direction)

    monkeypatch.setattr(service, "measure_settings", measure)
    for is_on, expected in ((False, None), (True, 0.3)):
        keep_run()
        app = open_app(LINK, page=PAGE)
        if is_on:
            next(t for t in app.toggle if t.label == "Stop where it is clear").set_value(True)
            app.run()
        button(app, "Measure sensitivity").click().run()
        wait_for_jobs(app)
        assert asked.pop() == expected
        assert len(figures(app)) == 4


def test_an_analysis_without_layer_errors_has_nothing_to_compare() -> None:
    report = make_report()
    bare = tuple(
        replace(layer, weight=None, input=None, local_error=None) for layer in report.layers
    )
    keep_run(make_sensitivity(), report=replace(report, layers=bare))

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert "no per-layer SQNR" in texts(app)
    assert len(figures(app)) == 3


def test_a_partial_analysis_can_be_measured() -> None:
    keep_run(report=make_partial_report())

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert button(app, "Measure sensitivity")


def test_hundreds_of_layers_with_long_names() -> None:
    report, sensitivity = make_report(), make_sensitivity()
    names = [f"encoder.blocks.{i}.attention.out_projection.inner" for i in range(180)]
    layers = tuple(replace(report.layers[0], name=name) for name in names)
    measured = tuple(replace(sensitivity.layers[0], name=name) for name in names)
    keep_run(
        replace(sensitivity, layers=measured, cumulative=()), report=replace(report, layers=layers)
    )

    app = open_app({**LINK, "top": "all"}, page=PAGE)

    assert_alive(app)
    assert len(figure(app, "KL divergence")["data"][0]["y"]) in (180, 2)  # a list, or packed
    assert len(app.dataframe[0].value) == 180
    assert "179 layers" in texts(app)  # all are equal: each could be the first


@pytest.mark.usefixtures("computes")
def test_measuring_shows_the_first_values_then_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_run()
    held = Held()

    def measure(settings: Settings, sweep: Sweep, control: Any) -> SensitivityReport:
        partial = replace(
            make_sensitivity(sweep.direction), samples=32, is_partial=True, cumulative=()
        )
        control._last_update = 0.0
        control.on_update(lambda: partial)
        control.progress(3, 10, "layer head.0")
        held.wait()
        return make_sensitivity(sweep.direction)

    monkeypatch.setattr(service, "measure_settings", measure)
    app = open_app(LINK, page=PAGE)
    button(app, "Measure sensitivity").click().run()
    held.look(app)

    assert_alive(app)
    assert "values from 32 samples so far" in texts(app)
    assert len(figures(app)) == 1
    assert "layer head.0" in "".join(bar.proto.text for bar in app.get("progress"))

    held.end(app)
    assert_alive(app)
    assert len(figures(app)) == 4
    assert not app.get("progress")


@pytest.mark.usefixtures("computes")
def test_cancelling_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run()
    held = Held()

    def measure(settings: Settings, sweep: Sweep, control: Any) -> SensitivityReport:
        partial = replace(
            make_sensitivity(sweep.direction), samples=32, is_partial=True, cumulative=()
        )
        control.on_update(lambda: partial)
        held.wait()
        control.progress(4, 10, "layer head.0")
        raise AssertionError("it was not cancelled")

    monkeypatch.setattr(service, "measure_settings", measure)
    app = open_app(LINK, page=PAGE)
    button(app, "Measure sensitivity").click().run()
    held.cancel(app)

    assert_alive(app)
    assert "Stopped early: measured on 32 samples" in texts(app)
    assert len(figures(app)) == 3


@pytest.mark.usefixtures("computes")
def test_a_failure_is_told_and_the_page_can_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run()

    def measure(settings: Settings, sweep: Sweep, control: Any) -> SensitivityReport:
        raise DataError("The evaluation data is empty. Give at least one batch.")

    monkeypatch.setattr(service, "measure_settings", measure)
    app = open_app(LINK, page=PAGE)
    button(app, "Measure sensitivity").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    assert "The evaluation data is empty" in texts(app)
    assert "Traceback" not in texts(app)
    assert button(app, "Measure sensitivity")


@pytest.mark.usefixtures("computes")
def test_the_real_engine_measures_and_keeps_chosen_layers_in_float() -> None:
    app = open_app({"run": "mlp int8_symmetric"}, page=PAGE)
    wait_for_jobs(app)
    button(app, "Measure sensitivity").click().run()
    wait_for_jobs(app)
    assert_alive(app)
    assert len(figures(app)) == 4
    run = store().get(Settings("mlp", PRESETS["int8_symmetric"]).run_id)
    assert run is not None
    assert run.sensitivity is not None
    last = run.sensitivity.cumulative[-1].layer

    app.number_input(key="kept").set_value(1).run()
    assert "Measured:" in texts(app)
    button(app, "Keep 1 layer in float and re-run").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    assert link_of(app)["run"] == f"mlp int8_symmetric exclude:{last}"
    assert "Not measured yet for this run" in texts(app)


def test_the_split_names_what_was_measured_there() -> None:
    sensitivity = make_sensitivity()
    keep_run(sensitivity)

    app = open_app({**LINK, "kept": "2"}, page=PAGE)

    assert_alive(app)
    point = sensitivity.cumulative[-3]
    assert point.accuracy is not None
    assert f"accuracy {100 * point.accuracy:.2f}".rstrip("0") + " %" in texts(app)
    assert not button(app, "Keep 2 layers in float and re-run").disabled
    app.number_input(key="kept").set_value(0).run()
    assert button(app, "Keep 0 layers in float and re-run").disabled


def test_a_split_that_was_not_measured_says_so() -> None:
    sensitivity = make_sensitivity()
    first, *_, last = sensitivity.cumulative
    added = tuple(point.layer for point in sensitivity.cumulative[1:])
    keep_run(replace(sensitivity, cumulative=(first, replace(last, added=added))))

    app = open_app({**LINK, "kept": "2"}, page=PAGE)

    assert_alive(app)
    assert f"Not measured: the curve was, at 0 and all {last.count} layers" in texts(app)
    assert not button(app, "Keep 2 layers in float and re-run").disabled


def test_without_a_choice_nothing_can_be_excluded() -> None:
    keep_run(make_sensitivity())

    app = open_app(LINK, page=PAGE)

    assert button(app, "Exclude these and re-run").disabled


def test_table_rows_hold_measured_and_cheap_numbers() -> None:
    report, sensitivity, metric = make_report(), make_sensitivity(), METRICS["kl_divergence"]
    ranked = rank_layers(sensitivity, metric)

    rows = table_rows(report, ranked, metric)

    by_name = {row["Layer"]: row for row in rows}
    layer = report.layer("head.0")
    assert layer.local_error is not None
    assert by_name["head.0"]["Local SQNR (dB)"] == layer.local_error.sqnr_db
    assert by_name["head.0"]["Saved (kB)"] == pytest.approx(
        (layer.size.float_bytes - layer.size.quantized_bytes) / 1000
    )
    assert by_name[EXACT_LAYER]["Weight SQNR (dB)"] is None  # exact: no finite number
    assert [row["Rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["Layer"] for row in rows if row["Effect"]] == [EXACT_LAYER]


def test_the_table_says_what_an_error_of_zero_means() -> None:
    report, sensitivity, metric = make_report(), make_sensitivity(), METRICS["kl_divergence"]
    first, second, *others = sensitivity.layers
    unreached = replace(first, nmse=0.0, kl_divergence=0.0, reaches_output=False)
    unmoved = replace(second, nmse=0.0, kl_divergence=0.0)
    ranked = rank_layers(replace(sensitivity, layers=(unreached, unmoved, *others)), metric)

    by_name = {row["Layer"]: row for row in table_rows(report, ranked, metric)}

    assert by_name[first.name]["Effect"] == "does not reach the judged output"
    samples = report.evaluation_samples
    assert by_name[second.name]["Effect"] == f"no effect on these {samples} samples"
    assert by_name[first.name][metric.title] is by_name[second.name][metric.title] is None
    assert by_name[others[0].name]["Effect"] == ""


def test_the_headline_says_what_is_judged_where_that_is_not_plain() -> None:
    line = "judged: the first of 2 outputs, read as values by NMSE; output 2 is not judged"
    keep_run(report=replace(make_report(), judged=line))

    app = open_app(LINK, page=PAGE)

    assert f"samples: {line.removeprefix('judged: ')}." in texts(app)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1.14, 1.3e-6), "%.3g"), ((2.89, 0.0), "%.3g"), ((9.2e-6, 1.3e-6), "%.2e")],
)
def test_numbers_are_written_in_full_unless_all_are_tiny(
    values: tuple[float, ...], expected: str
) -> None:
    empty = dict.fromkeys(("Local SQNR (dB)", "Weight SQNR (dB)", "Input SQNR (dB)", "Saved (kB)"))
    rows = [{"KL divergence (nats)": value, **empty} for value in values]
    settings = column_settings(rows, METRICS["kl_divergence"])
    assert settings["KL divergence (nats)"]["type_config"]["format"] == expected


def test_a_column_without_positive_numbers_has_no_bars() -> None:
    rows = [{"Layer": "a", "KL divergence (nats)": 0.0, "Saved (kB)": -1.0}]
    rows[0] |= dict.fromkeys(("Local SQNR (dB)", "Weight SQNR (dB)", "Input SQNR (dB)"), None)  # type: ignore[arg-type]
    settings = column_settings(rows, METRICS["kl_divergence"])
    assert settings["KL divergence (nats)"]["type_config"]["type"] == "number"
    assert settings["Saved (kB)"]["type_config"]["type"] == "number"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, ()),
        ({}, ()),
        ({"selection": {"rows": []}}, ()),
        ({"selection": {"rows": [2, 0]}}, ("c", "a")),
        ({"selection": {"rows": [7, -1, 1]}}, ("b",)),
    ],
)
def test_chosen_rows_are_named(event: Any, expected: tuple[str, ...]) -> None:
    assert chosen_names(event, ["a", "b", "c"]) == expected
