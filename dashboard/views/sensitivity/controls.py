"""The controls of the Sensitivity page: what is switched, and how the ranking is drawn."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import (
    DIRECTION_LABELS,
    PARTS_LABELS,
    Sweep,
    describe_sweep,
    rounds_inputs,
    sweep_of,
)
from dashboard.facts.sensitivity.metrics import SensitivityMetric, available_metrics
from dashboard.session.link_check import check_link_word
from dashboard.widgets.choice import choose, choose_top
from quant_engine.report import SensitivityReport
from quant_engine.variants import ACTIVATIONS, OPTION_BITS, WEIGHTS

DIRECTION_KEY, PARTS_KEY, WIDTHS_KEY, OPTION_KEY = "direction", "parts", "widths", "option"
_SWEEP_KEYS = (DIRECTION_KEY, PARTS_KEY, WIDTHS_KEY)


def choose_sweep(run: Run) -> Sweep:
    """Draw what is switched, and the way to other measurements of this run; return the choice."""
    measured = [sweep_of(report) for report in run.sensitivities]
    check_link_word(WIDTHS_KEY, [str(width) for width in OPTION_BITS])
    _open_with_a_measurement(measured)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        about = "**Single-layer**: only this layer is quantized, the rest is float. "
        about += "**Leave-one-out**: every layer is quantized but this one."
        direction = choose("Mode", list(DIRECTION_LABELS.values()), DIRECTION_KEY, help=about)
        about = "Whether a layer is sensitive because of its weights or because of its inputs."
        parts = choose("What is quantized", list(PARTS_LABELS.values()), PARTS_KEY, help=about)
        is_inputs = parts == PARTS_LABELS[ACTIVATIONS]
        widths = st.pills(
            "Weight bits to try",
            [str(width) for width in OPTION_BITS],
            selection_mode="multi",
            key=WIDTHS_KEY,
            bind="query-params",
            disabled=is_inputs,
            help="Bits of the weights have no effect where only inputs are rounded."
            if is_inputs
            else "None chosen: the run's own scheme. Several: every layer at each of these "
            "widths, all in one sweep. Inputs keep their bits.",
        )
    chosen = Sweep(
        next(key for key, label in DIRECTION_LABELS.items() if label == direction),
        next(key for key, label in PARTS_LABELS.items() if label == parts),
        tuple(int(width) for width in widths),
    )
    if chosen.parts == WEIGHTS and not rounds_inputs(run.recipe):
        st.caption("This run quantizes weights only: both choices are the same here.")
    sweep = chosen.settled(run.recipe)
    _show_measured(sweep, measured)
    return sweep


def _open_with_a_measurement(measured: list[Sweep]) -> None:
    """Where the link asks for none in particular, and the usual one is not there, show another."""
    is_asked = any(key in st.session_state or key in st.query_params for key in _SWEEP_KEYS)
    if measured and not is_asked and Sweep() not in measured:
        _set_sweep(measured[0])


def _set_sweep(sweep: Sweep) -> None:
    """Give the controls the values of a sweep, before they are drawn or in a callback."""
    st.session_state[DIRECTION_KEY] = DIRECTION_LABELS[sweep.direction]
    st.session_state[PARTS_KEY] = PARTS_LABELS[sweep.parts]
    st.session_state[WIDTHS_KEY] = [str(width) for width in sweep.bits]


def _show_measured(sweep: Sweep, measured: list[Sweep]) -> None:
    """Offer the other measurements that this run has, where the controls alone hide them."""
    others = [other for other in measured if other != sweep]
    if not others or not (sweep not in measured or any(other.has_settings for other in others)):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="measured"):
        st.caption("Also measured:" if sweep in measured else "Measured so far:", width="content")
        for other in others:
            st.button(
                describe_sweep(other).capitalize(),
                key=f"show_{other.key}",
                type="tertiary",
                icon=":material/bar_chart:",
                on_click=_set_sweep,
                args=(other,),
            )


def choose_view(report: SensitivityReport) -> tuple[SensitivityMetric, int | None, bool, str]:
    """Draw the controls of the ranking; return measure, number of layers, log axis, filter."""
    metrics = {metric.label: metric for metric in available_metrics(report)}
    check_link_word("metric", list(metrics))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = st.selectbox("Measure", list(metrics), key="metric", bind="query-params", width=220)
        about = "The most sensitive ones. The trade-off and the table always hold all layers."
        top = choose_top("top", "20", about)
        text = st.text_input(
            "Name contains", key="find", bind="query-params", placeholder="such as conv2", width=200
        )
        check_link_word("log", ["true", "false"])
        metric = metrics[label]
        is_log = st.toggle(
            "Logarithmic axis",
            value=True,
            key="log",
            bind="query-params",
            disabled=not metric.allows_log,
            help="Every grid line is ten times the one before. Values of 0 have no place on it. "
            "What sparing a layer gains may be negative, and stands on a linear axis."
            if metric.allows_log
            else "This measure is shown on a linear axis.",
        )
    return metric, top, is_log, text


def choose_option(options: Mapping[str, SensitivityReport]) -> str:
    """Draw the choice of the option that the page is about, if there are several."""
    labels = list(options)
    if len(labels) == 1:
        return labels[0]
    about = "The width that everything below is about."
    return choose("Ranked at", labels, OPTION_KEY, help=about)
