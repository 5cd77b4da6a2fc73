"""Start: what this is, a finished example, the models, the presets, and recent runs."""

from __future__ import annotations

import streamlit as st

from dashboard import service
from dashboard.components import run_state
from dashboard.components.gallery import show_gallery
from dashboard.components.headline import show_headline
from dashboard.components.markdown import escape_markdown
from dashboard.components.model_cards import show_model_cards, show_recent_runs, show_tries
from dashboard.runs import Run
from dashboard.wording import EXECUTION_NOTE, describe_recipe, preset_about, preset_title
from quant_engine.scheme import PRESETS


def _show_presets(run: Run) -> None:
    with st.container(horizontal=True, gap="small", key="start_presets"):
        for name, recipe in PRESETS.items():
            is_shown = (
                run.recipe.name == name
                and not run.recipe.exclude_layers
                and not run.recipe.overrides
            )
            st.button(
                preset_title(name),
                key=f"start_preset_{name}",
                help=preset_about(name),
                disabled=is_shown,
                icon=":material/check:" if is_shown else ":material/play_arrow:",
                on_click=run_state.start_analysis,
                args=(run.model_name, recipe),
            )


def _show_run(run: Run) -> None:
    title = service.model_info(run.model_name).title
    origin = "Stored example" if run.is_example else "Your run"
    st.subheader(f"{origin}: {title}, {escape_markdown(describe_recipe(run.recipe))}", anchor=False)
    show_headline(run, key="start")
    show_gallery(run)


st.title("See what int8 does to a neural network", anchor=False)
st.markdown(
    "Quantization stores 32-bit numbers in 8 bits: a quarter of the bytes, a little less accuracy. "
    "This dashboard quantizes a trained model **layer by layer** and shows where the error comes "
    "from."
)
shown = run_state.shown_run()
with st.container(horizontal=True, gap="small", vertical_alignment="center", key="start_actions"):
    if st.button(
        "Set up your own run", type="primary", icon=":material/science:", key="start_experiment"
    ):
        run_state.go_to("views/experiment.py")
    st.caption("or try one of these. Every figure below opens its page in one click.")
show_tries(shown)
if shown is None:
    st.info(
        "The first figures appear here as soon as the analysis has some.",
        icon=":material/hourglass_top:",
    )
else:
    _show_run(shown)

st.subheader("Another model", anchor=False)
show_model_cards(shown)
if shown is not None:
    model = service.model_info(shown.model_name).title
    st.subheader(f"Another scheme for {model}", anchor=False)
    _show_presets(shown)
st.subheader("Recent runs", anchor=False)
show_recent_runs(shown)
st.caption(EXECUTION_NOTE)
