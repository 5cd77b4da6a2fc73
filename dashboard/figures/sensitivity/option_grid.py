"""Layers × options: what every layer does to the output at every width, as a table of bars.

With one layer left out, what sparing it gains against all layers quantized.

Cells are bars, because a heatmap cannot be clicked. Each one holds its value as text, so that
colour only helps the eye along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import plotly.graph_objects as go

from dashboard.facts.sensitivity.metrics import SensitivityMetric
from dashboard.facts.sensitivity.ranking import spared_gain
from dashboard.figures.kit.axes import SELECTED_MARK, rows_axis, two_lines
from dashboard.figures.kit.marks import bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import HIGHLIGHT, MARGIN, empty_figure, new_figure
from dashboard.figures.sensitivity.ranking import switch_text
from dashboard.words.formatting import EXACT, MISSING, format_number, plural, short_names
from quant_engine.report import LayerSensitivity, SensitivityReport
from quant_engine.sensitivity import LEAVE_ONE_OUT

ALL_LAYERS = "all layers together"
ROW_HEIGHT = 24
_SHADES = ((247, 232, 240), (204, 121, 167), (94, 27, 67))  # light to dark, the colour of errors
_DARK_TEXT, _LIGHT_TEXT = "#000000", "#FFFFFF"
_EQUAL_CONTRAST = 0.179  # luminance on which black and white text read equally well: 4.6 to 1
_CELL = 0.96
_SMALL = 0.1

Options: TypeAlias = Mapping[str, SensitivityReport]
"""Label of the option -> what was measured under it."""

Values: TypeAlias = dict[tuple[str, str], float | None]


def grid_picture(
    options: Options,
    names: Sequence[str],
    metric: SensitivityMetric,
    *,
    selected: str = "",
    shown: str = "",
) -> Picture:
    """Return a row for each layer and a column for each option, darker for a more sensitive layer.

    The first row is the model with all its layers quantized. `customdata` of a cell is its layer.
    With one layer left out, a cell is what sparing the layer gains, and the darker the more.

    Args:
        options: The options from left to right.
        names: The layers from the top.
        metric: What to show.
        selected: Name of the layer to point out.
        shown: Label of the option that the rest of the page is about.
    """
    about = (
        "Only that layer is switched: the darker the cell, the worse.",
        "Look for rows that stay light to the right: those layers can do with few bits.",
    )
    if _is_gain(options):
        about = (
            "Every layer is switched but that one, and a cell holds what that gains: the more, the "
            "darker, compared within its column.",
            "Dark cells are the layers worth more bits.",
        )
    return Picture(
        _figure(options, names, metric, selected, shown),
        describe_grid(options, metric),
        (
            "One row per layer, in the order of the ranking below; one column per width of the "
            f"weights. Each cell is in {metric.unit} of {metric.label}. The first row is the model "
            "with **all** layers at that width.",
            about[0],
            f"{about[1]} Click a cell to select its layer.",
        ),
        lambda: grid_rows(options, names, metric),
        "grid",
    )


def _figure(
    options: Options, names: Sequence[str], metric: SensitivityMetric, selected: str, shown: str
) -> go.Figure:
    detail = next((switch_text(report) for report in options.values()), "")
    name = f"What sparing one layer gains: {metric.title}" if _is_gain(options) else metric.title
    title = two_lines(f"{name}, layers × widths", detail)
    if not options or not names:
        return empty_figure(title, "No layer fits the filter.")
    rows = ["", *names]
    return new_figure(
        title,
        traces=[_cells(options, rows, metric, selected)],
        height=112 + ROW_HEIGHT * max(len(rows), 4),
        x_axis={
            "tickvals": list(range(len(options))),
            "ticktext": [f"<b>{label} ▾</b>" if label == shown else label for label in options],
            "range": [-0.5, len(options) - 0.5],
            "side": "top",
            "showgrid": False,
            "fixedrange": True,
        },
        y_axis=rows_axis(_ticks(rows, selected, _whole(options))),
        layout={"showlegend": False, "margin": {**MARGIN, "b": 12}},
    )


def grid_rows(
    options: Options, names: Sequence[str], metric: SensitivityMetric
) -> list[dict[str, str | float | None]]:
    """Return the numbers of the figure, one row per layer and one column per option."""
    found = _values(options, ["", *names], metric)
    gained = "_gained" if _is_gain(options) else ""
    rows = []
    for name in ("", *names):
        column = f"{metric.key}{gained if name else ''}_at"
        cells = {f"{column}_{label.replace(' ', '_')}": found[name, label] for label in options}
        rows.append({"layer": name or _whole(options), **cells})
    return rows


def describe_grid(options: Options, metric: SensitivityMetric) -> str:
    """Return the takeaway in a sentence: the largest cell, and all layers at each width."""
    labels = list(options)
    names = dict.fromkeys(layer.name for report in options.values() for layer in report.layers)
    found = _values(options, ["", *names], metric).items()
    values = {cell: value for cell, value in found if value is not None}
    layers = {cell: value for cell, value in values.items() if cell[0]}
    if not layers:
        return f"No layer has a {metric.label}."
    whole = {label: values["", label] for label in labels if ("", label) in values}
    together = ", ".join(f"{metric.format(value)} at {label}" for label, value in whole.items())
    if _is_gain(options):
        name, label = max(layers, key=lambda cell: layers[cell])
        text = f"sparing {name} gains most at {label}: {metric.format(layers[name, label])}"
    else:
        name, label = max(layers, key=lambda cell: metric.badness(layers[cell]))
        text = f"{name} is the most sensitive at {label}: {metric.format(layers[name, label])}"
    ends = f"; all layers together: {together}" if together else ""
    return f"Of {plural(len(names), 'layer')}, {text} of {metric.label}{ends}."


def _values(options: Options, rows: Sequence[str], metric: SensitivityMetric) -> Values:
    """Return (layer, option) -> value; the empty name stands for all layers together.

    With one layer left out, a layer's value is what sparing it gains; of all layers together, the
    error that there is to gain from.
    """
    found: Values = {}
    for label, report in options.items():
        layers: dict[str, LayerSensitivity | None] = {x.name: x for x in report.layers}
        layers[""] = report.reference
        for name in rows:
            layer = layers.get(name)
            value = None if layer is None else metric.value(layer)
            if name and value is not None and report.direction == LEAVE_ONE_OUT:
                value = spared_gain(report, metric, value)
            found[name, label] = value
    return found


def _is_gain(options: Options) -> bool:
    return any(report.direction == LEAVE_ONE_OUT for report in options.values())


def _whole(options: Options) -> str:
    """What the first row is called; among gains it is an error, so it says so."""
    return f"{ALL_LAYERS} (error)" if _is_gain(options) else ALL_LAYERS


def _cells(
    options: Options, rows: Sequence[str], metric: SensitivityMetric, selected: str
) -> dict[str, Any]:
    values = _values(options, rows, metric)
    shades = _shades(options, values, metric)
    labels = list(options)
    cells = [(name, label) for name in rows for label in labels]
    colors = [_color(shades[cell]) for cell in cells]
    return bars(
        [_CELL] * len(cells),
        [rows.index(name) for name, _ in cells],
        [f"rgb{color}" for color in colors],
        name="cells",
        layers=[name for name, _ in cells],
        hover=[
            f"<b>{name or ALL_LAYERS}</b><br>{label}<br>"
            f"{metric.label}{' gained' if name and _is_gain(options) else ''}: "
            f"{metric.format(values[name, label])}"
            for name, label in cells
        ],
        edge=HIGHLIGHT,
        edge_width=[3 if name and name == selected else 0 for name, _ in cells],
        is_level=True,
        base=[labels.index(label) - _CELL / 2 for _, label in cells],
        width=0.92,
        offset=-0.46,
        text=[_text(values[cell], metric) for cell in cells],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        insidetextfont={"size": 12, "color": [_text_color(color) for color in colors]},
    )


def _shades(options: Options, values: Values, metric: SensitivityMetric) -> Values:
    """Return how dark each cell is, 0 to 1: by powers of ten where the measure spans them.

    The model with all layers together is far beyond any layer, so it does not stretch the scale.
    What sparing a layer gains may be negative and grows with every bit less, whatever the layer:
    there the scale is linear, each column has its own, and the row of errors stays light.
    """
    is_gain = _is_gain(options)

    def height(value: float) -> float:
        if is_gain:
            return value
        if metric.allows_log:
            value = math.log10(value) if value > 0 else -math.inf
        return metric.badness(value)

    known = {cell: value for cell, value in values.items() if value is not None}
    heights = {cell: height(value) for cell, value in known.items() if cell[0] or not is_gain}
    columns = [[label] for label in options] if is_gain else [list(options)]
    found: Values = dict.fromkeys(values)
    for labels in columns:
        cells = [cell for cell in heights if cell[1] in labels]
        finite = [heights[cell] for cell in cells if cell[0] and math.isfinite(heights[cell])]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        for cell in cells:
            share = (heights[cell] - low) / (high - low) if high > low else 0.0
            found[cell] = min(1.0, max(0.0, share))
    return found


def _color(shade: float | None) -> tuple[int, int, int]:
    if shade is None:
        return _SHADES[0]
    place = shade * (len(_SHADES) - 1)
    index = min(int(place), len(_SHADES) - 2)
    share = place - index
    ends = zip(_SHADES[index], _SHADES[index + 1], strict=True)
    red, green, blue = (round(one + share * (other - one)) for one, other in ends)
    return red, green, blue


def _text_color(color: tuple[int, int, int]) -> str:
    """Return the text colour with the larger contrast by WCAG's formula."""
    shares = [c / 255 for c in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK_TEXT if luminance > _EQUAL_CONTRAST else _LIGHT_TEXT


def _text(value: float | None, metric: SensitivityMetric) -> str:
    """Return the value without its unit, which stands in the title."""
    if value is None:
        return MISSING
    if metric.key == "sqnr_db" and value == math.inf:
        return EXACT
    if not metric.allows_log or not 0 < value < _SMALL:
        return format_number(value, 2)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"  # without leading zeros: cells are narrow


def _ticks(rows: Sequence[str], selected: str, whole: str) -> list[str]:
    """The layers' names, which stay apart where they are shortened; first all layers together."""
    labels = [f"<b>{whole}</b>", *short_names(rows[1:])]
    marks = [SELECTED_MARK if name and name == selected else "" for name in rows]
    return [mark + label for mark, label in zip(marks, labels, strict=True)]
