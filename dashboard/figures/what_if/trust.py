"""Predicted against measured, on the very model: how far a prediction can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.data.prediction import Prediction
from dashboard.facts.configurations import trust_limit, trust_text
from dashboard.facts.outputs import measure_of
from dashboard.figures.kit.axes import log_axis, two_lines
from dashboard.figures.kit.marks import dots, line
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import ERROR, GOOD, NEUTRAL, empty_figure, new_figure
from dashboard.figures.what_if.frontier import untrusted_ground
from dashboard.words.degradation import Degradation
from quant_engine.report import AgreementPoint
from quant_engine.variants import FLOAT_OPTION

SINGLE = "one layer, one candidate"
RANDOM = "random configurations"
RUN = "run from this page"


def trust_picture(prediction: Prediction) -> Picture:
    """Return predicted against measured, for all that was run on this model.

    `customdata` of a point is its configuration as text. Where predictions do not hold, the ground
    is shaded.
    """
    return Picture(
        _figure(prediction),
        trust_text(prediction),
        (
            "One point per configuration that was really run. Across: what was measured. "
            "Upwards: what had been predicted.",
            "On the dotted line the prediction is right; below it, it makes too little of the "
            "degradation. Points in the same order from left to right as from low to high can "
            "be compared by prediction.",
            "Harsh configurations leave the line first: predictions are of first order, and "
            "large errors are not. Click a point to try its configuration.",
        ),
        lambda: trust_rows(prediction),
        "trust",
    )


def _figure(prediction: Prediction) -> go.Figure:
    metric, limit = measure_of(prediction), trust_limit(prediction)
    title = two_lines("Predicted against measured", metric.title)
    looks = [
        (SINGLE, ERROR, "circle", 8),
        (RANDOM, NEUTRAL, "diamond", 9),
        (RUN, GOOD, "x-thin", 9),
    ]
    shown = {
        name: [p for p in points if all(0 < v < math.inf for v in (p.predicted, p.measured))]
        for name, points in _groups(prediction).items()
    }
    values = [v for points in shown.values() for p in points for v in (p.predicted, p.measured)]
    if not values:
        return empty_figure(title, "No configuration moved the output, so nothing compares.")
    ends = [min(values) / 2, max(values) * 2]
    traces = [line(ends, ends, name="predicted = measured", dash="dot")]
    traces += [
        dots(
            [p.measured for p in found],
            [p.predicted for p in found],
            color,
            name=name,
            layers=[prediction.to_text(dict(p.configuration)) for p in found],
            hover=[_describe(p, name, metric) for p in found],
            edge_width=2 if symbol == "x-thin" else 1,
            size=size,
            symbol=symbol,
        )
        for name, color, symbol, size in looks
        if (found := shown[name])
    ]
    axis = log_axis(ends)
    ground = [untrusted_ground(limit, ends, is_left=True)] if max(ends) > limit else []
    return new_figure(
        title,
        f"Measured {metric.title}",
        f"Predicted {metric.title}",
        traces=traces,
        height=460,
        x_axis=axis,
        y_axis=axis,
        shapes=ground,
    )


def trust_rows(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the numbers of the figure, one row per configuration."""
    return [
        {
            "what": name,
            "configuration": prediction.to_text(dict(point.configuration)),
            "predicted": point.predicted,
            "measured": point.measured,
        }
        for name, points in _groups(prediction).items()
        for point in points
    ]


def _groups(prediction: Prediction) -> dict[str, Sequence[AgreementPoint]]:
    """Return all configurations that were run, by why they were."""
    agreement = prediction.response.agreement
    run = [
        AgreementPoint(p.configuration, p.predicted.degradation, p.measured.degradation)
        for p in prediction.measured
        if p.measured is not None
    ]
    return {SINGLE: agreement.single_points, RANDOM: agreement.random_points, RUN: run}


def _describe(point: AgreementPoint, name: str, metric: Degradation) -> str:
    layers = [pair for pair in point.configuration if pair[1] != FLOAT_OPTION]
    what = f"{layers[0][0]}: {layers[0][1]}" if len(layers) == 1 else name
    return (
        f"<b>{what}</b><br>predicted {metric.text(point.predicted)}"
        f"<br>measured {metric.text(point.measured)}<br>click to try it"
    )
