"""All layers at once: whose error histogram looks wrong, and where the error comes from."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import Sweep
from dashboard.facts.tensors import tensors_of
from dashboard.figures.layers.error_ridges import layer_errors_picture
from dashboard.figures.layers.four_errors import four_errors_picture, run_series
from dashboard.figures.layers.relative_errors import relative_errors_picture
from dashboard.session import run_state
from dashboard.session.jobs import start_sensitivity
from dashboard.widgets.chart import show_layer_figure
from dashboard.widgets.choice import choose
from dashboard.widgets.guard import contained
from dashboard.widgets.slides import is_presenting
from dashboard.words.recipes import measured_in_batches

FOUR, RELATIVE = "Four errors", "Relative error"
WEIGHTS, INPUTS = "Weights (steps)", "Inputs (steps)"
VIEWS = {FOUR: None, RELATIVE: None, WEIGHTS: "weight", INPUTS: "input"}
MOST_ROWS = 16
PLACE_HEIGHT = 340
"""Pixels; on a screen 900 pixels high, what is wrong with the layer is in sight below."""


def show_overview(run: Run) -> None:
    """Draw the errors of all layers; a click selects a layer.

    The rows scroll in a place of their own, so that the details of the layer are in sight below.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        view = choose(
            "Errors of",
            list(VIEWS),
            "overview",
            help="**Four errors**: weight, this layer alone, all layers so far, and the answer. "
            "**Relative error**: how much of each channel of the output is wrong. **Steps**: how "
            "far each value moved on its grid, which tells rounding from clipping, and nothing "
            "about how much it matters.",
        )
        part = VIEWS[view]
        count = len(run.report.layers) if part is None else len(tensors_of(run.report, part))
        is_all = True
        if part is not None and count > MOST_ROWS:
            label = f"All {count} layers"
            about = f"Otherwise the {MOST_ROWS} layers with the lowest local SQNR."
            is_all = st.toggle(label, key="overview_all", bind="query-params", help=about)
    height: int | Literal["content"] = "content" if is_presenting() else PLACE_HEIGHT
    with st.container(height=height, border=False, key="overview_place"):
        if view == RELATIVE:
            _show_relative(run)
        elif part is None:
            _show_four(run)
        else:
            _show_ridges(run, part, None if is_all else MOST_ROWS)


@contained("The error histograms")
def _show_ridges(run: Run, part: str, worst: int | None) -> None:
    selected = run_state.selected_layer(run.report)
    if part == "input" and (batches := measured_in_batches(run.report)):
        st.caption(batches)
    picture = layer_errors_picture(run.report, part, selected=selected, worst=worst)
    show_layer_figure(picture, f"overview_{part}", run.model_name)


@contained("The four errors")
def _show_four(run: Run) -> None:
    selected, effects = run_state.selected_layer(run.report), run_state.effects_of(run)
    if effects is None:
        st.button(
            "Measure what each layer does to the output",
            key="overview_measure",
            icon=":material/play_arrow:",
            on_click=start_sensitivity,
            args=(run, Sweep()),
        )
    picture = four_errors_picture(run_series(run.report, effects), selected=selected)
    show_layer_figure(picture, "overview_four", run.model_name)


@contained("The relative errors")
def _show_relative(run: Run) -> None:
    picture = relative_errors_picture(run.report, selected=run_state.selected_layer(run.report))
    show_layer_figure(picture, "overview_relative", run.model_name)
