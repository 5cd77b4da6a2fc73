"""The start page: figures at once without computing, and one click to everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from streamlit.proto.Metric_pb2 import Metric as MetricProto

from dashboard.data.runs import Run
from dashboard.data.settings import Settings, settings_to_text
from dashboard.data.stories import STORIES, Story
from dashboard.figures.compare.pair import MOST_FLIPPED
from dashboard.session.jobs import job_status, store, watched_jobs
from dashboard.words.recipes import preset_title
from dashboard.work import service
from quant_engine.scheme import PRESETS, Recipe
from tests.dashboard.app_harness import (
    assert_alive,
    link_of,
    open_app,
    texts,
    wait_for_jobs,
)
from tests.dashboard.factories import make_partial_report, make_report

SMALL = "mlp"


@pytest.mark.usefixtures("no_computing")
def test_the_first_paint_is_a_pair_without_computing() -> None:
    app = open_app()

    assert_alive(app)
    figures = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    assert len(figures) == 2
    assert all(figure["data"] for figure in figures)
    text = texts(app)
    for words in ("287 of 576 weights became 0", "16.5 %", "99.25 %", "335 of 400 answers changed"):
        assert words in text, words
    assert text.count(":red[broken **") == MOST_FLIPPED
    assert link_of(app) == {}
    assert not watched_jobs()


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.key)
def test_a_story_opens_at_once_and_so_does_all_it_leads_to(story: Story) -> None:
    app = open_app()

    app.get("button_group")[0].set_value(story.title).run()  # type: ignore[attr-defined]
    assert_alive(app)
    assert story.text in texts(app)
    assert len(app.get("plotly_chart")) == 2
    for page in ("sensitivity", "what_if", "layer", "size_time"):
        app.switch_page(f"views/{page}/{page}.py").run()
        assert_alive(app)
        assert app.get("plotly_chart"), page
    app.switch_page("views/start/start.py").run()
    app.button(key="pair_open_repaired").click().run()
    assert_alive(app)
    assert link_of(app)["run"] == settings_to_text(story.repaired)
    assert app.button(key="pair_open_repaired").disabled


@pytest.mark.usefixtures("no_computing")
def test_each_page_is_one_click_away() -> None:
    app = open_app()

    links = {link.page for link in app.get("page_link")}  # type: ignore[attr-defined]
    assert {"layer", "sensitivity", "size-time", "learn"} <= links
    assert "Set up your own run" in [button.label for button in app.button]


@pytest.mark.usefixtures("no_computing")
def test_every_model_has_a_row_with_measured_figures() -> None:
    app = open_app()

    text = texts(app)
    for name in service.model_names():
        card = service.model_card(name)
        assert f"**{card.info.title}**" in text
        assert f"{card.info.parameters:,}" in text
    assert "To analyse: on" in text


@pytest.mark.usefixtures("no_computing")
def test_a_row_shows_its_models_stored_result_at_once() -> None:
    app = open_app()

    app.button(key=f"card_{SMALL}").click().run()

    assert_alive(app)
    assert link_of(app)["run"] == f"{SMALL} int8_per_channel"
    assert service.model_info(SMALL).title in texts(app)
    assert app.button(key=f"card_{SMALL}").disabled


def test_a_row_is_shown_now_only_while_its_own_numbers_are() -> None:
    """The row's accuracy is that of one scale per channel; the story shows another scheme."""
    app = open_app({"run": "mobilenet_unequal_channels int8_per_tensor"})

    assert not app.button(key="card_mobilenet_unequal_channels").disabled


def test_a_preset_analyses_the_shown_model() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel"})

    app.button(key="start_preset_int8_weights_only").click().run()
    assert "Analysing" in "".join(bar.proto.text for bar in app.get("progress"))
    wait_for_jobs(app)

    assert_alive(app)
    assert link_of(app)["run"] == f"{SMALL} int8_weights_only"
    assert f"Your run: {service.model_info(SMALL).title}, Int8 weights only" in texts(app)
    assert app.button(key="start_preset_int8_weights_only").disabled
    assert not app.get("progress")


def test_every_preset_has_a_button_with_words() -> None:
    app = open_app()

    labels = [button.label for button in app.button]
    assert [preset_title(name) in labels for name in PRESETS] == [True] * len(PRESETS)


def test_recent_runs_survive_a_restart_and_show_at_once(home: Path) -> None:
    run = Run(
        Settings(SMALL, PRESETS["int8_mse"]),
        make_report(),
        created="2026-01-01T00:00:00+00:00",
    )
    store().put(run)

    app = open_app()
    app.button(key=f"show_{run.id}").click().run()

    assert_alive(app)
    assert link_of(app)["run"] == f"{SMALL} int8_mse"
    assert job_status() is None
    assert app.button(key=f"show_{run.id}").disabled


