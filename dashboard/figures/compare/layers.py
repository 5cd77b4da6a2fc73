"""Every layer of two runs by one number: a dumbbell for each, and A against B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.facts.compare.compared_layers import (
    LayerChange,
    LayerMetric,
    describe_changes,
    value_text,
)
from dashboard.figures.kit.axes import log_axis, marked_names, row_band, row_targets, rows_axis
from dashboard.figures.kit.marks import Trace, dots, line
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import CLIPPED, GOOD, NEUTRAL, empty_figure, new_figure
from dashboard.figures.layers.four_errors import A_MARK, B_MARK, Mark

MOST_ROWS = 20
_MARKS: tuple[tuple[str, Mark], ...] = (("A", A_MARK), ("B", B_MARK))
ROW_HEIGHT = 22


def change_rows(changes: Sequence[LayerChange], metric: LayerMetric) -> Rows:
    """Return the number of every layer in both runs, as files have it."""
    return [
        {
            "layer": one.name,
            f"a_{metric.key}": one.a,
            f"b_{metric.key}": one.b,
            "b_minus_a": one.change,
        }
        for one in changes
    ]


def dumbbells_picture(
    changes: Sequence[LayerChange], metric: LayerMetric, *, selected: str = ""
) -> Picture:
    """Return one row for each layer, from A to B, the largest change on top.

    Args:
        changes: The layers, in the order to show.
        metric: What they are compared by.
        selected: The layer to mark; it is shown even where others changed more.
    """
    known = [one for one in changes if one.change is not None]
    shown = known[:MOST_ROWS]
    if selected not in [one.name for one in shown]:
        shown = shown[: MOST_ROWS - 1] + [one for one in known if one.name == selected]
    count = f", {len(shown)} of {len(known)}" if len(shown) < len(known) else ""
    title = f"{metric.title}, largest change first{count}"
    side = "right" if metric.is_higher_worse else "left"
    about = (
        "One row for each layer: the ring is A, the diamond B, and the line is what changed. Green "
        "where B is better, red where it is worse.",
        f"Further {side} is worse. Rows are ordered by the size of B − A.",
        "Click a row to select its layer.",
    )
    figure = _dumbbells(title, shown, metric, selected) if shown else empty_figure(title, _NONE)
    alt = describe_changes(changes, metric)
    return Picture(figure, alt, about, lambda: change_rows(changes, metric), "changes")


_NONE = "No layer has this number in both runs."


def _ends(changes: Sequence[LayerChange], metric: LayerMetric) -> list[tuple[float, float]]:
    """Return both values of each; 0 has no place on a logarithmic axis and stands at its edge."""
    pairs = [(one.a, one.b) for one in changes if one.a is not None and one.b is not None]
    if not metric.is_log:
        return pairs
    least = min((value for pair in pairs for value in pair if value > 0), default=1.0) / 3
    return [(max(a, least), max(b, least)) for a, b in pairs]


def _axis(
    ends: Sequence[tuple[float, float]], metric: LayerMetric
) -> tuple[tuple[float, float], dict[str, Any]]:
    """Return how far an axis of these values reaches, and its settings."""
    low, high = min(map(min, ends)), max(map(max, ends))
    if not metric.is_log:
        return (low - 1, high + 1), {"range": [low - 1, high + 1]}
    reach = (low / 2, high * 2)
    settings = log_axis(value for pair in ends for value in pair)
    return reach, settings | {"range": [math.log10(value) for value in reach]}


def _dumbbells(
    title: str, shown: Sequence[LayerChange], metric: LayerMetric, selected: str
) -> go.Figure:
    ends = _ends(shown, metric)
    names = [one.name for one in shown]
    hover = [_hover(one, metric) for one in shown]
    reach, axis = _axis(ends, metric)
    traces = [row_targets(names, hover, *reach)]
    for text, color, is_of in (("B is better", GOOD, True), ("B is worse", CLIPPED, False)):
        chosen = [
            i
            for i, one in enumerate(shown)
            if one.change and (one.change < 0) == (metric.is_higher_worse == is_of)
        ]
        x = [value for i in chosen for value in (*ends[i], None)]
        y = [row for i in chosen for row in (i, i, None)]
        traces.append(line(x, y, color, name=text, width=4))
    for side, (label, mark) in enumerate(_MARKS):
        traces.append(
            dots(
                [pair[side] for pair in ends],
                range(len(shown)),
                mark["color"],
                name=label,
                layers=names,
                hover=hover,
                size=mark["size"],
                symbol=mark["symbol"],
                edge_width=2,
            )
        )
    bands = [row_band(i - 0.48, i + 0.48) for i, name in enumerate(names) if name == selected]
    return new_figure(
        title,
        metric.title,
        traces=traces,
        height=140 + ROW_HEIGHT * len(shown),
        x_axis=axis,
        y_axis=rows_axis(marked_names(names, selected, 24)),
        shapes=bands,
    )


def _hover(one: LayerChange, metric: LayerMetric) -> str:
    return f"<b>{one.name}</b><br>A {value_text(one.a, metric)}, B {value_text(one.b, metric)}"


def scatter_picture(
    changes: Sequence[LayerChange], metric: LayerMetric, *, selected: str = ""
) -> Picture:
    """Return A against B, one mark for each layer, with the line where both are equal."""
    known = [one for one in changes if one.change is not None]
    title = f"{metric.title}: A against B"
    side = "Below" if metric.is_higher_worse else "Above"
    about = (
        "One mark for each layer: across is A, up is B. On the dotted line both are equal.",
        f"{side} the line B is better. The selected layer is ringed; click a mark to select one.",
    )
    alt = _describe_sides(known, metric)
    figure = _scatter(title, known, metric, selected) if known else empty_figure(title, _NONE)
    return Picture(figure, alt, about, lambda: change_rows(changes, metric), "a-against-b")


def _describe_sides(known: Sequence[LayerChange], metric: LayerMetric) -> str:
    equal = sum(not one.change for one in known)
    above = sum(1 for one in known if one.change and one.change > 0)
    return (
        f"{metric.label}: {above} of {len(known)} layers lie above the line (larger in B), "
        f"{len(known) - above - equal} below, {equal} on it."
    )


def _scatter(
    title: str, known: Sequence[LayerChange], metric: LayerMetric, selected: str
) -> go.Figure:
    ends = _ends(known, metric)
    reach, axis = _axis(ends, metric)
    marks: Trace = dots(
        [a for a, _ in ends],
        [b for _, b in ends],
        B_MARK["color"],
        layers=[one.name for one in known],
        hover=[_hover(one, metric) for one in known],
        edge=NEUTRAL,
        is_selected=[one.name == selected for one in known],
    )
    return new_figure(
        title,
        f"A: {metric.title}",
        f"B: {metric.title}",
        traces=[line(reach, reach, name="A = B", dash="dot"), marks],
        height=420,
        x_axis=axis,
        y_axis=dict(axis),
    )
