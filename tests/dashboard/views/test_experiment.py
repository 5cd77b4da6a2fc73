"""The experiment page: idle, queued, running, cancelled, failed, done; and what the form says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.settings import Settings, settings_to_text
from dashboard.data.sweeps import Sweep
from dashboard.facts.accuracy import share_text
from dashboard.session import run_state
from dashboard.session.jobs import store
from dashboard.words.recipes import gloss
from dashboard.work import service
from quant_engine.errors import DataError
from quant_engine.report import ModelReport
from quant_engine.scheme import (
    PRESETS,
    AdaRound,
    Awq,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    OutputMse,
    Recipe,
    SmoothQuant,
    TensorScheme,
)
from tests.dashboard.app_harness import (
    assert_alive,
    link_of,
    open_app,
    texts,
    wait_for_jobs,
    widget,
)
from tests.dashboard.factories import make_partial_report, make_report

PAGE = "views/experiment/experiment.py"
SMALL = "mlp"
WAIT_SECONDS = 30.0


class SlowAnalysis:
    """Stands in for the engine: gives a partial report and ends when the test says so."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.settings: list[Settings] = []

    def __call__(self, settings: Settings, control: Any) -> ModelReport:
        self.settings.append(settings)
        control.progress(0, 10, "calibrate: batch 1")
        control.on_update(lambda: replace(make_partial_report(), model_name=settings.model_name))
        control.progress(4, 10, "measure the weights of layer1.0.conv1 (layer 4 of 10)")
        self.begun.set()
        while not self.go_on.wait(0.01):
            control.progress(4, 10, "measure the weights of layer1.0.conv1 (layer 4 of 10)")
        return replace(make_report(), model_name=settings.model_name, recipe=settings.recipe)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    analysis = SlowAnalysis()
    monkeypatch.setattr(service, "analyze_settings", analysis)
    yield analysis
    analysis.go_on.set()


def open_experiment(run: str = f"{SMALL} int8_per_channel") -> AppTest:
    return open_app({"run": run}, page=PAGE)


def change(app: AppTest, kind: str, label: str, value: Any) -> AppTest:
    widget(app, kind, label).set_value(value)
    return app.run()


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    return app.run()


def draft(app: AppTest) -> Settings:
    settings: Settings = app.session_state["session"].draft
    return settings


def test_the_form_gives_the_accuracy_as_other_pages_do() -> None:
    app = open_experiment()
    info = service.model_info(SMALL)
    wanted = share_text(info.accuracy, info.test_samples)
    (text,) = [str(line.value) for line in app.caption if " accurate" in str(line.value)]
    assert text.endswith(f" · {wanted} accurate")


def test_idle_shows_the_form_an_estimate_and_the_last_result() -> None:
    app = open_experiment()

    assert_alive(app)
    assert "Takes " in texts(app)
    assert "Result:" in texts(app)
    assert not app.get("progress")
    run = next(button for button in app.button if button.label == "Run")
    assert run.proto.shortcut.lower().replace(" ", "") == "ctrl+enter"
    assert not run.disabled
    assert draft(app) == Settings(SMALL)


def test_a_real_run_ends_with_measured_figures_and_downloads() -> None:
    app = open_experiment()
    change(app, "slider", "Weight bits", 4)
    assert "Settings changed, not run yet" in texts(app)

    press(app, "Run")
    wait_for_jobs(app)

    assert_alive(app)
    report = store().get(draft(app).run_id)
    assert report is not None
    assert report.report.layers[0].weight is not None
    assert report.report.layers[0].weight.scheme.bits == 4
    labels = {metric.label for metric in app.metric}
    assert labels == {
        "Accuracy, float → now",
        "Size, float → now",
        "Output SQNR",
        "Same answer as float",
        "Culprit (own error)",
    }
    files = [button.label for button in app.download_button]
    assert files == ["Report (HTML)", "Analysis (JSON)", "Layers (CSV)"]
    assert len(app.dataframe[-1].value) == len(report.report.layers)
    assert link_of(app)["run"].startswith(f"{SMALL} weight:4-")


def test_a_run_that_quantizes_nothing_names_no_culprit() -> None:
    app = wait_for_jobs(open_experiment(f"{SMALL} int8_per_channel exclude:*"))

    assert_alive(app)
    shown = {metric.label: (metric.value, metric.delta) for metric in app.metric}
    assert shown["Culprit"] == ("–", "")
    assert shown["Size, float → now"] == ("68.9 kB → 68.9 kB", "same size")
    assert shown["Output SQNR"][0] == "exact"