def test_a_partial_recent_run_is_shown_as_it_is() -> None:
    run = Run(Settings(SMALL, PRESETS["int8_mse"]), make_partial_report())
    store().put(run)

    app = open_app()
    app.button(key=f"show_{run.id}").click().run()

    assert_alive(app)
    assert "partial" in texts(app)
    assert not app.get("progress")


def test_unreadable_saved_runs_are_named_and_left_out(home: Path) -> None:
    (home / "runs").mkdir()
    (home / "runs" / "broken.jsonl").write_text("nothing")

    app = open_app()

    assert_alive(app)
    assert "broken.jsonl" in texts(app)


def test_no_recent_runs_says_what_will_stand_there() -> None:
    assert "Runs you compute are kept here" in texts(open_app())


@pytest.mark.parametrize(
    ("run", "notice"),
    [
        ("resnett int8_per_channel", "Did you mean"),
        ("mlp int9", "the preset “int9”"),
        ("mlp int8_mse samples:lots", "The link's samples is “lots”"),
        ("💥 <script>alert(1)</script> ../../etc/passwd", "does not exist"),
        ("mlp int8_per_channel bits:fc1:99", "bits is 99"),
    ],
)
def test_a_bad_link_falls_back_with_a_notice_until_it_is_dismissed(run: str, notice: str) -> None:
    app = open_app({"run": run})

    assert_alive(app)
    assert notice in texts(app)
    wait_for_jobs(app)
    assert app.get("plotly_chart")
    assert notice in texts(app)
    assert link_of(app)["run"] != run
    while any(button.label == "Dismiss" for button in app.button):
        next(button for button in app.button if button.label == "Dismiss").click().run()
    assert notice not in texts(app)


def test_a_layer_that_does_not_exist_falls_back_with_a_notice() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel", "layer": "no.such.layer"})

    assert_alive(app)
    assert "the layer “no.such.layer”" in texts(app)
    assert app.selectbox(key="layer").value in app.selectbox(key="layer").options


def test_a_layer_in_the_link_is_selected() -> None:
    name = service.layer_options(SMALL)[0].name
    app = open_app({"run": f"{SMALL} int8_per_channel", "layer": name})

    assert app.selectbox(key="layer").value == name


def _culprit(run: Run) -> str:
    """The layer with the largest measured KL divergence, read from the stored numbers."""
    measured = next(s for s in run.sensitivities if s.direction == "one_at_a_time")
    return max(measured.layers, key=lambda layer: layer.kl_divergence or 0.0).name


def test_a_layer_nobody_chose_follows_the_worst_one_from_run_to_run() -> None:
    app = open_app()
    for name in service.model_names():
        app.button(key=f"card_{name}").click()
        app.run()
        example = service.example_run(name)
        assert example is not None
        assert app.selectbox(key="layer").value == _culprit(example)
        assert "layer" not in link_of(app)


def test_a_chosen_layer_stays_where_the_next_run_has_it() -> None:
    app = open_app({"run": "mobilenet int8_per_channel"})
    name = service.layer_options("mobilenet")[3].name
    app.selectbox(key="layer").set_value(name).run()

    app.button(key="card_mobilenet_unequal_channels").click().run()
    assert app.selectbox(key="layer").value == name

    app.button(key="card_mlp").click().run()
    assert_alive(app)
    assert app.selectbox(key="layer").value in app.selectbox(key="layer").options


def test_accuracy_that_falls_is_shown_as_falling() -> None:
    app = open_app(
        {"run": "vit_outlier_channels int8_per_channel"}, page="views/experiment/experiment.py"
    )

    accuracy = next(metric for metric in app.metric if metric.label.startswith("Accuracy"))
    assert accuracy.delta.startswith("-")
    assert accuracy.proto.color == MetricProto.RED
    assert accuracy.proto.direction == MetricProto.DOWN


def test_an_accuracy_inside_its_interval_is_neither_green_nor_red() -> None:
    app = open_app({"run": "resnet int8_per_channel"})

    accuracy = next(metric for metric in app.metric if metric.label.startswith("Accuracy"))
    assert "samples: no difference the data shows; now (" in accuracy.delta
    assert accuracy.proto.color == MetricProto.GRAY
    assert accuracy.proto.direction == MetricProto.NONE


def test_an_unknown_layer_pattern_in_a_link_is_told_not_raised() -> None:
    app = open_app({"run": f"{SMALL} int8_per_channel exclude:nothing.like.this"})

    assert_alive(app)
    assert "“nothing.like.this” in float, which this model does not have" in texts(app)
    assert "failed" not in texts(app)
    assert "Stored example" in texts(app)
    assert len(app.get("plotly_chart")) == 1


def test_recipes_in_the_engine_and_in_links_are_the_same_words() -> None:
    assert Settings(SMALL, Recipe.default()).recipe.name in PRESETS
