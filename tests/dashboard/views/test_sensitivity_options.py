"""The sensitivity page with parts and widths: its controls, its links, and acting on a choice."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.sweeps import Sweep, split_options
from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.ranking import rank_layers
from dashboard.session import run_state
from dashboard.session.jobs import store
from dashboard.views.sensitivity.table import describe_bits, give_bits_and_rerun
from dashboard.views.sensitivity.unmeasured import describe_work
from dashboard.words.formatting import format_bytes
from dashboard.work import service
from quant_engine.report import SensitivityReport
from quant_engine.scheme import PRESETS
from tests.dashboard.app_harness import assert_alive, open_app, texts, wait_for_jobs
from tests.dashboard.factories import make_report, make_sensitivity
from tests.dashboard.option_reports import make_options
from tests.dashboard.views.test_sensitivity import button, figure, figures

PAGE = "views/sensitivity/sensitivity.py"
SETTINGS = Settings("resnet", PRESETS["int8_mse"])
LINK: dict[str, Any] = {"run": "resnet int8_mse"}
WIDE = Sweep(bits=(8, 4, 2))
CURVE_RUNS = 6  # of its 8 counts two stand in the sweep
WIDE_LINK = {**LINK, "widths": ["8", "4", "2"]}
pytestmark = pytest.mark.usefixtures("no_computing")


def keep_run(*sensitivities: SensitivityReport, settings: Settings = SETTINGS) -> Run:
    run = Run(settings, make_report(), sensitivities)
    store().put(run)
    return run


def layers_of(app: AppTest) -> list[str]:
    return list(app.dataframe[0].value["Layer"])


def test_several_widths_show_a_grid_and_rank_at_the_widest() -> None:
    keep_run(make_sensitivity(), make_options(WIDE))

    app = open_app(WIDE_LINK, page=PAGE)

    assert_alive(app)
    assert len(figures(app)) == 5
    grid = figure(app, "KL divergence (nats), layers × widths")["data"][0]
    assert len(grid["text"]) == 3 * (len(make_sensitivity().layers) + 1)
    assert app.segmented_control(key="option").value == "8 bits"
    eight = split_options(make_options(WIDE))["8 bits"]
    assert layers_of(app) == [row.name for row in rank_layers(eight, METRICS["kl_divergence"])]


def test_the_width_decides_the_ranking_and_says_where_the_curve_is() -> None:
    keep_run(make_options(WIDE))

    app = open_app({**WIDE_LINK, "option": "2 bits"}, page=PAGE)

    assert_alive(app)
    two = split_options(make_options(WIDE))["2 bits"]
    assert layers_of(app) == [row.name for row in rank_layers(two, METRICS["kl_divergence"])]
    assert "int2 weights" in figure(app, "KL divergence (nats)<br>")["layout"]["title"]["text"]
    assert "The curve was measured at 8 bits" in texts(app)
    assert "Quantized without a loss of accuracy" not in texts(app)
    app.segmented_control(key="option").set_value("8 bits").run()
    assert figure(app, "Error and accuracy")
    assert "Quantized without a loss of accuracy" in texts(app)


def test_parts_and_widths_are_kept_apart_and_offered() -> None:
    weights = make_options(Sweep(parts="weights", bits=(8, 4)))
    keep_run(make_sensitivity(), make_options(WIDE), weights)

    app = open_app(LINK, page=PAGE)
    assert_alive(app)
    assert len(figures(app)) == 4
    button(app, "Single-layer, weights only, 8 and 4 bits").click().run()

    assert_alive(app)
    assert app.segmented_control(key="parts").value == "Weights only"
    assert list(app.session_state["widths"]) == ["8", "4"]
    assert len(figures(app)) == 5
    assert "only this layer's weights" in texts_of_titles(app)
    assert "the run's own scheme" in texts(app)  # what the cheap numbers are about


def texts_of_titles(app: AppTest) -> str:
    return " ".join(found["layout"]["title"]["text"] for found in figures(app))


def test_what_is_not_measured_is_offered_with_the_number_of_runs() -> None:
    run = keep_run(make_sensitivity())
    count = len(run.report.quantized_layers)

    app = open_app({**WIDE_LINK, "parts": "Weights only"}, page=PAGE)

    assert_alive(app)
    assert not figures(app)
    assert "single-layer, weights only, 8, 4 and 2 bits" in texts(app)
    assert f"{3 * (count + 1) + CURVE_RUNS} runs of the model" in texts(app)
    assert not button(app, "Measure sensitivity").disabled
    button(app, "Single-layer").click().run()
    assert len(figures(app)) == 4


@pytest.mark.parametrize(
    ("link", "word", "kept"),
    [
        ({"parts": "Nothing"}, "The link's parts is “Nothing”", ()),
        ({"widths": ["9"]}, "The link's widths is “9”", ()),
        ({"widths": ["8", "x", "4", "2"]}, "Left out", ("8", "4", "2")),
        ({"widths": ["8", "4", "2"], "option": "5 bits"}, "The link's option", ("8", "4", "2")),
    ],
)
def test_nonsense_in_the_link_falls_back_with_a_notice(
    link: dict[str, Any], word: str, kept: tuple[str, ...]
) -> None:
    keep_run(make_sensitivity(), make_options(WIDE))

    app = open_app({**LINK, **link}, page=PAGE)

    assert_alive(app)
    assert word in texts(app)
    assert tuple(app.session_state["widths"]) == kept
    assert len(figures(app)) == (5 if kept else 4)


def test_inputs_alone_have_no_widths_and_save_no_bytes() -> None:
    keep_run(make_options(Sweep(parts="activations")))

    app = open_app({**WIDE_LINK, "parts": "Inputs only"}, page=PAGE)

    assert_alive(app)
    assert app.pills(key="widths").disabled
    assert "Rounding inputs alone saves no bytes" in texts(app)
    assert "only this layer's inputs rounded" in texts_of_titles(app)
    assert len(figures(app)) == 3


def test_a_run_that_rounds_no_inputs_says_so() -> None:
    settings = Settings("resnet", PRESETS["int8_weights_only"])
    keep_run(make_sensitivity(), settings=settings)

    app = open_app({"run": "resnet int8_weights_only", "parts": "Inputs only"}, page=PAGE)
    assert_alive(app)
    assert "leaves the inputs of all layers in float" in texts(app)
    assert "Measure sensitivity" not in [b.label for b in app.button]

    app.segmented_control(key="parts").set_value("Weights only").run()
    assert "both choices are the same here" in texts(app)
    assert len(figures(app)) == 4


def test_a_run_opens_with_the_only_sweep_that_was_measured() -> None:
    keep_run(make_options(Sweep("leave_one_out", "weights", (4, 2))))

    app = open_app(LINK, page=PAGE)

    assert_alive(app)
    assert app.segmented_control(key="direction").value == "Leave-one-out"
    assert app.segmented_control(key="parts").value == "Weights only"
    assert len(figures(app)) == 5


def test_a_link_that_asks_for_a_sweep_is_not_overruled() -> None:
    keep_run(make_options(Sweep("leave_one_out", "weights", (4, 2))))

    app = open_app({**LINK, "direction": "Leave-one-out"}, page=PAGE)

    assert app.segmented_control(key="parts").value == "Weights and inputs"
    assert "Not measured yet" in texts(app)


def test_the_page_says_how_ties_were_decided() -> None:
    keep_run(make_options(WIDE))

    app = open_app(WIDE_LINK, page=PAGE)
    assert "compared on the same samples" in texts(app)

    app.selectbox(key="metric").set_value("Top-1 disagreement").run()
    assert "compared neighbours by KL divergence only" in texts(app)


def test_bits_can_be_given_only_where_widths_were_tried() -> None:
    keep_run(make_sensitivity(), make_options(WIDE))

    app = open_app(LINK, page=PAGE)
    assert not any("Give these" in b.label for b in app.button)
    app = open_app(WIDE_LINK, page=PAGE)
    # The run has 8 bits, so another width is offered first.
    assert button(app, "Give these layers 4 bits and re-run").disabled
    app = open_app({**WIDE_LINK, "option": "2 bits"}, page=PAGE)
    assert button(app, "Give these layers 2 bits and re-run").disabled


def test_giving_bits_changes_the_chosen_layers_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, asked = keep_run(make_options(WIDE)), []
    monkeypatch.setattr(run_state, "rerun_with", asked.append)

    give_bits_and_rerun(run, ("layer1.0.conv1", "head.0"), 4)

    (recipe,) = asked
    assert set(recipe.overrides) == {"layer1.0.conv1", "head.0"}
    for name in recipe.overrides:
        scheme = recipe.layer_scheme(name)
        assert scheme.weight.bits == 4
        assert scheme.activation == run.recipe.activation


def test_what_bits_save_is_told_before_they_are_given() -> None:
    run = keep_run(make_options(WIDE))
    report = split_options(make_options(WIDE))["4 bits"]
    layer = next(x for x in report.layers if x.name == "head.0")
    saved = run.report.layer("head.0").size.quantized_bytes - layer.quantized_bytes

    text = describe_bits(run, ["head.0"], report)

    assert f"shrinks by {format_bytes(saved)}." in text
    assert "Worst of them alone: head.0" in text


def test_the_work_is_described_with_its_number_of_runs() -> None:
    run = keep_run()
    count = len(run.report.quantized_layers)

    text = describe_work(run, Sweep("leave_one_out", bits=(4, 2)))

    assert f"{2 * (count + 1) + CURVE_RUNS} runs" in text
    switched = f"For each of its {count} layers, all others are switched at 2 widths, and the"
    assert text.startswith(switched)
    alone = describe_work(run, Sweep("one_at_a_time"))
    assert alone.startswith(f"Each of its {count} layers is switched alone, and the model's output")
    assert f"{service.model_info('resnet').test_samples} samples" in text


def test_measuring_asks_the_engine_for_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_run()
    asked = []

    def measure(settings: Settings, sweep: Sweep, control: Any) -> SensitivityReport:
        asked.append(sweep)
        return make_options(sweep)

    monkeypatch.setattr(service, "measure_settings", measure)
    app = open_app(WIDE_LINK, page=PAGE)
    button(app, "Measure sensitivity").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    assert asked == [WIDE]
    assert len(figures(app)) == 5
    kept = store().get(SETTINGS.run_id)
    assert kept is not None
    assert kept.sensitivity_for(WIDE) == make_options(WIDE)
    assert kept.sensitivity_for(Sweep()) is None
