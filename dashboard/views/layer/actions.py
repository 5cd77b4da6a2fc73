"""What can be done about a layer: keep it in float, include it, change its bits or ranges."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.facts.tensors import observer_name
from dashboard.session import run_state
from dashboard.words.formatting import plural
from dashboard.words.markdown import escape_markdown
from quant_engine.report import EXCLUDED, LayerReport, ModelReport
from quant_engine.scheme import MAX_BITS, MIN_BITS, Recipe, observers_for


def show_actions(layer: LayerReport, report: ModelReport) -> None:
    """Draw the actions on one layer; each starts an analysis with a changed recipe."""
    if layer.is_quantized:
        _show_change(layer, report.recipe)
    else:
        _show_include(layer, report)


def _show_change(layer: LayerReport, recipe: Recipe) -> None:
    if layer.weight is None:
        return
    bits = layer.weight.scheme.bits
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="actions"):
        st.button(
            "Keep in float and re-run",
            key="keep_float",
            icon=":material/block:",
            on_click=_rerun_and_stay,
            args=(layer.name, recipe.with_excluded(layer.name)),
        )
        choices = [other for other in range(MAX_BITS, MIN_BITS - 1, -1) if other != bits]
        usual = 4 if bits != 4 else 8
        chosen = st.selectbox(
            f"Weight bits (now {bits})",
            choices,
            index=choices.index(usual),
            format_func=lambda other: f"{other} bits",
            key=f"bits_{layer.name}_{bits}",
            width=160,
            help="Fewer bits need less memory and make more error.",
        )
        st.button(
            f"Change weights to {chosen} bits and re-run",
            key="change_bits",
            icon=":material/tune:",
            on_click=_rerun_and_stay,
            args=(layer.name, recipe.with_layer_bits(layer.name, int(chosen or bits))),
        )


def _show_include(layer: LayerReport, report: ModelReport) -> None:
    recipe = report.recipe
    reason = escape_markdown(layer.reason.rstrip(".") or "no reason was recorded")
    st.info(f"**This layer stays in float:** {reason}.", icon=":material/info:")
    if layer.status != EXCLUDED or recipe.excluding_pattern(layer.name) is None:
        return
    included = recipe.with_included(layer.name)
    others = [other.name for other in report.layers if other.name != layer.name]
    kept = [name for name in others if recipe.excluding_pattern(name) is not None]
    also = [name for name in kept if included.excluding_pattern(name) is None]
    st.button(
        "Include it and re-run",
        key="include",
        type="primary",
        icon=":material/add_circle:",
        on_click=_rerun_and_stay,
        args=(layer.name, included),
    )
    if also:
        st.caption(
            f"The same entry keeps {plural(len(also), 'other layer')} in float; "
            "they are quantized again as well."
        )


def _rerun_and_stay(name: str, recipe: Recipe) -> None:
    """Analyse again and keep looking at this layer, even where another becomes the worst."""
    run_state.select_layer(name)
    run_state.rerun_with(recipe)


def show_rule_change(layer: LayerReport, report: ModelReport, part: str) -> None:
    """Offer another range estimator for a weight or input; for a dynamic input a fixed range.

    Args:
        layer: A quantized layer.
        report: The report it is from.
        part: "weight" or "input".
    """
    scheme = report.recipe.layer_scheme(layer.name)
    if scheme is None:
        return
    tensor_scheme = scheme.weight if part == "weight" else scheme.activation
    if tensor_scheme is None:
        return
    is_dynamic = tensor_scheme.is_dynamic
    rules = observers_for(symmetric=tensor_scheme.symmetric, is_weight=part == "weight")
    others = [name for name in rules if is_dynamic or name != tensor_scheme.observer]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        chosen = st.selectbox(
            "A fixed range for this layer" if is_dynamic else "Another range estimator",
            others,
            format_func=observer_name,
            key=f"rule_{part}_{layer.name}",
            width=220,
        )
        changed = replace(tensor_scheme, observer=chosen or others[0], is_dynamic=False)
        field = "weight" if part == "weight" else "activation"
        own = replace(scheme, **{field: changed})
        st.button(
            "Use it and re-run",
            key=f"use_rule_{part}",
            icon=":material/play_arrow:",
            on_click=_rerun_and_stay,
            args=(layer.name, report.recipe.with_override(layer.name, own)),
        )