def test_running_shows_progress_partial_layers_and_cancel(slow: SlowAnalysis) -> None:
    app = open_experiment()
    press(app, "Run")
    assert slow.begun.wait(WAIT_SECONDS)
    app.run()

    assert_alive(app)
    bar = app.get("progress")[0].proto
    assert "layer 4 of 10" in bar.text
    assert bar.value == 40
    assert "Cancel" in [button.label for button in app.button]
    assert "Layers so far" in texts(app)
    assert next(button for button in app.button if button.label == "Run").disabled


def test_progress_shows_on_every_page(slow: SlowAnalysis) -> None:
    app = open_experiment()
    press(app, "Run")
    assert slow.begun.wait(WAIT_SECONDS)

    for page in (
        "views/start/start.py",
        "views/sensitivity/sensitivity.py",
        "views/layer/layer.py",
        "views/size_time/size_time.py",
    ):
        app.switch_page(page).run()
        assert_alive(app)
        assert app.get("progress"), page


def run_and_cancel(app: AppTest, slow: SlowAnalysis) -> None:
    press(app, "Run")
    assert slow.begun.wait(WAIT_SECONDS)
    app.run()
    press(app, "Cancel")
    wait_for_jobs(app)


def test_cancelling_keeps_what_is_known_and_marks_it(slow: SlowAnalysis) -> None:
    app = open_experiment()
    change(app, "slider", "Weight bits", 5)
    run_and_cancel(app, slow)

    assert_alive(app)
    kept = store().get(slow.settings[-1].run_id)
    assert kept is not None
    assert kept.report.is_partial
    assert "Stopped early" in texts(app)
    samples = service.model_info(SMALL).test_samples
    assert f"{kept.report.evaluation_samples} of {samples} samples" in texts(app)
    assert "cancelled before it had a result" not in texts(app)
    assert not app.get("progress")


def test_cancelling_a_repeat_keeps_the_whole_result_and_its_rankings(slow: SlowAnalysis) -> None:
    example = service.find_example(Settings(SMALL))
    assert example is not None
    assert example.sensitivities
    app = open_experiment()
    run_and_cancel(app, slow)

    assert_alive(app)
    shown = run_state.find_run(Settings(SMALL))
    assert shown is not None
    assert not shown.report.is_partial
    assert shown.sensitivities == example.sensitivities
    assert "Stopped early" not in texts(app)


def test_repeating_a_stored_example_keeps_its_rankings() -> None:
    app = open_experiment()
    press(app, "Run")
    wait_for_jobs(app)

    assert_alive(app)
    own, example = store().get(draft(app).run_id), service.find_example(Settings(SMALL))
    assert own is not None
    assert example is not None
    assert not own.is_example
    assert own.sensitivities == example.sensitivities


def test_a_partial_run_is_computed_again_when_asked_for(slow: SlowAnalysis) -> None:
    app = open_experiment()
    change(app, "slider", "Weight bits", 5)
    run_and_cancel(app, slow)
    slow.go_on.set()

    press(app, "Run")
    wait_for_jobs(app)

    assert len(slow.settings) == 2
    kept = store().get(slow.settings[-1].run_id)
    assert kept is not None
    assert not kept.report.is_partial


def test_a_known_failure_stays_until_it_is_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Settings, control: Any) -> ModelReport:
        control.progress(3, 10, "layer 3/10 conv_3*1 - calibrate")
        raise DataError("conv3: the weight holds NaN. Repair it before quantizing.")

    monkeypatch.setattr(service, "analyze_settings", fail)
    app = open_experiment()
    change(app, "slider", "Weight bits", 5)
    press(app, "Run")
    wait_for_jobs(app)

    assert_alive(app)
    assert "the weight holds NaN" in texts(app)
    assert "layer 3/10 conv_3*1 - calibrate" in texts(app)
    app.switch_page("views/layer/layer.py").run()
    assert "the weight holds NaN" in texts(app)

    press(app, "Dismiss")
    assert_alive(app)
    assert "the weight holds NaN" not in texts(app)
    assert link_of(app)["run"] == f"{SMALL} int8_per_channel"


def test_an_unknown_fault_shows_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> ModelReport:
        raise KeyError("inner secret")

    monkeypatch.setattr(service, "analyze_settings", fail)
    app = open_experiment()
    change(app, "slider", "Weight bits", 5)
    press(app, "Run")
    wait_for_jobs(app)

    assert_alive(app)
    assert "A fault in the program stopped it" in texts(app)
    assert "inner secret" not in texts(app)
    assert "Traceback" not in texts(app)


