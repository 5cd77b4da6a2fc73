"""Compare: any two runs side by side, by pickers, by link, and after a re-run."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings, settings_to_text
from dashboard.data.stories import STORIES
from dashboard.facts.compare.compared_layers import METRICS, LayerMetric
from dashboard.facts.diagnosis.culprit import output_effects
from dashboard.figures.compare.pair import MOST_FLIPPED, pair
from dashboard.session.jobs import store, watched_jobs
from dashboard.views.compare.downloads import layers_csv, report_of
from dashboard.work import service
from quant_engine.errors import DataError
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import PRESETS
from tests.dashboard.app_harness import (
    assert_alive,
    link_of,
    open_app,
    texts,
    use_home,
    wait_for_jobs,
)
from tests.dashboard.factories import make_partial_report, make_report

PAGE = "views/compare/compare.py"
SMALL = "mlp"
STORY = STORIES[0]
BROKEN, REPAIRED = settings_to_text(STORY.broken), settings_to_text(STORY.repaired)


def fake_analysis(settings: Settings, *_: object) -> ModelReport:
    return replace(make_report(), model_name=settings.model_name, recipe=settings.recipe)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    monkeypatch.setattr(service, "analyze_settings", fake_analysis)
    return tmp_path


def test_the_page_opens_with_the_story_of_the_run_shown() -> None:
    app = open_app(page=PAGE)

    assert_alive(app)
    assert (link_of(app)["a"], link_of(app)["b"]) == (BROKEN, REPAIRED)
    assert "287 of 576 weights became 0" in texts(app)
    assert not watched_jobs()


def test_a_link_opens_its_pair_and_swap_turns_it_round() -> None:
    app = open_app({"a": BROKEN, "b": REPAIRED}, page=PAGE)
    assert_alive(app)

    app.button(key="compare_swap").click().run()

    assert_alive(app)
    assert (link_of(app)["a"], link_of(app)["b"]) == (REPAIRED, BROKEN)
    assert app.selectbox(key="compare_pick_a").value == STORY.repaired.run_id


def test_a_picker_changes_one_side_and_the_run_shown_is_one_of_the_two() -> None:
    app = open_app({"a": BROKEN, "b": REPAIRED}, page=PAGE)
    other = Settings("mlp")

    app.selectbox(key="compare_pick_a").set_value(other.run_id).run()
    app.selectbox(key="compare_pick_b").set_value(Settings("resnet").run_id).run()

    assert_alive(app)
    assert link_of(app)["a"] == settings_to_text(other)
    assert link_of(app)["run"] == settings_to_text(other)


def test_a_run_that_is_gone_is_offered_to_be_computed_and_then_stands_there() -> None:
    gone = Settings(SMALL, PRESETS["int8_mse"])
    app = open_app({"a": f"{SMALL} int8_per_channel", "b": settings_to_text(gone)}, page=PAGE)
    assert_alive(app)
    assert "is not known here" in texts(app)
    assert "8-bit symmetric per channel, smallest error" in texts(app), "what would differ"

    app.button(key="compare_compute_b").click().run()
    assert "is not known here" not in texts(app)
    wait_for_jobs(app)

    assert_alive(app)
    assert store().get(gone.run_id) is not None
    assert app.selectbox(key="compare_pick_b").value == gone.run_id
    assert link_of(app)["b"] == settings_to_text(gone)
    assert "not known here" not in texts(app)


@pytest.mark.parametrize("text", ["nothing here", "mlp int9", "<b>", "mlp int8_mse bits:fc1:99"])
def test_a_bad_side_of_a_link_falls_back_with_a_notice(text: str) -> None:
    app = open_app({"a": text, "b": REPAIRED}, page=PAGE)

    assert_alive(app)
    assert app.get("warning") or app.get("info")
    assert app.selectbox(key="compare_pick_b").value == STORY.repaired.run_id


def test_the_pair_is_still_there_after_another_page() -> None:
    app = open_app({"a": f"{SMALL} int8_per_channel", "b": "resnet int8_per_channel"}, page=PAGE)

    app.switch_page("views/layer/layer.py").run()
    app.switch_page(PAGE).run()

    assert_alive(app)
    assert link_of(app)["a"] == f"{SMALL} int8_per_channel"
    assert link_of(app)["b"] == "resnet int8_per_channel"


def test_a_recent_run_is_among_the_runs_and_no_two_read_alike() -> None:
    for name in ("hidden", "head"):
        recipe = PRESETS["int8_mse"].with_excluded(name)
        store().put(Run(Settings(SMALL, recipe), make_report(), created="2026-01-01T00:00:00"))

    app = open_app(page=PAGE)

    options = app.selectbox(key="compare_pick_a").options
    assert len(set(options)) == len(options)
    assert sum("1 layer in float" in option for option in options) == 2


def test_a_comparison_that_is_asked_for_opens_when_both_runs_are_known() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    other = Settings(SMALL, PRESETS["int8_mse"])
    here = app.session_state["session"]
    here.to_compare = (Settings(SMALL), other)
    store().put(Run(other, make_report(), created="2026-01-01T00:00:00"))

    app.run()

    assert_alive(app)
    assert app.title[0].value == "Compare"
    assert link_of(app)["a"] == f"{SMALL} int8_per_channel"
    assert link_of(app)["b"] == f"{SMALL} int8_mse"
    assert here.to_compare is None


def test_a_comparison_whose_run_failed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> ModelReport:
        raise DataError("conv3: the weight holds NaN. Repair it before quantizing.")

    monkeypatch.setattr(service, "analyze_settings", fail)
    app = open_app({"a": f"{SMALL} int8_per_channel", "b": f"{SMALL} int8_mse"}, page=PAGE)
    here = app.session_state["session"]
    app.button(key="compare_compute_b").click().run()
    here.to_compare = (Settings(SMALL), Settings(SMALL, PRESETS["int8_mse"]))
    wait_for_jobs(app)

    assert_alive(app)
    assert "the weight holds NaN" in texts(app)
    assert here.to_compare is None


def test_settings_results_and_layers_of_both_stand_on_the_page() -> None:
    app = open_app({"a": BROKEN, "b": REPAIRED, "layer": "blocks.0.depthwise"}, page=PAGE)

    assert_alive(app)
    text = texts(app)
    assert "8-bit symmetric per tensor, min–max | 8-bit symmetric per channel, min–max" in text
    assert "+82.75 points" in text
    assert "`blocks.0.depthwise` in both" in text
    assert any("largest change first" in chart.proto.spec for chart in app.get("plotly_chart"))


@pytest.mark.parametrize("metric", list(METRICS.values()), ids=list(METRICS))
def test_the_layers_are_compared_by_any_metric_of_the_link(metric: LayerMetric) -> None:
    app = open_app({"a": BROKEN, "b": REPAIRED, "by": metric.title}, page=PAGE)

    assert_alive(app)
    assert app.selectbox(key="by").value == metric.title
    assert f"**{metric.label}: B is better in" in texts(app)


@pytest.mark.parametrize("tab", ["Error", "Values", "Channels", "Codes"])
@pytest.mark.parametrize("part", ["Weights", "Inputs"])
def test_each_look_at_a_layer_opens_by_its_link(tab: str, part: str) -> None:
    app = open_app({"a": BROKEN, "b": REPAIRED, "part": part, "detail": tab}, page=PAGE)

    assert_alive(app)
    assert len(app.get("plotly_chart")) == 5


def test_two_models_are_compared_where_they_can_be_and_the_rest_says_why_not() -> None:
    app = open_app({"a": BROKEN, "b": f"{SMALL} int8_per_channel"}, page=PAGE)

    assert_alive(app)
    text = texts(app)
    assert "each from its own float model" in text
    assert "The two runs have 0 layers in common" in text
    assert "Right answers" in text


def test_samples_whose_answers_differ_stand_there_as_images() -> None:
    a, b = (service.find_example(s) for s in (STORY.broken, STORY.repaired))
    assert a is not None
    assert b is not None
    first, second = a.report.output, b.report.output
    assert first is not None
    assert second is not None
    assert first.answers is not None
    assert second.answers is not None
    pairs = list(zip(first.answers.quantized, second.answers.quantized, strict=True))
    differing = sum(x != y for x, y in pairs)
    won = sum(x != y == label for (x, y), label in zip(pairs, first.answers.labels, strict=True))

    app = open_app({"a": BROKEN, "b": REPAIRED}, page=PAGE)

    text = texts(app)
    assert f"{differing} of {len(pairs)} answers differ: B is right in {won} of them" in text
    assert text.count("✓]]") == MOST_FLIPPED


def test_the_story_on_start_leads_to_its_comparison() -> None:
    app = open_app()

    app.button(key="pair_compare").click().run()

    assert_alive(app)
    assert app.title[0].value == "Compare"
    assert (link_of(app)["a"], link_of(app)["b"]) == (BROKEN, REPAIRED)


def test_a_recent_run_is_compared_with_the_run_shown() -> None:
    run = Run(Settings(SMALL, PRESETS["int8_mse"]), make_report(), created="2026-01-01T00:00:00")
    store().put(run)
    app = open_app({"run": f"{SMALL} int8_per_channel"})

    app.button(key=f"compare_{run.id}").click().run()

    assert_alive(app)
    assert (link_of(app)["a"], link_of(app)["b"]) == (
        f"{SMALL} int8_per_channel",
        f"{SMALL} int8_mse",
    )


def test_after_a_rerun_every_page_offers_to_compare_with_the_run_before() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    assert "shell_compare" not in [button.key for button in app.button]
    app.button(key="start_preset_int8_mse").click().run()
    wait_for_jobs(app)

    app.button(key="shell_compare").click().run()

    assert_alive(app)
    assert app.title[0].value == "Compare"
    assert (link_of(app)["a"], link_of(app)["b"]) == (
        f"{SMALL} int8_per_channel",
        f"{SMALL} int8_mse",
    )


def keys(app: AppTest) -> list[str | None]:
    return [button.key for button in app.button]


def test_a_rerun_offers_by_itself_to_be_compared_until_it_was() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    app.button(key="start_preset_int8_mse").click().run()
    wait_for_jobs(app)
    assert "Right answers:" in texts(app)

    app.button(key="offer_compare").click().run()
    assert link_of(app)["a"] == f"{SMALL} int8_per_channel"
    assert link_of(app)["b"] == f"{SMALL} int8_mse"

    app.switch_page("views/layer/layer.py").run()
    assert_alive(app)
    assert "offer_compare" not in keys(app)


@pytest.mark.parametrize("way", ["dismissed", "another run shown"])
def test_the_offer_to_compare_goes_when_it_is_not_wanted(way: str) -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    app.button(key="start_preset_int8_mse").click().run()
    wait_for_jobs(app)

    key = "offer_dismiss" if way == "dismissed" else "card_resnet"
    app.button(key=key).click().run()

    assert_alive(app)
    assert "offer_compare" not in keys(app)


def test_a_run_of_another_model_or_a_kept_one_is_not_called_a_rerun() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    app.button(key="card_resnet").click().run()
    assert "offer_compare" not in keys(app)
    app.button(key="start_preset_int8_mse").click().run()
    wait_for_jobs(app)
    app.button(key="offer_dismiss").click().run()
    app.button(key="start_preset_int8_per_channel").click().run()

    assert "offer_compare" not in keys(app)


def test_a_model_of_the_table_is_compared_with_the_run_shown() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})
    assert f"card_compare_{SMALL}" not in keys(app)

    app.button(key="card_compare_resnet").click().run()

    assert_alive(app)
    assert link_of(app)["a"] == f"{SMALL} int8_per_channel"
    assert link_of(app)["b"] == "resnet int8_per_channel"


def test_both_runs_are_one_html_file_and_their_layers_one_table() -> None:
    a, b = (service.find_example(s) for s in (STORY.broken, STORY.repaired))
    assert a is not None
    assert b is not None
    effects = tuple(output_effects(run.report, run.sensitivities) for run in (a, b))
    both = (effects[0], effects[1])
    treated = Treatment("gptq", ("head",), is_applied=False, reason="it is float")
    b = replace(b, report=replace(b.report, treatments=(treated,)))

    page = report_of(a, b, pair(a, b, ("A", "B")), both).decode()
    rows = list(csv.DictReader(io.StringIO(layers_csv(a, b, both).decode("utf-8-sig"))))

    assert "+82.75 points" in page
    assert page.count("data-figure=") >= 4
    assert "<tr><td>B</td><td>Round by GPTQ</td><td>head</td>" in page
    assert [row["layer"] for row in rows] == [layer.name for layer in a.report.layers]
    for row, layer in zip(rows, b.report.layers, strict=True):
        assert layer.local_error is not None
        assert float(row["b_local_nmse"]) == pytest.approx(layer.local_error.nmse)


def test_what_is_not_known_in_full_is_computed_first_and_then_compared() -> None:
    run = Run(Settings(SMALL, PRESETS["int8_mse"]), make_partial_report())
    store().put(run)
    app = open_app({"run": f"{SMALL} int8_per_channel"})

    app.button(key=f"compare_{run.id}").click().run()
    wait_for_jobs(app)

    assert_alive(app)
    known = store().get(run.id)
    assert known is not None
    assert not known.report.is_partial
    assert app.title[0].value == "Compare"
    assert link_of(app)["b"] == f"{SMALL} int8_mse"
