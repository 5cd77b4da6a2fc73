"""Parts of the Sensitivity page: its headline, the curve, the proxy metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import describe_sweep, split_options, sweep_of
from dashboard.facts.accuracy import change_text, share_text
from dashboard.facts.sensitivity.curve import (
    error_text,
    float_layers,
    is_joint,
    measured_counts,
    most_quantized_without_loss,
    point_change,
    point_with_float_layers,
)
from dashboard.facts.sensitivity.metrics import SensitivityMetric, available_metrics, output_metrics
from dashboard.facts.sensitivity.proxies import (
    PROXIES,
    Agreement,
    correlation_text,
    describe_correlation,
    measure_agreement,
    predicted_proxy,
)
from dashboard.facts.sensitivity.ranking import (
    RankedLayer,
    decided_by,
    describe_ties,
    rank_layers,
    rivals_of_first,
)
from dashboard.figures.sensitivity.agreement import agreement_picture
from dashboard.figures.sensitivity.cumulative import cumulative_picture
from dashboard.figures.sensitivity.tradeoff import tradeoff_picture
from dashboard.session import run_state
from dashboard.session.link_check import check_link_word
from dashboard.session.pages import show_page_link
from dashboard.session.predictions import find_prediction
from dashboard.views.sensitivity.table import exclude_and_rerun
from dashboard.widgets.chart import show_layer_figure
from dashboard.widgets.choice import choose
from dashboard.widgets.guard import contained
from dashboard.widgets.number import show_number
from dashboard.words.formatting import MISSING, format_bytes, plural, short_name
from quant_engine.report import SensitivityReport
from quant_engine.variants import ACTIVATIONS, BOTH


@contained("The headline")
def show_headline(run: Run, report: SensitivityReport) -> None:
    """Draw the four figures that sum a measurement up."""
    metric = available_metrics(report)[0]
    ranked = rank_layers(report, metric)
    rivals = len(rivals_of_first(ranked))
    culprit = run_state.culprit_of(run)
    is_culprit = culprit is not None and culprit.name == ranked[0].name
    first, _ = ranked[0].drawn
    gained = " gained without it" if ranked[0].gain is not None else decided_by(ranked[0], metric)
    value = None if report.reference is None else metric.value(report.reference)
    numbers: list[tuple[str, str, str | None, str | None]] = [
        (
            "Culprit (measured)" if is_culprit else "Most sensitive in this measurement",
            short_name(ranked[0].name, [row.name for row in ranked], 24),
            metric.format(first) + gained,
            None
            if is_culprit or culprit is None
            else "The run's culprit, by its own schemes and one layer at a time: "
            f"{culprit.sentence}",
        ),
        (
            "Could be the first as well",
            plural(rivals, "layer") if rivals else "no other",
            None,
            f"Layers that are statistically tied with the first by {metric.label}. "
            + describe_ties(report, metric),
        ),
        (
            "All layers quantized",
            MISSING if value is None else metric.format(value),
            _reference_text(report) or None,
            f"{metric.label} with every layer of the recipe quantized. {metric.about}",
        ),
    ]
    # The curve may belong to another option; the accuracy of one output says nothing of others.
    has_curve = bool(report.cumulative) or not any(report.options)
    if has_curve and report.accuracy_float is not None and not is_joint(report):
        best = most_quantized_without_loss(report)
        last = max((point.count for point in report.cumulative), default=0)
        numbers.append(
            (
                "Quantized without a loss of accuracy",
                MISSING if best is None else f"{best.count} of {plural(last, 'layer')}",
                None,
                "The most layers, least sensitive first, up to which the "
                f"{report.samples} test samples show no loss against float"
                + (f"; measured at {measured_counts(report)}." if report.cumulative else "."),
            )
        )
    with st.container(horizontal=True, gap="medium", key="sensitivity_headline"):
        for number in numbers:
            show_number(*number, width="content")


def _reference_text(report: SensitivityReport) -> str:
    """What all layers quantized do to each of several outputs, which ratios are shares of."""
    reference = report.reference
    if reference is None or not is_joint(report):
        return ""
    metrics = output_metrics(reference.outputs)
    return "; ".join(f"{one.label} {one.format(one.value(reference))}" for one in metrics)


@contained("The trade-off")
def show_tradeoff(
    report: SensitivityReport,
    ranked: Sequence[RankedLayer],
    metric: SensitivityMetric,
    *,
    is_log: bool,
    selected: str,
    stem: str,
) -> None:
    """Draw bytes against error, one point per layer."""
    st.subheader("What a layer costs and what it saves", anchor=False)
    if report.parts == ACTIVATIONS:
        st.info(
            "Rounding inputs alone saves no bytes: weights stay float. There is nothing to trade.",
            icon=":material/balance:",
        )
        return
    picture = tradeoff_picture(report, ranked, metric, is_log=is_log, selected=selected)
    show_layer_figure(picture, "sensitivity_tradeoff", stem)


@contained("The curve")
def show_curve(
    run: Run, measured: SensitivityReport, option: str, *, is_log: bool, selected: str, stem: str
) -> None:
    """Draw the curve of the k least sensitive layers, and a choice of where to stop."""
    st.subheader("How far can you go", anchor=False)
    first, report = next(iter(split_options(measured).items()))
    if report.cumulative and option != first:
        text = f"The curve was measured at {first}, the first of the widths. Rank at {first} to "
        st.info(f"{text}see it.", icon=":material/show_chart:")
        return
    if not report.cumulative:
        stopped = "The curve is measured last; this measurement was stopped before it."
        text = stopped if report.is_partial else "This measurement has no curve."
        st.info(text, icon=":material/show_chart:")
        return
    last = max(point.count for point in report.cumulative)
    kept = _choose_split(run, report, last)
    picture = cumulative_picture(report, is_log=is_log, selected=selected, kept=kept)
    show_layer_figure(picture, "sensitivity_curve", stem)


def _choose_split(run: Run, report: SensitivityReport, last: int) -> int:
    """Draw the choice of how many layers stay float, and what was measured there."""
    check_link_word("kept", [str(count) for count in range(last + 1)], allowed=f"0 to {last}")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kept = st.number_input(
            "Most sensitive layers in float",
            min_value=0,
            max_value=last,
            value=0,
            step=1,
            key="kept",
            bind="query-params",
            width=220,
            help="The others are quantized. The diamond in the figure marks this model.",
        )
        names = float_layers(report, kept)
        st.button(
            f"Keep {plural(kept, 'layer')} in float and re-run",
            key="rerun_split",
            icon=":material/playlist_remove:",
            disabled=kept == 0,
            on_click=exclude_and_rerun,
            args=(run, names),
        )
        point = point_with_float_layers(report, kept)
        if point is None:
            st.markdown(f"Not measured: the curve was, at {measured_counts(report)} quantized.")
        else:
            accuracy = ""
            if point.accuracy is not None and not is_joint(report):
                accuracy = f"accuracy {share_text(point.accuracy, report.answering_samples)}"
                change = point_change(report, point)
                if change is not None:
                    accuracy += f", against float {change_text(change)}"
            parts = [format_bytes(point.model_bytes), accuracy, error_text(point, report)]
            st.markdown("Measured: " + " · ".join(part for part in parts if part))
    return kept


@contained("The agreement")
def show_agreement(
    run: Run, report: SensitivityReport, metric: SensitivityMetric, *, selected: str
) -> None:
    """Draw whether the proxy metrics of the analysis order the layers as the measurement does."""
    st.subheader("Would a proxy metric have told you?", anchor=False)
    st.caption(
        "An analysis gives each layer's SQNR almost for free: the signal-to-quantization-noise "
        "ratio in decibels, where 10 dB less is ten times the error energy. ρ and τ say how far "
        "two numbers put the layers in the same order: +1 the same, 0 unrelated, −1 the opposite."
    )
    prediction = find_prediction(run.settings)
    proxies = list(PROXIES.values())
    if prediction is not None:
        proxies.append(predicted_proxy(prediction, run.recipe, report.direction))
    found = {proxy.label: measure_agreement(run.report, report, metric, proxy) for proxy in proxies}
    if not any(agreement.pairs for agreement in found.values()):
        text = "The analysis has no per-layer SQNR to compare with: it was stopped early."
        st.info(text, icon=":material/compare_arrows:")
        return
    bits, parts = sweep_of(report).bits, report.parts
    if bits not in ((), (run.recipe.weight.bits,)) or parts != BOTH:
        st.caption(
            "The proxy metrics come from the analysis: they are about the run's own scheme, the "
            "measured ones about " + describe_sweep(sweep_of(report)) + "."
        )
    _show_correlations(found)
    if prediction is None:
        label = "Learn to predict this model, and the prediction is compared here as well"
        show_page_link("what_if", label)
    labels = [label for label, agreement in found.items() if agreement.pairs]
    agreement = found[choose("Proxy metric", labels, "proxy")]
    picture = agreement_picture(agreement, metric, selected=selected)
    show_layer_figure(picture, "sensitivity_agreement", run.model_name)


def _show_correlations(found: Mapping[str, Agreement]) -> None:
    with st.container(horizontal=True, gap="medium", key="correlations"):
        for label, agreement in found.items():
            st.metric(
                label,
                f"ρ = {correlation_text(agreement.spearman)}",
                f"{describe_correlation(agreement.spearman)} · "
                f"τ = {correlation_text(agreement.kendall)}",
                delta_color="off",
                delta_arrow="off",
                help=f"Proxy metric for {plural(len(agreement.pairs), 'layer')}. "
                f"{agreement.proxy.about} ρ is Spearman's rank correlation, "
                "τ is Kendall's tau-b: +1 is the same order as measured, 0 no relation, "
                "−1 the opposite.",
                width=260,
            )
