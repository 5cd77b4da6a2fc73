"""All layers at once: whose error histogram looks wrong, and where the error comes from."""

from __future__ import annotations

import streamlit as st

from dashboard import tables
from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.guard import contained
from dashboard.components.link_check import check_link_word
from dashboard.figures.error_ridges import (
    PARTS,
    describe_errors,
    layer_error_histograms,
    tensors_of,
)
from dashboard.figures.layer_errors import describe_layer_errors, layer_error_dots
from dashboard.runs import Run
from dashboard.wording import measured_in_batches

WEIGHTS, INPUTS, FOUR = "Weights", "Inputs", "Four errors side by side"
VIEWS = {WEIGHTS: "weight", INPUTS: "input", FOUR: None}
MOST_ROWS = 16


def show_overview(run: Run) -> None:
    """Draw the errors of all layers; a click selects a layer."""
    st.subheader("Error of every layer", anchor=False)
    check_link_word("overview", list(VIEWS))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        view = st.segmented_control(
            "Errors of",
            list(VIEWS),
            default=WEIGHTS,
            required=True,
            key="overview",
            bind="query-params",
            help="**Weights**, **Inputs**: how far each value moved when it was rounded. "
            "**Four errors**: weights, inputs, this layer alone, and all layers so far.",
        )
        part = VIEWS.get(view or WEIGHTS)
        count = len(run.report.layers) if part is None else len(tensors_of(run.report, part))
        is_all = True
        if part is not None and count > MOST_ROWS:
            is_all = st.toggle(
                f"All {count} layers",
                key="overview_all",
                bind="query-params",
                help=f"Otherwise the {MOST_ROWS} layers with the lowest local SQNR.",
            )
    if part is None:
        _show_dots(run)
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
                f"One row a layer: how far its {PARTS[part]} moved when they were rounded, in "
                "steps of its own grid (LSB). All rows have one scale.",
                "Ideal rounding is flat between −0.5 and 0.5, as high as the dotted line. A spike "
                "at 0 means that many values lie on the grid already, such as zeros after a ReLU.",
                "Hatched red beyond ±0.5 is clipping; it is drawn at least a sliver high. "
                "Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.all_lsb_table(run.report, part),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-{part}-errors",
    )


@contained("The SQNR of the layers")
def _show_dots(run: Run) -> None:
    selected = run_state.selected_layer(run.report)
    show_figure(
        layer_error_dots(run.report, selected=selected),
        key="overview_dots",
        alt=describe_layer_errors(run.report),
        about="\n\n".join(
            (
                "One row a layer, in the order they run. Further left is worse: 10 dB less is ten "
                "times the error energy.",
                "**Local** is the layer's output when it alone is quantized, **accumulated** its "
                "output inside the fully quantized model. The line between them is what earlier "
                "layers add.",
                "A mark at the right edge beyond the axis numbers is exact. Click a mark to "
                "select its layer.",
            )
        ),
        data=lambda: tables.layer_errors_table(run.report),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-four-errors",
    )
