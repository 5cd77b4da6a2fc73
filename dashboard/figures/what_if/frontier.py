"""Bytes of a model against what its quantization is predicted to do to the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.data.prediction import Configuration, Prediction
from dashboard.facts.accuracy import answers_text, changed_answers
from dashboard.facts.configurations import trust_limit
from dashboard.facts.outputs import has_classes, measure_of
from dashboard.figures.kit.axes import BYTES_AXIS, log_axis, row_band, two_lines
from dashboard.figures.kit.marks import dots, line, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.point_labels import point_labels
from dashboard.figures.kit.theme import ERROR, GOOD, HIGHLIGHT, INT8, NEUTRAL, TEXT, new_figure
from dashboard.words.degradation import Degradation
from dashboard.words.formatting import format_bytes, format_number

FRONTIER = "frontier"
BEYOND = "frontier, not reliable"
UNIFORM = "the same bits for all"
RUN = "run shown"
CURRENT = "this configuration"
OTHER = "tried before"

_EDGE = 3.0


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """A configuration in the chart.

    Attributes:
        group: Why it is there.
        name: What to call it.
        text: The configuration, one letter per layer.
        model_bytes: Its bytes.
        predicted: Predicted degradation; see `outputs.measure_of`.
        measured: The same, measured; None where it was not run.
        interval: 95 % interval of what was measured; None where it is not known.
        changed: Answers that are no longer the float model's, of all samples: measured, else
            predicted; None for an output without classes.
        samples: Samples that it is about.
    """

    group: str
    name: str
    text: str
    model_bytes: int
    predicted: float
    measured: float | None = None
    interval: tuple[float, float] | None = None
    changed: int | None = None
    samples: int = 0


def chart_points(
    prediction: Prediction, current: Configuration, own: Configuration
) -> tuple[ChartPoint, ...]:
    """Return everything the chart shows, the current configuration last."""
    frontier = [point.as_dict() for point in prediction.frontier.points]
    uniform = [(prediction.words(o), prediction.uniform(o)) for o in prediction.letters]
    known = {prediction.to_text(one) for one in (*frontier, *(one for _, one in uniform))}
    others = [point.as_dict() for point in prediction.measured]
    named = [
        *((FRONTIER, "on the frontier", one) for one in frontier),
        *((UNIFORM, f"all {words}", one) for words, one in uniform),
        *((OTHER, OTHER, one) for one in others if prediction.to_text(one) not in known),
        (RUN, RUN, dict(own)),
        (CURRENT, CURRENT, dict(current)),
    ]
    # Of several outputs the answers of one would stand for all.
    samples = prediction.response.report.answering_samples
    is_counted = samples > 0 and has_classes(prediction)
    points = []
    for group, name, configuration in named:
        score = prediction.score(configuration)
        measured = prediction.measured_score(configuration)
        value = None if measured is None else measured.degradation
        span = None if measured is None else measured.interval
        agreement = (measured or score).top1_agreement if is_counted else None
        changed = changed_answers(agreement, samples)
        text, size = prediction.to_text(configuration), score.size.model_bytes
        points.append(
            ChartPoint(group, name, text, size, score.degradation, value, span, changed, samples)
        )
    return tuple(points)


def frontier_picture(prediction: Prediction, current: Configuration, own: Configuration) -> Picture:
    """Return bytes against degradation: the frontier, a configuration, and the run shown."""
    points, metric = chart_points(prediction, current, own), measure_of(prediction)
    return Picture(
        frontier_figure(points, metric, limit=trust_limit(prediction)),
        describe_frontier(points, metric),
        (
            "One point per configuration: bytes across, predicted degradation upwards, each grid "
            "line ten times the one before. The star is the table's present choice. A prediction "
            "of exactly 0, such as the float model's, has no place on such an axis: it stands on "
            "the lower edge.",
            "The line is the frontier: the least degradation that a search found for every size. "
            "On shaded ground it is grey: there predictions were found not to hold. Diamonds give "
            "all layers the same bits. What lies above the line can be had smaller, or better.",
            "A green × is what running the model gave, joined to its prediction. Click a point to "
            "load its configuration into the table.",
        ),
        lambda: frontier_rows(points, metric),
        "frontier",
    )


def frontier_figure(
    points: Sequence[ChartPoint], metric: Degradation, *, limit: float = math.inf
) -> go.Figure:
    """Return bytes against predicted degradation, with measured values joined to their predictions.

    `customdata` of a point is its configuration as text. What is predicted not to change the
    output at all, such as the float model, stands on the lower edge. Where predictions do not hold,
    the ground is shaded and the frontier grey.

    Args:
        points: What to show.
        metric: What is predicted.
        limit: Largest predicted degradation up to which predictions hold on this model.
    """
    place = _placing(points)
    uniform = [number for number, point in enumerate(points) if point.group == UNIFORM]
    notes = point_labels(
        [(p.model_bytes, math.log10(place(p.predicted))) for p in points],
        [p.name.removeprefix("all ") for p in points],
        uniform[:0:-1] + uniform[:1],
        most=len(uniform),
    )
    detail = f"predicted {metric.title}" + ("" if limit > 0 else ", not reliable here")
    ends = [place(v) for p in points for v in (p.predicted, p.measured) if v is not None]
    traces = _traces(points, metric, place, limit)
    return new_figure(
        two_lines("Bytes against degradation", detail),
        "Bytes of the model (1 kB = 1,000 bytes)",
        metric.title[0].upper() + metric.title[1:],
        traces=[t for t in traces if t["x"]],
        height=520,
        x_axis=dict(BYTES_AXIS),
        y_axis=log_axis(ends),
        annotations=notes,
        shapes=[untrusted_ground(limit, ends)] if max(ends, default=0.0) > limit else [],
    )


def _placing(points: Sequence[ChartPoint]) -> Callable[[float], float]:
    """Return where a value stands on the axis: zero and infinity on its edges."""
    values = [v for p in points for v in (p.predicted, p.measured) if v and math.isfinite(v)]
    low, high = min(values, default=1.0) / _EDGE, max(values, default=1.0) * _EDGE

    def place(value: float) -> float:
        return high if value == math.inf else max(value, low)

    return place


def _traces(
    points: Sequence[ChartPoint], metric: Degradation, place: Callable[[float], float], limit: float
) -> list[dict[str, Any]]:
    def group(name: str) -> list[ChartPoint]:
        return [point for point in points if point.group == name]

    def marks(chosen: Sequence[ChartPoint], color: str, name: str, **more: Any) -> dict[str, Any]:
        return dots(
            [p.model_bytes for p in chosen],
            [place(p.predicted) for p in chosen],
            color,
            name=name,
            layers=[p.text for p in chosen],
            hover=[_describe(p, metric) for p in chosen],
            cliponaxis=False,
            **more,
        )

    frontier = group(FRONTIER)
    held = [p for p in frontier if p.predicted <= limit]
    beyond = [p for p in frontier if p.predicted > limit]
    joined = {"mode": "lines+markers"}
    solid = {"color": ERROR, "width": 2}
    dotted = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    return [
        marks(held, ERROR, FRONTIER, size=9, line=solid, **joined),
        marks(beyond, NEUTRAL, BEYOND, size=8, symbol="circle-open", line=dotted, **joined),
        marks(group(UNIFORM), NEUTRAL, UNIFORM, size=11, symbol="diamond"),
        marks(group(OTHER), NEUTRAL, OTHER, size=9),
        *_measured_traces(points, metric, place),
        marks(group(RUN), INT8, RUN, edge=INT8, size=13, symbol="square-open", edge_width=2),
        marks(group(CURRENT), HIGHLIGHT, CURRENT, size=17, symbol="star", edge=TEXT),
    ]


def _measured_traces(
    points: Sequence[ChartPoint], metric: Degradation, place: Callable[[float], float]
) -> list[dict[str, Any]]:
    """Return measured values, and the lines from the predictions to them."""
    run = [point for point in points if point.measured is not None]
    heights = [place(p.measured or 0.0) for p in run]
    x = [value for p in run for value in (p.model_bytes, p.model_bytes, None)]
    y = [
        v
        for p, height in zip(run, heights, strict=True)
        for v in (place(p.predicted), height, None)
    ]
    spans = [p.interval and (place(p.interval[0]), place(p.interval[1])) for p in run]
    return [
        line(x, y, GOOD, name="predicted to measured", showlegend=False),
        dots(
            [p.model_bytes for p in run],
            heights,
            GOOD,
            name="measured",
            layers=[p.text for p in run],
            hover=[_describe(p, metric) for p in run],
            edge_width=2,
            size=9,
            symbol="x-thin",
            error_y=whiskers(heights, spans, GOOD),
        ),
    ]


def untrusted_ground(
    limit: float, ends: Sequence[float], *, is_left: bool = False
) -> dict[str, Any]:
    """Return a shape: the ground beyond where predictions hold, up to the largest of `ends`."""
    where = f"above {format_number(limit)}" if limit else "here"
    return {
        **row_band(limit or min(ends), max(ends) * 1.5),
        "fillcolor": NEUTRAL,
        "opacity": 0.16,
        "label": {
            "text": f"predictions do not hold {where}",
            "textposition": "top left" if is_left else "top right",
            "font": {"size": 12},
        },
    }


def frontier_rows(points: Sequence[ChartPoint], metric: Degradation) -> list[dict[str, Any]]:
    """Return the numbers of the figure, one row per point."""
    column = metric.column
    return [
        {
            "what": point.group,
            "name": point.name,
            "configuration": point.text,
            "model_bytes": point.model_bytes,
            f"predicted_{column}": point.predicted,
            f"measured_{column}": point.measured,
            f"measured_{column}_low": point.interval and point.interval[0],
            f"measured_{column}_high": point.interval and point.interval[1],
        }
        for point in points
    ]


def describe_frontier(points: Sequence[ChartPoint], metric: Degradation) -> str:
    """Return the takeaway of the figure in a sentence or two.

    What was measured is compared with what was measured, else predictions with each other.
    """
    frontier = [point for point in points if point.group == FRONTIER]
    (current,) = [point for point in points if point.group == CURRENT]
    run = [point for point in frontier if point.measured is not None]
    is_measured = current.measured is not None and bool(run)
    text = f"{format_bytes(current.model_bytes)}: {_result(current, metric)}."
    rivals = [
        (value, point)
        for point in (run if is_measured else frontier)
        for value in [point.measured if is_measured else point.predicted]
        if value is not None and point.model_bytes <= current.model_bytes
    ]
    own = current.measured if is_measured else current.predicted
    better = [(value, point) for value, point in rivals if value < 0.95 * (own or 0.0)]
    kind = "measured" if is_measured else "predicted"
    if not better:
        return f"{text} Nothing {kind} on the frontier is both smaller and better."
    value, best = min(better, key=lambda pair: pair[0])
    return (
        f"{text} On the frontier {format_bytes(best.model_bytes)} do better, {kind}: "
        f"{metric.text(value, 2)} against {metric.text(own or 0.0, 2)}."
    )


def _result(point: ChartPoint, metric: Degradation) -> str:
    """What a configuration does: changed answers, then the degradation and where it is from."""
    kind = "predicted" if point.measured is None else "measured"
    value = point.predicted if point.measured is None else point.measured
    number = f"{kind} {metric.label} {metric.text(value, 2)}"
    if point.changed is None:
        return number
    return f"{answers_text(point.changed, point.samples)} ({number})"


def _describe(point: ChartPoint, metric: Degradation) -> str:
    measured = "not run" if point.measured is None else metric.text(point.measured)
    if point.interval is not None:
        low, high = (format_number(edge) for edge in point.interval)
        measured += f" (95 %: {low} to {high})"
    return (
        f"<b>{point.name}</b>, {format_bytes(point.model_bytes)}"
        f"<br>measured {metric.label}: {measured}"
        f"<br>predicted: {metric.text(point.predicted)}<br>click to try it"
    )
