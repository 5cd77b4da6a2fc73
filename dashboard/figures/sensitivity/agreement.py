"""A proxy metric's order of the layers against the measured one."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard.facts.sensitivity.metrics import SensitivityMetric
from dashboard.facts.sensitivity.proxies import (
    Agreement,
    LayerPair,
    correlation_text,
    describe_correlation,
)
from dashboard.figures.kit.marks import dots, line
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import ERROR, empty_figure, new_figure


def agreement_picture(
    agreement: Agreement, metric: SensitivityMetric, *, selected: str = ""
) -> Picture:
    """Return ranks against ranks, with the layer `selected` marked."""
    return Picture(
        _figure(agreement, metric, selected),
        describe_agreement(agreement, metric),
        (
            f"One point per layer. Across: its rank by {agreement.proxy.label}. Upwards: its "
            f"measured rank. {agreement.proxy.label}: {agreement.proxy.about}",
            "On the dotted line the proxy metric is right. Above the line it makes too much of "
            "a layer, below the line it overlooks one that matters.",
            "A rank correlation near +1 means the proxy metric would do for this model; it "
            "need not for another one.",
        ),
        lambda: agreement_rows(agreement, metric),
        f"agreement-{agreement.proxy.key}",
    )


def _figure(agreement: Agreement, metric: SensitivityMetric, selected: str) -> go.Figure:
    """Ranks against ranks; on the diagonal the proxy metric is right."""
    title = f"Ranks: {metric.label} against {agreement.proxy.label}"
    if not agreement.pairs:
        reason = f"No layer has both a {agreement.proxy.label} and a measurement."
        return empty_figure(title, reason)
    pairs, count = agreement.pairs, len(agreement.pairs)
    points = dots(
        [pair.proxy_rank for pair in pairs],
        [pair.measured_rank for pair in pairs],
        ERROR,
        name="one layer",
        layers=[pair.name for pair in pairs],
        hover=[_describe(pair, agreement, metric) for pair in pairs],
        is_selected=[pair.name == selected for pair in pairs],
    )
    diagonal = line([1, count], [1, count], name="same rank in both", dash="dot")
    ticks = {"range": [0, count + 1], "tick0": 1, "dtick": max(1, round(count / 10))}
    return new_figure(
        title,
        f"Rank by {agreement.proxy.label} (1 = {agreement.proxy.first})",
        "Measured rank (1 = most sensitive)",
        traces=[diagonal, points],
        height=420,
        x_axis=ticks,
        y_axis=ticks,
    )


def describe_agreement(agreement: Agreement, metric: SensitivityMetric) -> str:
    """Return the takeaway of the figure in a sentence: how far the orders agree, and where not."""
    label = agreement.proxy.label
    if agreement.spearman is None:
        return f"Too few layers have both a {label} and a measurement to compare their orders."
    text = (
        f"{label} against measured {metric.label}: {describe_correlation(agreement.spearman)} "
        f"(ρ = {correlation_text(agreement.spearman)}"
    )
    worst = agreement.worst
    if worst is None or not worst.gap:
        return f"{text})."
    return (
        f"{text}), furthest apart at {worst.name}, rank {worst.proxy_rank:g} by {label} and "
        f"{worst.measured_rank:g} measured."
    )


def agreement_rows(agreement: Agreement, metric: SensitivityMetric) -> list[dict[str, Any]]:
    """Return the numbers of the figure, one row per layer."""
    return [
        {
            "layer": pair.name,
            agreement.proxy.column: pair.proxy_value,
            f"measured_{metric.key}": pair.measured,
            f"rank_by_{agreement.proxy.key}": pair.proxy_rank,
            "measured_rank": pair.measured_rank,
        }
        for pair in agreement.pairs
    ]


def _describe(pair: LayerPair, agreement: Agreement, metric: SensitivityMetric) -> str:
    proxy = agreement.proxy
    return (
        f"<b>{pair.name}</b>"
        f"<br>{proxy.label}: {proxy.format(pair.proxy_value)}, rank {pair.proxy_rank:g}"
        f"<br>{metric.label}: {metric.format(pair.measured)}, rank {pair.measured_rank:g}"
    )
