"""The size and time page: every state, every control, and what it says about time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.session.jobs import store
from dashboard.work import service
from quant_engine.report import ModelReport
from quant_engine.scheme import PRESETS
from tests.dashboard.app_harness import (
    Held,
    assert_alive,
    figure,
    figures,
    open_app,
    texts,
    wait_for_jobs,
)
from tests.dashboard.factories import (
    LOOKED_UP_LAYER,
    make_partial_report,
    make_report,
    with_integer_times,
)

PAGE = "views/size_time/size_time.py"
SETTINGS = Settings("resnet", PRESETS["int8_mse"])
LINK = {"run": "resnet int8_mse"}
pytestmark = pytest.mark.usefixtures("no_computing")


def open_page(link: Mapping[str, str] | None = None) -> AppTest:
    """Open the page by way of the start page: its path in links is not its file's name."""
    return open_app(link).switch_page(PAGE).run()


def keep_run(report: ModelReport | None = None) -> Run:
    run = Run(SETTINGS, report or make_report())
    store().put(run)
    return run


def words(app: AppTest) -> str:
    """The page's text as it reads, without the marks that keep names from becoming Markdown."""
    return re.sub(r"\\(.)", r"\1", texts(app))


def titles(app: AppTest) -> list[str]:
    return [f["layout"]["title"]["text"].split("<br>")[0] for f in figures(app)]


def test_a_finished_run_shows_size_and_time() -> None:
    keep_run()

    app = open_page(LINK)

    assert_alive(app)
    assert titles(app) == [
        "Bytes of the model, step by step",
        "Bytes of each layer",
        "Time of one forward pass (ms), batch size 64",
        "Time inside each layer (ms)",
    ]
    text = texts(app)
    assert "Quantized model: 77.3 kB" in text
    assert "Bits per weight, with scales: 9.4" in text
    assert "Quantized file, measured: 80.4 kB" in text


def test_the_stored_example_shows_without_computing() -> None:
    app = open_page()

    assert_alive(app)
    assert any("Time of one forward pass (ms), batch size" in title for title in titles(app))
    assert "Time inside each layer (ms)" in titles(app)
    assert "never a speed-up" in texts(app)


def test_every_figure_has_a_text_an_explanation_and_its_data() -> None:
    keep_run()
    app = open_page(LINK)

    assert all(len(chart.proto.alt) > 20 for chart in app.get("plotly_chart"))
    assert len(app.get("popover")) >= 4
    assert len(app.get("download_button")) >= 4


def test_time_says_what_was_timed_and_that_simulation_is_no_speed_up() -> None:
    keep_run()

    app = open_page(LINK)
    text = texts(app)

    assert "slower than float by design" in text
    assert "never a speed-up" in text
    for part in ("Test CPU", "2 threads", "30 timed runs", "3 warm-up runs"):
        assert part in text
    beside = [note["text"] for note in figure(app, "Time of one")["layout"]["annotations"]]
    assert beside == ["22 ms (1.13 × baseline)", "19.5 ms (baseline)", "51 ms (2.62 × baseline)"]
    assert "Baseline: float (channels last), the faster of the two float layouts." in text


def test_another_batch_size_shows_its_own_times() -> None:
    keep_run()
    app = open_page({**LINK, "batch": "1"})

    assert_alive(app)
    assert "Time of one forward pass (ms), batch size 1" in titles(app)
    assert "simulated int8 4.1 ms" in texts(app)
    app.segmented_control(key="batch").set_value("64").run()
    assert "simulated int8 51 ms" in texts(app)


def test_a_single_batch_size_needs_no_choice() -> None:
    report = make_report()
    assert report.timing is not None
    models = tuple(entry for entry in report.timing.models if entry.batch_size == 1)
    keep_run(replace(report, timing=replace(report.timing, models=models)))

    app = open_page(LINK)

    assert_alive(app)
    assert "Batch size" not in [control.label for control in app.segmented_control]


def test_integer_executions_are_shown_apart_with_their_verdicts() -> None:
    keep_run(with_integer_times(make_report()))

    app = open_page(LINK)

    assert_alive(app)
    text = words(app)
    assert "**On integers: faster than float.**" in text
    assert "2.50 times as fast. The slower way, integer int8, takes 18.9 ms." in text
    assert "never a speed-up" in text
    assert "quantization error: integer int8 2.4 %; integer int8 (lowered) 12 % (root" in text
    labels = figure(app, "Time of one forward pass")["layout"]["yaxis"]["ticktext"]
    assert labels[-2:] == ["integer int8", "integer int8 (lowered)"]
    assert "Analyse again with integer times" not in [button.label for button in app.button]

    app.segmented_control(key="batch").set_value("1").run()
    text = words(app)
    assert "1.58 times as long" in text
    assert "2 of 9 layers lose time" in text


