"""Start: one model broken and repaired side by side, then the models, presets and recent runs."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.stories import STORIES, Story, story_of
from dashboard.figures.compare.pair import MOST_LAYERS, pair
from dashboard.figures.layers.four_errors import four_errors_picture, run_series
from dashboard.session import run_state
from dashboard.session.link_widgets import go_to
from dashboard.session.pages import show_page_link
from dashboard.views.start.model_table import show_model_table, show_recent_runs
from dashboard.widgets.chart import show_layer_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.headline import show_headline
from dashboard.widgets.judged import judged_markdown
from dashboard.widgets.pair_section import show_pair
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import (
    EXECUTION_NOTE,
    describe_recipe,
    gloss,
    preset_about,
    preset_title,
)
from dashboard.work import service
from quant_engine.scheme import PRESETS

STORY_KEY = "story"


def _show_presets(run: Run) -> None:
    wanted = replace(run_state.wanted_settings(), model_name=run.model_name)
    with st.container(horizontal=True, gap="small", key="start_presets"):
        for name, recipe in PRESETS.items():
            is_changed = run.recipe.exclude_layers or run.recipe.overrides
            is_shown = run.recipe.name == name and not is_changed
            st.button(
                preset_title(name),
                key=f"start_preset_{name}",
                help=preset_about(name),
                disabled=is_shown,
                icon=":material/check:" if is_shown else ":material/play_arrow:",
                on_click=run_state.start_settings,
                args=(replace(wanted, recipe=recipe),),
            )


@contained("The run shown")
def _show_run(run: Run) -> None:
    """A run that belongs to no story: how it went, and its four errors."""
    title = service.model_info(run.model_name).title
    origin = "Stored example" if run.is_example else "Your run"
    st.subheader(f"{origin}: {title}, {escape_markdown(describe_recipe(run.recipe))}", anchor=False)
    show_headline(run, key="start")
    show_layer_figure(
        four_errors_picture(
            run_series(run.report, run_state.effects_of(run)),
            selected=run_state.selected_layer(run.report),
            most=MOST_LAYERS,
        ),
        "start_errors",
        run.model_name,
    )


def _show_links() -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="start_links"):
        st.markdown(":small[The run shown, in detail:]", width="content")
        for name in ("layer", "sensitivity", "what_if", "compare", "size_time"):
            show_page_link(name)
        if st.button("Set up your own run", icon=":material/science:", key="start_experiment"):
            go_to("views/experiment/experiment.py")


def _open_story() -> None:
    """Show the broken run of the story that was picked, so that every page is about it."""
    story = next((s for s in STORIES if s.title == st.session_state.get(STORY_KEY)), None)
    if story is not None:
        run_state.start_settings(story.broken)


def _show_stories(shown: Run | None) -> None:
    """The stories as a row of choices, and the pair of the one that the run shown belongs to."""
    told = [s for s in STORIES if all(map(service.find_example, (s.broken, s.repaired)))]
    if not told:
        return
    current = None if shown is None else story_of(shown.id)
    titles = [story.title for story in told]
    current = current if current in told else None
    st.session_state[STORY_KEY] = None if current is None else current.title
    label = "A model broken and repaired"
    st.pills(label, titles, key=STORY_KEY, on_change=_open_story, label_visibility="collapsed")
    if current is not None:
        _show_story(current)


@contained("The story")
def _show_story(story: Story) -> None:
    runs = service.find_example(story.broken), service.find_example(story.repaired)
    broken, repaired = runs
    assert broken is not None
    assert repaired is not None
    model = service.model_info(broken.model_name).title
    judged = judged_markdown(broken.report, repaired.report)
    st.markdown(
        f"**{model}.** {story.text} :small[:gray[{judged}]]", help=gloss("scale", "channel", "KL")
    )
    predicted = (run_state.predicted_effects(broken), run_state.predicted_effects(repaired))
    found = pair(broken, repaired, change=story.change, predicted=predicted)
    show_pair(found, broken, repaired, key="pair")


with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="start_head"):
    st.title("See what int8 does to a neural network", anchor=False, width="content")
    show_page_link("learn", "New to this? Take the lessons")
st.markdown(
    "Quantization stores 32-bit numbers in 8 bits: a quarter of the bytes, a little less accuracy, "
    "unless one **layer** breaks:"
)
shown = run_state.shown_run()
_show_stories(shown)
if shown is None:
    text = "The first figures appear here as soon as the analysis has some."
    st.info(text, icon=":material/hourglass_top:")
elif story_of(shown.id) is None:
    _show_run(shown)
_show_links()

models, schemes, recent = st.tabs(
    ["Another model", "Another scheme", "Recent runs"], key="start_tab"
)
with models:
    show_model_table(shown)
with schemes:
    if shown is not None:
        model = service.model_info(shown.model_name).title
        st.markdown(f"{model} again, quantized in another way. A click analyses it:")
        _show_presets(shown)
    st.caption(EXECUTION_NOTE)
with recent:
    show_recent_runs(shown)
