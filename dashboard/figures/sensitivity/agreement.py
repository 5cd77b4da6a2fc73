"""A proxy metric's order of the layers against the measured one."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.metrics import SensitivityMetric
from dashboard.facts.proxies import Agreement, LayerPair, describe_correlation
from dashboard.figures.kit.theme import (
    ERROR,
    ERROR_EDGE,
    HIGHLIGHT,
    NEUTRAL,
    empty_figure,
    new_figure,
)


def correlation_text(value: float | None) -> str:
    """Return a correlation with two decimals and its sign.

    Example:
        >>> correlation_text(0.931), correlation_text(-0.2), correlation_text(None)
        ('+0.93', '−0.20', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:+.2f}".replace("-", "−")


def agreement_figure(
    agreement: Agreement, metric: SensitivityMetric, *, selected: str = ""
) -> go.Figure:
    """Return ranks against ranks; on the diagonal the proxy metric is right.

    `customdata` of a point is the layer's name.
    """
    title = f"Ranks: {metric.label} against {agreement.proxy.label}"
    if not agreement.pairs:
        return empty_figure(
            title, f"No layer has both a {agreement.proxy.label} and a measurement."
        )
    pairs = agreement.pairs
    count = len(pairs)
    is_selected = [pair.name == selected for pair in pairs]
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": "one layer",
        "x": [pair.proxy_rank for pair in pairs],
        "y": [pair.measured_rank for pair in pairs],
        "customdata": [pair.name for pair in pairs],
        "hovertext": [_describe(pair, agreement, metric) for pair in pairs],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {
            "color": ERROR,
            "opacity": 1.0,  # an array of sizes would make the points transparent
            "size": [15 if chosen else 10 for chosen in is_selected],
            "line": {
                "color": [HIGHLIGHT if chosen else ERROR_EDGE for chosen in is_selected],
                "width": [3 if chosen else 1 for chosen in is_selected],
            },
        },
    }
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "name": "same rank in both",
        "x": [1, count],
        "y": [1, count],
        "line": {"color": NEUTRAL, "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }
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
            agreement.proxy.column: pair.cheap,
            f"measured_{metric.key}": pair.measured,
            f"rank_by_{agreement.proxy.key}": pair.proxy_rank,
            "measured_rank": pair.measured_rank,
        }
        for pair in agreement.pairs
    ]


def _describe(pair: LayerPair, agreement: Agreement, metric: SensitivityMetric) -> str:
    return "<br>".join(
        (
            f"<b>{pair.name}</b>",
            f"{agreement.proxy.label}: {agreement.proxy.format(pair.cheap)}, "
            f"rank {pair.proxy_rank:g}",
            f"{metric.label}: {metric.format(pair.measured)}, rank {pair.measured_rank:g}",
        )
    )