def test_a_run_whose_answers_were_not_compared_offers_to_do_that() -> None:
    report = with_integer_times(make_report())
    assert report.timing is not None
    keep_run(replace(report, timing=replace(report.timing, gaps=())))

    app = open_page(LINK)

    assert "Not measured in this run." in words(app)
    assert "Time again, and compare the answers" in [button.label for button in app.button]


def test_layers_that_gain_and_lose_are_drawn_and_can_be_clicked() -> None:
    keep_run(with_integer_times(make_report()))
    app = open_page({**LINK, "layer": "head.0"})

    times = figure(app, "Time inside each layer")
    assert all(trace["customdata"] for trace in times["data"] if trace.get("mode") != "lines")
    assert "▶ head.0" in times["layout"]["yaxis"]["ticktext"]
    assert "6 layers gain time, 2 lose" in words(app)


def test_kernels_and_layers_not_on_integers_are_listed_with_the_reason() -> None:
    keep_run(with_integer_times(make_report()))
    app = open_page(LINK)

    assert "9 of 10 quantized layers computed on integers, by kernel: oneDNN" in words(app)
    (rows,) = [d.value for d in app.dataframe if "Why not on integers" in d.value.columns]
    looked_up = rows[rows["Layer"] == LOOKED_UP_LAYER]
    assert list(looked_up["Why not on integers"]) == ["Rows are looked up; there are no products."]


def test_a_model_that_was_not_lowered_says_why() -> None:
    keep_run(with_integer_times(make_report(), is_lowered=False))

    text = words(open_page(LINK))

    assert "Integer int8 (lowered): not possible here." in text
    assert "A branch is traced." in text


def test_a_run_without_times_says_so_and_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run(replace(make_report(), timing=None))
    monkeypatch.setattr(service, "time_report", lambda report, settings, control: make_report())

    app = open_page(LINK)
    assert_alive(app)
    assert "no measured times" in texts(app)
    assert len(figures(app)) == 2

    app.button(key="measure_timing").click().run()
    wait_for_jobs(app)
    assert_alive(app)
    assert len(figures(app)) == 4


def test_unreliable_times_are_said_to_be_and_can_be_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = with_integer_times(make_report())
    assert good.timing is not None
    first, *others = good.timing.models
    shaky = replace(first, q3_ms=2 * first.median_ms)
    keep_run(replace(good, timing=replace(good.timing, models=(shaky, *others))))
    monkeypatch.setattr(service, "time_report", lambda report, settings, control: good)

    app = open_page(LINK)
    assert "Unreliable (quartiles over 30 % of the median apart" in words(app)
    press = [button for button in app.button if button.label == "Time again"]
    assert len(press) == 1
    press[0].click().run()
    wait_for_jobs(app)
    assert_alive(app)
    assert "Unreliable" not in words(app)
    assert "Time again" not in [button.label for button in app.button]


def test_errors_are_shown_and_kept_while_times_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held()

    def analyze(settings: Settings, control: Any) -> ModelReport:
        control.progress(9, 10, "measure every layer's error: batch 1")
        control.on_update(lambda: replace(make_report(), timing=None))
        held.wait()
        return make_report()

    monkeypatch.setattr(service, "analyze_settings", analyze)
    app = open_page(LINK)
    held.look(app)

    assert_alive(app)
    kept = store().get(SETTINGS.run_id)
    assert kept is not None
    assert kept.report.output == make_report().output
    assert "Times are being measured and appear here; all else is known." in texts(app)
    assert titles(app) == ["Bytes of the model, step by step", "Bytes of each layer"]
    held.end(app)
    assert len(figures(app)) == 4


def test_times_of_models_or_layers_alone() -> None:
    report = make_report()
    assert report.timing is not None
    keep_run(replace(report, timing=replace(report.timing, layers=())))
    app = open_page(LINK)
    assert_alive(app)
    assert "Single layers were not timed" in texts(app)

    keep_run(replace(report, timing=replace(report.timing, models=())))
    app = open_page(LINK)
    assert_alive(app)
    assert "Whole models were not timed" in texts(app)
    assert "Time inside each layer (ms)" in titles(app)


def test_a_partial_run_shows_its_layers_and_names_what_is_missing() -> None:
    keep_run(make_partial_report())

    app = open_page(LINK)

    assert_alive(app)
    text = texts(app)
    assert "Stopped early" in text
    assert "size of the whole model is not known" in text
    assert "Not finished" not in text
    assert "stopped before the models were timed" in text
    assert titles(app) == ["Bytes of each layer"]


