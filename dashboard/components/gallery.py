"""The four pictures of a run in small, each with the way to its page."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from dashboard import tables
from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.guard import contain
from dashboard.figures.error_ridges import describe_errors, layer_error_histograms
from dashboard.figures.ranking import rank_layers
from dashboard.figures.sensitivity import describe_ranking, ranking_figure, ranking_rows
from dashboard.figures.sensitivity_metrics import available_metrics
from dashboard.figures.size import reduction_text, waterfall_figure
from dashboard.figures.size_items import size_steps
from dashboard.figures.timing import model_timing_figure
from dashboard.figures.timing_text import batch_sizes, describe_times
from dashboard.runs import Run
from dashboard.sweeps import Sweep

MOST_LAYERS = 8


def _small(figure: go.Figure) -> go.Figure:
    """Take the title away, which the card's heading says in fewer words, and its space."""
    top = 40 if any(trace.showlegend is not False and trace.name for trace in figure.data) else 8
    figure.update_layout(title={"text": ""}, margin={"t": top}, legend={"y": 1})
    figure.update_xaxes(tickangle=0)
    return figure


def show_gallery(run: Run) -> None:
    """Draw error histograms, sensitivity ranking, bytes and time of a run."""
    with st.grid(2, min_column_width=380, gap="medium", key="gallery"):
        for title, icon, page, link, draw in _PICTURES:
            with st.container(border=True, gap="xsmall", height="stretch"):
                with st.container(
                    horizontal=True,
                    vertical_alignment="center",
                    horizontal_alignment="distribute",
                ):
                    st.markdown(f"**{icon} {title}**", width="content")
                    st.page_link(page, label=link, icon=":material/arrow_forward:")
                with contain(title):
                    draw(run)


def _show_errors(run: Run) -> None:
    show_figure(
        _small(
            layer_error_histograms(
                run.report, selected=run_state.selected_layer(run.report), worst=MOST_LAYERS
            )
        ),
        key="start_errors",
        alt=describe_errors(run.report),
        about="One histogram a layer: how far each weight moved when it was rounded. Shown are the "
        "layers whose weights have the lowest SQNR, and the selected layer.\n\n"
        "The unit is one step of the int8 grid (LSB). Ideal rounding fills −0.5 to 0.5 evenly.\n\n"
        "Hatched red outside ±0.5 is clipping. Click a bar to select its layer.",
        data=lambda: tables.all_lsb_table(run.report),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-errors",
    )


def _show_ranking(run: Run) -> None:
    report = run.sensitivity
    metrics = available_metrics(report) if report is not None else ()
    if report is None or not report.layers or not metrics:
        st.caption(
            "Not measured for this run yet. It runs the model once for every layer, which takes "
            "longer than the analysis."
        )
        st.button(
            "Measure sensitivity",
            key="start_measure",
            icon=":material/play_arrow:",
            on_click=run_state.start_sensitivity,
            args=(run, Sweep()),
        )
        return
    metric = metrics[0]
    ranked = rank_layers(report, metric)
    shown = ranked[:MOST_LAYERS]
    show_figure(
        _small(ranking_figure(report, shown, metric, is_log=True)),
        key="start_ranking",
        alt=describe_ranking(report, ranked, metric),
        about="One bar a layer, the most sensitive on top: the longer, the more the model's "
        "answers change when this layer is quantized.\n\n"
        "Whiskers show how sure that is. Layers joined by a bracket are tied.\n\n"
        "Click a bar to select its layer.",
        data=lambda: tables.table(ranking_rows(ranked, metric)),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-sensitivity",
    )


def _show_size(run: Run) -> None:
    size = run.report.size
    if size is None:
        st.caption("The analysis stopped before the bytes were counted.")
        return
    show_figure(
        _small(waterfall_figure(size_steps(run.report))),
        key="start_size",
        alt=reduction_text(size),
        about="From the float model's bytes at the top to the quantized model's at the bottom.\n\n"
        "Weights shrink to a quarter in int8; scales and zero points add a little back.\n\n"
        "1 kB is 1,000 bytes.",
        data=lambda: tables.size_table(size),
        file_name=f"{run.model_name}-size",
    )


def _show_timing(run: Run) -> None:
    timing = run.report.timing
    if timing is None or not timing.models:
        st.caption("The analysis stopped before anything was timed.")
        return
    batch_size = batch_sizes(timing)[-1]
    show_figure(
        _small(model_timing_figure(timing, batch_size)),
        key="start_timing",
        alt=describe_times(timing, batch_size),
        about="Time of one forward pass: bars are medians, whiskers the middle half.\n\n"
        "**Integer** int8 multiplies integers: its bars are int8's true speed here. **Simulated** "
        "int8 computes in float and rounds on top: never a speed-up.\n\n"
        f"Measured on {timing.environment.cpu}.",
        data=lambda: tables.timing_table(timing),
        file_name=f"{run.model_name}-timing",
    )
    # Not a caption: presenter mode hides those, and this has to stand wherever the bars stand.
    st.markdown(":small[Simulated int8 is slower than float by design: it is never a speed-up.]")


_PICTURES: tuple[tuple[str, str, str, str, Callable[[Run], None]], ...] = (
    ("Weight errors (LSB)", ":material/layers:", "views/layer.py", "Layer", _show_errors),
    (
        "Sensitivity (KL, nats)",
        ":material/leaderboard:",
        "views/sensitivity.py",
        "Sensitivity",
        _show_ranking,
    ),
    ("Size (bytes)", ":material/compress:", "views/size_time.py", "Size & time", _show_size),
    ("Time (ms per pass)", ":material/speed:", "views/size_time.py", "Size & time", _show_timing),
)
