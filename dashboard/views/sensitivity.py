"""Sensitivity: which layers the output depends on, measured by switching them one by one."""

from __future__ import annotations

import streamlit as st

from dashboard import tables
from dashboard.components import run_state
from dashboard.components.chart import show_figure
from dashboard.components.link_check import check_link_word
from dashboard.components.sensitivity_parts import show_agreement, show_curve, show_headline
from dashboard.components.sensitivity_states import DIRECTION_LABELS, show_empty, show_running
from dashboard.components.sensitivity_table import show_sensitivity_table
from dashboard.figures.ranking import rank_layers
from dashboard.figures.sensitivity import (
    describe_ranking,
    find_layers,
    ranking_figure,
    ranking_rows,
)
from dashboard.figures.sensitivity_metrics import (
    LEAVE_ONE_OUT,
    ONE_AT_A_TIME,
    SensitivityMetric,
    available_metrics,
)
from dashboard.figures.tradeoff import describe_front, tradeoff_figure
from dashboard.runs import Run
from quant_engine.report import SensitivityReport

TOPS = {"10": 10, "20": 20, "50": 50, "all": None}
DEFAULT_TOP = "20"


def _choose_direction(run: Run) -> str:
    labels = list(DIRECTION_LABELS.values())
    check_link_word("direction", labels)
    measured = run.sensitivity.direction if run.sensitivity is not None else None
    label = st.segmented_control(
        "Direction",
        labels,
        default=DIRECTION_LABELS.get(measured or "", labels[0]),
        required=True,
        key="direction",
        bind="query-params",
        help="**One at a time**: only this layer is quantized, the rest is float. "
        "**Leave one out**: every layer is quantized but this one.",
    )
    return next((key for key, text in DIRECTION_LABELS.items() if text == label), ONE_AT_A_TIME)


def _choose_view(
    report: SensitivityReport,
) -> tuple[SensitivityMetric, int | None, bool, str]:
    """Draw the controls of the ranking; return measure, number of layers, log axis, filter."""
    metrics = {metric.label: metric for metric in available_metrics(report)}
    check_link_word("metric", list(metrics))
    check_link_word("top", list(TOPS))
    check_link_word("log", ["true", "false"])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = st.selectbox("Measure", list(metrics), key="metric", bind="query-params", width=220)
        top = st.selectbox(
            "Layers shown",
            list(TOPS),
            index=list(TOPS).index(DEFAULT_TOP),
            key="top",
            bind="query-params",
            width=120,
            help="The most sensitive ones. The trade-off and the table always hold all layers.",
        )
        text = st.text_input(
            "Name contains",
            key="find",
            bind="query-params",
            placeholder="such as conv2",
            width=200,
        )
        metric = metrics[label]
        is_log = st.toggle(
            "Logarithmic axis",
            value=True,
            key="log",
            bind="query-params",
            disabled=not metric.allows_log,
            help="Every grid line is ten times the one before. Values of 0 have no place on it."
            if metric.allows_log
            else "This measure is shown on a linear axis.",
        )
    return metric, TOPS[top], is_log, text


def _show_measured(run: Run, report: SensitivityReport) -> None:
    if not report.layers or not available_metrics(report):
        st.info("Nothing was measured yet.", icon=":material/hourglass_top:")
        return
    show_headline(report)
    metric, top, is_log, text = _choose_view(report)
    ranked = rank_layers(report, metric)
    rows = find_layers(ranked, text, top)
    selected = run_state.selected_layer(run.report)
    is_left_out = report.direction == LEAVE_ONE_OUT

    st.subheader("Which layers matter most", anchor=False)
    show_figure(
        ranking_figure(report, rows, metric, is_log=is_log, selected=selected),
        key="sensitivity_ranking",
        alt=describe_ranking(report, ranked, metric),
        about="\n\n".join(
            (
                "One bar a layer, the most sensitive on top. "
                + (
                    "Every layer is quantized but this one: the **less** error is left, the more "
                    "this layer was to blame."
                    if is_left_out
                    else "Only this layer is quantized: the more error, the more it matters."
                ),
                f"{metric.about} "
                + (f"Whiskers: {metric.interval_name}." if metric.interval_name else ""),
                "A bracket on the right joins neighbours that this data **cannot tell apart**: "
                "compared sample by sample where the ranking is by the report's own measure, else "
                "because their whiskers overlap. Click a bar to select its layer.",
            )
        ),
        data=lambda: tables.table(ranking_rows(rows, metric)),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-sensitivity-{report.direction}",
    )

    st.subheader("What a layer costs and what it saves", anchor=False)
    show_figure(
        tradeoff_figure(report, ranked, metric, is_log=is_log, selected=selected),
        key="sensitivity_tradeoff",
        alt=describe_front(report, ranked, metric),
        about="\n\n".join(
            (
                "One point a layer: how many bytes are "
                + ("given back when it stays float" if is_left_out else "saved by quantizing it")
                + f", against {metric.label}.",
                "Diamonds form the Pareto front: no other layer is better in both. "
                + (
                    "Layers on the front are the cheapest to keep in float."
                    if is_left_out
                    else "Quantize those first; keep layers far from it in float."
                ),
                "Triangles stand for values that the axis cannot show. Click a point to select it.",
            )
        ),
        data=lambda: tables.table(ranking_rows(ranked, metric)),
        on_select=run_state.select_layer,
        file_name=f"{run.model_name}-tradeoff-{report.direction}",
    )
    show_curve(run, report, is_log=is_log, selected=selected)
    show_agreement(run, report, metric, selected=selected)

    st.subheader("All layers, and keeping some in float", anchor=False)
    show_sensitivity_table(run, ranked, metric, report.direction)


st.title("Sensitivity", anchor=False)
st.caption(
    "Which layers does the model's output depend on? Measured by really running the model on its "
    "test data, with one layer switched at a time."
)
shown = run_state.require_run()
direction = _choose_direction(shown)
measured = shown.sensitivity_for(direction)
if not show_running(shown, direction):
    if measured is None:
        show_empty(shown, direction)
    else:
        if measured.is_partial:
            st.warning(
                f"Stopped early: measured on {measured.samples} samples only, so the intervals are "
                "wider than they could be.",
                icon=":material/hourglass_bottom:",
            )
            st.button(
                "Measure again in full",
                icon=":material/refresh:",
                on_click=run_state.start_sensitivity,
                args=(shown, direction),
            )
        _show_measured(shown, measured)