def test_a_run_on_its_way_is_not_called_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()

    def analyze(settings: Settings, control: Any) -> ModelReport:
        control._last_update = 0.0
        control.on_update(make_partial_report)
        held.wait()
        return make_report()

    monkeypatch.setattr(service, "analyze_settings", analyze)
    app = open_page(LINK)
    held.look(app)

    assert_alive(app)
    text = texts(app)
    assert "Not finished yet" in text
    assert "Times are measured last" in text
    assert "Stopped early" not in text
    assert titles(app) == ["Bytes of each layer"]

    held.end(app)
    assert_alive(app)
    assert len(figures(app)) == 4


def test_a_run_without_layers_is_told() -> None:
    keep_run(replace(make_partial_report(), layers=()))

    app = open_page(LINK)

    assert_alive(app)
    assert not figure(app, "Bytes of each layer")["data"]


def test_order_and_number_of_layers() -> None:
    report = make_report()
    keep_run(report)
    app = open_page({**LINK, "rows": "10"})
    ticks = figure(app, "Bytes of each layer")["layout"]["yaxis"]["ticktext"]
    assert ticks[-1] == f"{len(report.layers) - 10} smaller layers"
    assert "layer3.0.conv1" in ticks[0]

    app.segmented_control(key="order").set_value("As they run").run()
    ticks = figure(app, "Bytes of each layer")["layout"]["yaxis"]["ticktext"]
    order = [layer.name for layer in report.layers]
    shown = [tick.removeprefix("▶ ") for tick in ticks[:-1]]
    assert shown == [name for name in order if name in shown]


def test_narrow_weights_are_said_to_be_packed() -> None:
    keep_run(make_report("int4_weights"))
    assert "fewer than 8 bits" in texts(open_page(LINK))
    keep_run()
    assert "fewer than 8 bits" not in texts(open_page(LINK))


def test_hundreds_of_layers_with_long_names() -> None:
    report = make_report()
    names = [f"encoder.blocks.{i}.attention.out_projection.inner" for i in range(180)]
    layers = tuple(replace(report.layers[1], name=name) for name in names)
    assert report.timing is not None
    times = tuple(replace(report.timing.layers[0], layer=name) for name in names)
    timing = replace(report.timing, layers=times)
    keep_run(replace(report, layers=layers, timing=timing))

    app = open_page({**LINK, "rows": "all"})

    assert_alive(app)
    for title in ("Bytes of each layer", "Time inside each layer"):
        assert len(figure(app, title)["layout"]["yaxis"]["ticktext"]) == 180


@pytest.mark.parametrize(
    ("key", "value"), [("rows", "-3"), ("order", "by mood"), ("batch", "9999")]
)
def test_nonsense_in_the_link_falls_back_with_a_notice(key: str, value: str) -> None:
    keep_run()

    app = open_page({**LINK, key: value})

    assert_alive(app)
    assert f"The link's {key} is “{value}”" in texts(app)
    assert len(figures(app)) == 4


def test_the_selected_layer_is_marked() -> None:
    keep_run()
    app = open_page({**LINK, "layer": "head.0"})

    for title in ("Bytes of each layer", "Time inside each layer"):
        assert "▶ head.0" in figure(app, title)["layout"]["yaxis"]["ticktext"]


def test_layers_can_be_clicked_and_single_figures_of_the_model_cannot() -> None:
    keep_run()
    app = open_page(LINK)

    for title in ("Bytes of each layer", "Time inside each layer"):
        for trace in figure(app, title)["data"]:
            assert trace.get("mode") == "lines" or trace["customdata"]
    assert "customdata" not in figure(app, "Bytes of the model, step")["data"][0]


def test_the_older_result_is_named_and_dimmed_while_another_one_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_run()
    held = Held()

    def analyze(settings: Settings, control: Any) -> ModelReport:
        held.wait()
        return make_report()

    monkeypatch.setattr(service, "analyze_settings", analyze)
    app = open_page(LINK)
    assert "Being computed" not in texts(app)
    app.text_input(key="run").set_value("resnet int8_entropy").run()

    assert_alive(app)
    text = words(app)
    assert "Being computed: ResNet-20, Int8, entropy." in text
    assert "paler, the result before it: ResNet-20, Int8, smallest error." in text
    assert "Settings changed" not in text
    assert len(figures(app)) == 4
    held.end(app)
    assert "Being computed" not in texts(app)