def test_a_second_tab_finds_the_work_of_the_first(slow: SlowAnalysis) -> None:
    first = open_experiment()
    change(first, "slider", "Weight bits", 5)
    press(first, "Run")
    assert slow.begun.wait(WAIT_SECONDS)

    second = open_experiment(link_of(first)["run"])

    assert_alive(second)
    assert second.get("progress")
    assert len(slow.settings) == 1
    slow.go_on.set()
    wait_for_jobs(second)
    assert "Result:" in texts(second)
    assert len(slow.settings) == 1


def test_a_second_tab_finds_a_measurement_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = service.measure_settings

    def slow_measure(settings: Settings, sweep: Sweep, control: Any) -> Any:
        control.progress(1, 9, "sensitivity: batch 1, run 1/9")
        begun.set()
        assert go_on.wait(WAIT_SECONDS)
        return real(settings, sweep, control)

    monkeypatch.setattr(service, "measure_settings", slow_measure)
    run = f"{SMALL} int8_weights_only"
    first = wait_for_jobs(open_app({"run": run}, page="views/sensitivity/sensitivity.py"))
    press(first, "Measure sensitivity")
    assert begun.wait(WAIT_SECONDS)

    second = open_app({"run": run}, page="views/sensitivity/sensitivity.py")

    assert "batch 1, run 1/9" in second.get("progress")[0].proto.text
    go_on.set()
    wait_for_jobs(second)
    assert_alive(second)
    measured = store().get(Settings(SMALL, PRESETS["int8_weights_only"]).run_id)
    assert measured is not None
    assert measured.sensitivity is not None


def test_a_second_session_queues_behind_the_first(slow: SlowAnalysis) -> None:
    first = open_experiment()
    change(first, "slider", "Weight bits", 5)
    press(first, "Run")
    assert slow.begun.wait(WAIT_SECONDS)
    second = open_experiment()
    change(second, "slider", "Weight bits", 6)
    press(second, "Run")
    second.run()

    assert "waiting for 1 other job" in second.get("progress")[0].proto.text
    press(second, "Cancel")
    assert "cancelled before it had a result" in texts(second)


def test_a_link_to_a_run_nobody_computed_computes_it(slow: SlowAnalysis) -> None:
    app = open_app(
        {"run": f"{SMALL} int8_mse", "layer": "layer1.0.conv1"}, page="views/layer/layer.py"
    )
    assert slow.begun.wait(WAIT_SECONDS)
    app.run()
    assert_alive(app)
    assert app.get("progress")

    slow.go_on.set()
    wait_for_jobs(app)
    assert_alive(app)
    assert slow.settings == [Settings(SMALL, PRESETS["int8_mse"])]
    assert app.selectbox(key="layer").value == "layer1.0.conv1"


