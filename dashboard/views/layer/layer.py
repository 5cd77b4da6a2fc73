"""Layer: what quantization did to one layer, and why."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.columns import COLUMNS
from dashboard.facts.diagnosis.causes import (
    accumulated_relative,
    input_relative,
    local_relative,
    weight_relative,
)
from dashboard.facts.diagnosis.verdicts import BAD, WATCH, Verdict, layer_verdicts, tensor_verdicts
from dashboard.session import run_state
from dashboard.session.link_check import check_link_word
from dashboard.views.layer.actions import show_actions
from dashboard.views.layer.overview import show_overview
from dashboard.views.layer.remedies import show_before_and_after, show_remedies
from dashboard.views.layer.repair import show_repair
from dashboard.views.layer.tensor import TABS, TensorView
from dashboard.widgets.choice import choose
from dashboard.widgets.guard import contained
from dashboard.widgets.judged import show_judged
from dashboard.widgets.lesson_links import show_number_lessons
from dashboard.widgets.number import show_number
from dashboard.widgets.slides import ARROWS
from dashboard.widgets.verdict_list import show_verdicts
from dashboard.words.formatting import (
    format_bytes,
    format_db,
    format_relative,
    format_shape,
    plural,
)
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_input, gloss
from quant_engine.report import LayerReport, ModelReport

WEIGHTS, INPUTS = "Weights", "Inputs"
PARTS = {WEIGHTS: "weight", INPUTS: "input"}

_ERRORS = (
    ("Weight error", weight_relative, "weight_sqnr_db"),
    ("Input error, pooled", input_relative, "input_sqnr_db"),
    ("Local error", local_relative, "local_sqnr_db"),
    ("Accumulated error", accumulated_relative, "accumulated_sqnr_db"),
)
"""The errors of a layer: name, how it is read, and the column with its SQNR."""

_ALIKE = (
    "Above, the error as a share of the signal with each channel counted alike, as in the figure: "
    "lost channels show. Below, the SQNR pools all values: large channels hide small ones."
)
_POOLED = "Both numbers pool all values, as an input has one scale."

_BADGES = {"quantized": ("green", ":material/check:"), "excluded": ("blue", ":material/block:")}


def _show_head(layer: LayerReport, report: ModelReport) -> None:
    names = [other.name for other in report.layers]
    index = names.index(layer.name)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="layer_head"):
        st.subheader(f"`{layer.name}`", anchor=False, width="content")
        color, icon = _BADGES.get(layer.status, ("orange", ":material/help:"))
        st.badge(layer.status, color=color, icon=icon)  # type: ignore[arg-type]
        for text, _, icon, step in ARROWS:
            is_end = not 0 <= index + step < len(names)
            st.button(
                text,
                key=f"layer_{text.lower()}",
                icon=icon,
                type="tertiary",
                disabled=is_end,
                on_click=run_state.select_layer,
                args=("" if is_end else names[index + step],),
            )
    facts = [layer.kind, f"layer {index + 1} of {len(names)}"]
    if layer.weight_shape:
        facts.append(f"weight {format_shape(layer.weight_shape)}")
    facts.append(plural(layer.parameters, "parameter"))
    if layer.calls > 1:
        facts.append(f"runs {layer.calls} times in a pass")
    show_judged(report, lead=f"{', '.join(facts)}.")


@contained("The headline")
def _show_headline(layer: LayerReport) -> None:
    size = layer.size
    with st.grid(5, min_column_width=160, key="layer_headline"):
        for name, read, key in _ERRORS:
            share, sqnr = read(layer), COLUMNS[key]
            value = "exact" if share == 0 else format_relative(share)
            about = f"{sqnr.about} {_POOLED if read is input_relative else _ALIKE}"
            show_number(name, value, f"pooled SQNR {format_db(sqnr.read(layer))}", about)
        before = f"from {format_bytes(size.float_bytes)}" if layer.is_quantized else "stays float"
        show_number("Bytes", format_bytes(size.quantized_bytes), before)


def _show_tensor(layer: LayerReport, report: ModelReport) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        subject = choose("Look at", list(PARTS), "part")
        is_log = st.toggle(
            "Logarithmic counts",
            key="log_counts",
            bind="query-params",
            help="Makes rare values visible beside frequent ones. For Values, Error and Codes.",
        )
    part = PARTS[subject]
    tensor = layer.weight if part == "weight" else layer.input
    if tensor is None:
        st.info(_why_no_tensor(layer, report, part), icon=":material/info:")
        return
    check_link_word("tab", list(TABS))
    view = TensorView(report, layer, part, tensor, subject, is_log)
    tabs = st.tabs(list(TABS), key="tab", on_change="rerun", bind="query-params")
    for tab, draw in zip(tabs, TABS.values(), strict=True):
        if tab.open:
            with tab:
                draw(view)


def _why_no_tensor(layer: LayerReport, report: ModelReport, part: str) -> str:
    scheme = report.recipe.layer_scheme(layer.name)
    if part == "input" and scheme is not None and scheme.activation is None:
        return "This layer's inputs stay in float: only its weights are quantized."
    if report.is_partial:
        return "Not measured: the analysis stopped before it came to this."
    if part == "input" and layer.has_dynamic_input:
        reason = escape_markdown(layer.reason.rstrip(".") or "it never ran on the data")
        return f"Inputs are {describe_input(layer)}. Nothing was measured: {reason}."
    return f"This layer's {part} was not quantized."


@contained("The verdicts")
def _show_verdicts(layer: LayerReport, report: ModelReport) -> None:
    """What needs attention stands open, what is fine is one click away."""
    details: list[Verdict] = []
    for tensor, subject in ((layer.weight, WEIGHTS), (layer.input, INPUTS)):
        if tensor is not None:
            details += tensor_verdicts(tensor, subject, layer)
    fine = [verdict for verdict in details if verdict.tone not in (BAD, WATCH)]
    with st.container(border=True, key="verdicts", gap="small"):
        st.markdown("**What the numbers say**")
        shown = (*layer_verdicts(layer, report), *(v for v in details if v not in fine))
        show_verdicts(shown, key="finding")
        if fine:
            with st.expander(f"{plural(len(fine), 'more finding')}: nothing to worry about"):
                show_verdicts(fine)
        if not shown and not fine:
            st.caption("Nothing was measured on this layer.")


def _show_layer(run: Run) -> None:
    report = run.report
    layer = report.layer(run_state.selected_layer(report))
    _show_head(layer, report)
    _show_headline(layer)
    if report.is_partial and layer.accumulated_error is None:
        text = "The analysis stopped early: some numbers of this layer are missing."
        st.warning(text, icon=":material/hourglass_bottom:")
    show_remedies(run, layer)
    show_repair(run)
    show_before_and_after(run, layer)
    _show_verdicts(layer, report)
    show_number_lessons(gloss("SQNR", "LSB"), key="layer_headline", labels="Weight error")
    show_actions(layer, report)
    if layer.is_quantized:
        _show_tensor(layer, report)


st.title("Layer", anchor=False)
shown = run_state.require_run()
if not shown.report.layers:
    st.info("This model has no layer that holds weights.", icon=":material/info:")
else:
    show_overview(shown)
    _show_layer(shown)
