"""Remedies for one layer: a button for each that a finding points to, and before | after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.diagnosis import findings as rules
from dashboard.facts.diagnosis.findings import Finding, find_findings, not_judged
from dashboard.facts.diagnosis.remedies import Offer, describe_treatment, offers, treatments_of
from dashboard.facts.output_change import effect_on_all
from dashboard.figures.compare.pair import pair
from dashboard.session import run_state
from dashboard.widgets.guard import contained
from dashboard.widgets.pair_section import show_pair
from dashboard.widgets.verdict_list import open_channels
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import describe_estimate
from dashboard.work import service
from quant_engine.report import LayerReport
from quant_engine.scheme import Recipe

_EFFECTS = {
    "better": (":green[:material/check_circle:]", "Better than before."),
    "worse": (":red[:material/error:]", "Worse than before: undo it."),
    "none": (
        ":orange[:material/remove:]",
        "No effect: the output did not change by more than what the samples leave open (95 %).",
    ),
    "unknown": (":blue[:material/info:]", "The two outputs cannot be compared."),
}


@contained("The diagnosis")
def show_remedies(run: Run, layer: LayerReport) -> None:
    """Draw the layer's findings, a button for every remedy, and what remedies did to it."""
    report = run.report
    if report.is_partial:
        return
    targets, effects = service.remedy_targets(run.model_name), run_state.effects_of(run)
    found = find_findings(layer, report, effects, targets.upstream)
    with st.container(border=True, key="remedies", gap="small"):
        st.markdown("**What is wrong, and what repairs it**")
        for treatment in treatments_of(layer.name, report.treatments):
            st.markdown(f":small[{escape_markdown(describe_treatment(treatment))}]")
        if not found:
            st.caption("No rule finds anything wrong with this layer.")
        for finding in found:
            found_offers = offers(finding, layer, report.recipe, targets)
            _show_finding(finding, layer, found_offers, run.settings)
        missing = not_judged(layer, effects) if layer.is_quantized else ()
        if missing:
            st.caption(escape_markdown(f"Not judged: {'; '.join(missing)}."))


def _show_finding(
    finding: Finding, layer: LayerReport, found: Sequence[Offer], settings: Settings
) -> None:
    st.markdown(
        f"**{escape_markdown(finding.title)}.** {escape_markdown(finding.figure)}.\n\n"
        f":small[{escape_markdown(finding.text)}]"
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for offer in found:
            key = f"{finding.rule}_{offer.key}"
            _show_button(offer.label, f"remedy_{key}", layer.name, offer.recipe)
            is_last = [other for other in found if other.whole == offer.whole][-1] is offer
            if offer.whole is not None and is_last:
                _show_button("… in all layers", f"remedy_all_{key}", layer.name, offer.whole)
        if finding.opens:
            st.button(
                f"Open the channels of the {finding.opens.lower()}",
                key=f"channels_{finding.rule}",
                type="tertiary",
                icon=":material/view_week:",
                on_click=open_channels,
                args=(finding.opens,),
            )
        if finding.origin:
            st.button(
                f"Look at `{finding.origin}`",
                key=f"origin_{finding.rule}",
                icon=":material/arrow_upward:",
                on_click=run_state.select_layer,
                args=(finding.origin,),
            )
    for offer in found:
        if offer.remedy == rules.ADAROUND:
            st.caption(_adaround_time(offer, settings))
    if finding.will_not_help:
        st.caption(f"Will not help: {escape_markdown(finding.will_not_help)}")


def _adaround_time(offer: Offer, settings: Settings) -> str:
    """How long the one remedy that takes long will take, for this layer and for all."""
    times = []
    for where, recipe in {"here": offer.recipe, "in all layers": offer.whole}.items():
        if recipe is not None:
            seconds = service.adaround_seconds(replace(settings, recipe=recipe))
            times.append(f"{describe_estimate(seconds)} {where}")
    return f"AdaRound takes {', '.join(times)}, by the layers' sizes."


def _show_button(label: str, key: str, layer: str, recipe: Recipe) -> None:
    st.button(label, key=key, icon=":material/healing:", on_click=_compare, args=(layer, recipe))


def _compare(layer: str, recipe: Recipe) -> None:
    """Run a recipe and keep looking at this layer, before and after."""
    run_state.select_layer(layer)
    run_state.rerun_and_compare(recipe)


@contained("Before and after")
def show_before_and_after(run: Run, layer: LayerReport) -> None:
    """Draw the run shown beside the run that its remedy was started from, if there is one."""
    before = run_state.run_before_remedy(run)
    if before is None or before.id == run.id or run.report.is_partial:
        return
    verdict = effect_on_all(before.report, run.report)
    icon, text = _EFFECTS[verdict]
    st.subheader("Before | after", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"{icon} {text}", width="content")
        st.button(
            "Undo",
            key="undo_remedy",
            icon=":material/undo:",
            type="primary" if verdict in ("worse", "none") else "secondary",
            on_click=run_state.start_settings,
            args=(before.settings,),
        )
    predicted = (run_state.predicted_effects(before), run_state.predicted_effects(run))
    found = pair(before, run, ("before", "after"), predicted=predicted, layer=layer.name)
    show_pair(found, before, run, key="compared")