def test_a_known_run_is_shown_at_once(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    app = open_experiment()
    change(app, "slider", "Weight bits", 5)
    press(app, "Run")
    wait_for_jobs(app)
    change(app, "slider", "Weight bits", 6)
    press(app, "Run")
    wait_for_jobs(app)
    assert len(slow.settings) == 2

    change(app, "slider", "Weight bits", 5)
    assert "Run shows the kept result at once" in texts(app)
    press(app, "Run")
    assert len(slow.settings) == 2
    assert not app.get("progress")
    assert "settings above differ" not in texts(app)

    change(app, "slider", "Weight bits", 6)
    press(app, "Run again")
    wait_for_jobs(app)
    assert len(slow.settings) == 3


def test_the_badge_offers_a_rerun_on_every_page(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    app = open_experiment()
    change(app, "slider", "Weight bits", 3)
    app.switch_page("views/layer/layer.py").run()
    assert "Re-run" in [button.label for button in app.button]

    press(app, "Re-run")
    wait_for_jobs(app)

    assert slow.settings[-1].recipe.weight.bits == 3
    assert "Re-run" not in [button.label for button in app.button]
    app.switch_page(PAGE).run()
    assert widget(app, "slider", "Weight bits").value == 3


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_sets_the_whole_form(name: str) -> None:
    app = open_experiment()

    app.button(key=f"preset_{name}").click().run()

    assert_alive(app)
    assert draft(app) == Settings(SMALL, PRESETS[name])


FORM: list[tuple[str, str, Any, Callable[[Recipe], Any], Any]] = [
    ("slider", "Weight bits", 3, lambda r: r.weight.bits, 3),
    ("radio", "Scales", "per_tensor", lambda r: r.weight.granularity, "per_tensor"),
    ("toggle", "Quantize layer inputs", False, lambda r: r.activation, None),
    ("slider", "Input bits", 4, lambda r: r.activation.bits, 4),
    ("toggle", "Equalize layers", True, lambda r: r.remedies, (CrossLayerEqualization(),)),
    ("toggle", "Smooth inputs", True, lambda r: r.remedies, (SmoothQuant(),)),
    ("toggle", "Scale and clip by AWQ", True, lambda r: r.remedies, (Awq(),)),
    ("toggle", "Narrow ranges by output error", True, lambda r: r.remedies, (OutputMse(),)),
    ("toggle", "Round by GPTQ", True, lambda r: r.remedies, (Gptq(),)),
    ("toggle", "Round by AdaRound", True, lambda r: r.remedies, (AdaRound(),)),
    ("toggle", "Correct biases", True, lambda r: r.remedies, (BiasCorrection(),)),
]


@pytest.mark.parametrize(("kind", "label", "value", "read", "expected"), FORM)
def test_each_widget_changes_its_setting(
    kind: str, label: str, value: Any, read: Callable[[Recipe], Any], expected: Any
) -> None:
    app = open_experiment()

    change(app, kind, label, value)

    assert_alive(app)
    assert read(draft(app).recipe) == expected
    assert draft(app).recipe != Recipe.default()


def test_scales_per_group_ask_for_the_group_and_say_what_they_cost() -> None:
    app = open_experiment()

    change(app, "radio", "Scales", "per_group")
    assert draft(app).recipe.weight == TensorScheme(granularity="per_group", group_size=32)
    assert "add 1 bits to a weight" in texts(app)
    change(app, "selectbox", "Weights in a group", 128)
    change(app, "slider", "Weight bits", 4)

    assert_alive(app)
    assert draft(app).recipe.weight == TensorScheme(4, granularity="per_group", group_size=128)
    change(app, "radio", "Scales", "per_channel")
    assert draft(app).recipe.weight == TensorScheme(4, granularity="per_channel")


def test_the_two_range_rules_are_separate() -> None:
    app = open_experiment()
    weights, inputs = (w for w in app.selectbox if w.label == "Range estimator")
    weights.set_value("percentile")
    inputs.set_value("entropy")
    app.run()
    change(app, "number_input", "Share of values inside the range, in percent", 99.5)

    recipe = draft(app).recipe
    assert recipe.weight == TensorScheme(
        granularity="per_channel", observer="percentile", percentile=99.5
    )
    assert recipe.activation is not None
    assert recipe.activation.observer == "entropy"


def test_adaround_rounds_behind_rounded_layers_or_each_layer_by_itself() -> None:
    app = open_experiment()
    assert "AdaRound's inputs" not in [radio.label for radio in app.radio]

    change(app, "toggle", "Round by AdaRound", True)
    change(app, "radio", "AdaRound's inputs", False)

    assert_alive(app)
    assert draft(app).recipe.remedies == (AdaRound(is_sequential=False),)


def test_biases_are_corrected_by_samples_or_by_batchnorm() -> None:
    app = open_experiment()
    assert "Mean errors of the biases" not in [radio.label for radio in app.radio]

    change(app, "toggle", "Correct biases", True)
    change(app, "radio", "Mean errors of the biases", "batch_norm")

    assert_alive(app)
    assert draft(app).recipe.remedies == (BiasCorrection(means="batch_norm"),)


def test_hqq_is_there_for_weights_that_have_zero_points() -> None:
    app = open_experiment()
    weights, inputs = (w for w in app.selectbox if w.label == "Range estimator")
    assert not any("HQQ" in choice for choice in (*weights.options, *inputs.options))

    app.toggle(key=symmetric_key(app)).set_value(False).run()
    weights, inputs = (w for w in app.selectbox if w.label == "Range estimator")
    assert not any("HQQ" in choice for choice in inputs.options)
    weights.set_value("hqq").run()

    assert_alive(app)
    assert draft(app).recipe.weight == TensorScheme(
        symmetric=False, granularity="per_channel", observer="hqq"
    )
    app.toggle(key=symmetric_key(app)).set_value(True).run()
    assert_alive(app)
    assert draft(app).recipe.weight == TensorScheme(granularity="per_channel")


def symmetric_key(app: AppTest) -> str:
    """Key of the switch for symmetric weights; that for inputs has the same label."""
    return next(str(t.key) for t in app.toggle if "weight_symmetric" in str(t.key))


def test_samples_and_seed_are_part_of_the_run() -> None:
    app = open_experiment()
    assert widget(app, "number_input", "Seed").disabled

    change(app, "slider", "Calibration samples", 50)
    change(app, "number_input", "Seed", 7)

    assert (draft(app).calibration_samples, draft(app).seed) == (50, 7)
    assert draft(app).run_id != Settings(SMALL).run_id


def test_layers_can_stay_in_float_by_name_or_pattern() -> None:
    names = [option.name for option in service.layer_options(SMALL)]
    app = open_experiment()

    change(app, "multiselect", "Keep in float", [names[0], "nothing*"])

    assert_alive(app)
    assert draft(app).recipe.exclude_layers == (names[0], "nothing*")
    assert "No layer of this model is called “nothing*”" in texts(app)


def test_another_model_forgets_the_layers_of_the_first() -> None:
    name = service.layer_options(SMALL)[0].name
    app = open_experiment(f"{SMALL} int8_mse exclude:{name}")
    wait_for_jobs(app)
    assert draft(app).recipe.exclude_layers == (name,)

    change(app, "selectbox", "Model", "resnet")

    assert_alive(app)
    assert draft(app) == Settings("resnet", PRESETS["int8_mse"])


def test_a_link_fills_the_form(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    first, second, *_ = (option.name for option in service.layer_options(SMALL))
    run = f"{SMALL} int8_mse exclude:{first} bits:{second}:4:6 samples:64 seed:3"

    app = open_experiment(run)
    wait_for_jobs(app)

    assert_alive(app)
    assert link_of(app)["run"] == run
    assert draft(app) == slow.settings[-1]
    rows = {row["Layer"]: row for row in app.data_editor[0].value.to_dict("records")}
    assert (rows[second]["Weight bits"], rows[second]["Input bits"]) == (4, 6)
    assert widget(app, "multiselect", "Keep in float").value == [first]


def test_remedies_of_a_link_are_switched_on_and_stay_with_a_preset(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    name = service.layer_options(SMALL)[0].name
    app = open_experiment(f"{SMALL} int8_per_channel remedy:gptq remedy:smooth_quant-0.5:{name}")
    wait_for_jobs(app)
    given = (SmoothQuant(layers=(name,), alpha=0.5), Gptq())
    assert draft(app).recipe.remedies == given

    app.button(key="preset_int8_mse").click().run()
    assert draft(app).recipe.remedies == given
    change(app, "toggle", f"Smooth inputs (only {name})", False)
    assert draft(app).recipe.remedies == (Gptq(),)
    change(app, "selectbox", "Model", "resnet")
    assert_alive(app)
    assert draft(app).recipe.remedies in ((), (Gptq(),))


def test_a_preset_keeps_layers_in_float_and_bits_of_single_layers(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    first, second, *_ = (option.name for option in service.layer_options(SMALL))
    app = open_experiment(f"{SMALL} int8_per_channel exclude:{first} bits:{second}:4")
    wait_for_jobs(app)

    app.button(key="preset_int8_mse").click().run()

    recipe = draft(app).recipe
    assert recipe.exclude_layers == (first,)
    assert recipe.overrides[second].weight == replace(PRESETS["int8_mse"].weight, bits=4)


def test_a_stored_example_is_computed_anew_on_this_machine(slow: SlowAnalysis) -> None:
    slow.go_on.set()
    app = open_experiment()
    assert "A stored example" in texts(app)

    press(app, "Run")
    wait_for_jobs(app)

    assert len(slow.settings) == 1
    assert "A stored example" not in texts(app)


def test_a_link_with_an_unknown_layer_falls_back_with_a_notice(slow: SlowAnalysis) -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel exclude:zzz"}, page=PAGE)

    assert_alive(app)
    assert "“zzz” in float, which this model does not have" in texts(app)
    assert draft(app) == Settings(SMALL)
    assert app.session_state["run"] == f"{SMALL} int8_per_channel"


def test_settings_that_were_not_run_are_in_the_link_and_come_back_from_it() -> None:
    app = open_experiment()
    assert not link_of(app).get("draft")
    change(app, "slider", "Weight bits", 3)
    text = link_of(app)["draft"]
    assert text == settings_to_text(draft(app))

    other = open_app({"run": f"{SMALL} int8_per_channel", "draft": text}, page=PAGE)
    assert_alive(other)
    assert draft(other) == draft(app)
    assert "Settings changed, not run yet" in texts(other)


def test_terms_are_explained_where_they_first_stand() -> None:
    assert gloss("SQNR", "KL") in texts(open_experiment())
