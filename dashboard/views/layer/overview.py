"""All layers at once: whose error histogram looks wrong, and where the error comes from."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import Sweep
from dashboard.export import tables
from dashboard.figures.layers.error_ridges import (
    PARTS,
    describe_errors,
    layer_error_histograms,
    tensors_of,
)
from dashboard.figures.layers.four_errors import (
    ONE_MARK,
    Series,
    describe_four_errors,
    error_rows,
    four_errors_figure,
)
from dashboard.figures.layers.relative_errors import (
    describe_relative_errors,
    relative_error_histograms,
)
from dashboard.session import run_state
from dashboard.session.jobs import start_sensitivity
from dashboard.session.link_check import check_link_word
from dashboard.widgets.chart import show_figure
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
    check_link_word("overview", list(VIEWS))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        view = st.segmented_control(
            "Errors of",
            list(VIEWS),
            default=FOUR,
            required=True,
            key="overview",
            bind="query-params",
            help="**Four errors**: weight, this layer alone, all layers so far, and the answer. "
            "**Relative error**: how much of each channel of the output is wrong. **Steps**: how "
            "far each value moved on its grid, which tells rounding from clipping, and nothing "
            "about how much it matters.",
        )
        part = VIEWS.get(view or FOUR)
        count = len(run.report.layers) if part is None else len(tensors_of(run.report, part))
        is_all = True
        if part is not None and count > MOST_ROWS:
            is_all = st.toggle(
                f"All {count} layers",
                key="overview_all",
                bind="query-params",
                help=f"Otherwise the {MOST_ROWS} layers with the lowest local SQNR.",
            )
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
    show_figure(
        layer_error_histograms(run.report, part, selected=selected, worst=worst),
        key=f"overview_{part}",
        alt=describe_errors(run.report, part),
        about="\n\n".join(
            (
                f"One row per layer: how far its {PARTS[part]} moved when they were rounded, in "
                "steps of its own grid (LSB). All rows have one scale.",
                "Ideal rounding is flat between −0.5 and 0.5, as high as the dotted line. A spike "
                "at 0 means that many values lie on the grid already, such as zeros after a ReLU.",
                "Red beyond ±0.5 is clipping; it is drawn at least a sliver high. "
                "Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.all_lsb_table(run.report, part),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-{part}-errors",
    )


@contained("The four errors")
def _show_four(run: Run) -> None:
    selected, effects = run_state.selected_layer(run.report), run_state.effects_of(run)
    series = [Series("", error_rows(run.report, effects), effects, ONE_MARK)]
    if effects is None:
        st.button(
            "Measure what each layer does to the output",
            key="overview_measure",
            icon=":material/play_arrow:",
            on_click=start_sensitivity,
            args=(run, Sweep()),
        )
    show_figure(
        four_errors_figure(series, selected=selected),
        key="overview_four",
        alt=describe_four_errors(series),
        about="\n\n".join(
            (
                "One row per layer, the one to look at first on top. Further right is worse.",
                "**Weight**, **Local** (this layer alone quantized), **Accumulated** (inside the "
                "quantized model) are shares of the signal, each channel counted alike: 100 % is "
                "an error as large as what should be there.",
                "**Output** is what the layer alone does to the model's answer: the KL divergence "
                "of its probabilities from the float model's, in nats. Click a mark to select.",
            )
        ),
        data=lambda: tables.four_errors_table(run.report, effects),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-four-errors",
    )


@contained("The relative errors")
def _show_relative(run: Run) -> None:
    show_figure(
        relative_error_histograms(run.report, selected=run_state.selected_layer(run.report)),
        key="overview_relative",
        alt=describe_relative_errors(run.report),
        about="\n\n".join(
            (
                "One row per layer, in the order they run: how far each value of its output is off "
                "when it alone is quantized, as a share of the RMS of the value's channel.",
                "A healthy layer has a hill near 1 %. Values near 100 % are lost: the error is as "
                "large as the signal.",
                "Channels that are always 0 have no RMS and are counted apart.",
            )
        ),
        data=lambda: tables.relative_error_table(run.report),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-relative-errors",
    )
