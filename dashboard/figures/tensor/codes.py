"""How often each integer code occurs."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboard.figures.kit.marks import bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.spikes import count_axis
from dashboard.figures.kit.theme import (
    CLIPPED,
    CLIPPED_EDGE,
    INT8,
    INT8_EDGE,
    label,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_count, format_percent
from quant_engine.report import TensorReport


def end_code_share(tensor: TensorReport) -> float:
    """Return the share of values, 0 to 1, that got the smallest or the largest code."""
    counts = tensor.codes.counts
    total = sum(counts)
    return (counts[0] + counts[-1]) / total if total else 0.0


def codes_picture(tensor: TensorReport, subject: str, *, is_log: bool = False) -> Picture:
    """Return one bar for each code; the two end codes, where clipped values land, stand out.

    Each batch of a dynamic input has a zero point of its own: the smallest and largest are marked.

    Args:
        tensor: The weight or input.
        subject: What the values are; begins the title.
        is_log: Whether counts stand on a logarithmic axis.
    """
    ends = (
        "The bars at both ends also hold every clipped value.",
        "The dotted line is the zero point, the code that stands for exactly 0.",
    )
    if tensor.is_dynamic:
        ends = (
            "Codes of all batches together: in each the same code stands for another value. The "
            "extreme values of a batch have the end codes.",
            "Dotted: the zero point, the code that stands for exactly 0, or the smallest and the "
            "largest that a batch had.",
        )
    return Picture(
        _figure(tensor, subject, is_log=is_log),
        describe_codes(tensor),
        (
            "One bar for each integer the grid has. Empty stretches are codes that nothing uses: "
            "bits paid for and wasted.",
            *ends,
        ),
        lambda: [
            {"code": code, "values": count}
            for code, count in enumerate(tensor.codes.counts, start=tensor.codes.qmin)
        ],
        "codes",
    )


def _figure(tensor: TensorReport, subject: str, *, is_log: bool) -> go.Figure:
    codes = tensor.codes
    first, last = codes.qmin, codes.qmin + len(codes.counts) - 1
    pairs = list(enumerate(codes.counts, start=first))
    inner, ends = pairs[1:-1], [pairs[0], pairs[-1]]
    name, color, edge = "end codes: clipped values land here", CLIPPED, CLIPPED_EDGE
    if tensor.is_dynamic:
        name, color, edge = "end codes: extremes of a batch", INT8, INT8_EDGE
    traces = [_bars("values", inner, INT8, INT8_EDGE, 0.4), _bars(name, ends, color, edge, 1)]
    y_axis, cuts = count_axis(is_log, [*inner, *ends])
    shapes, notes = [], []
    zeros = sorted(set(tensor.zero_point))
    if len(zeros) == 1 or tensor.is_dynamic:
        shapes += [vertical_line(zero) for zero in zeros]
        is_right = zeros[-1] > (first + last) / 2
        at, anchor = (zeros[0], "right") if is_right else (zeros[-1], "left")
        height = 0.9 if cuts else 1.0
        text = f" zero point {' to '.join(map(str, zeros))} "
        notes.append(label(at, text, anchor=anchor, y=height))
    margin = 0.012 * len(codes.counts) + 0.5
    used = f"{format_count(codes.codes_used)} of {format_count(len(codes.counts))} used"
    return new_figure(
        f"{subject}: values with each code ({used})",
        f"Integer code, {first} to {last}",
        "Values with this code (count)",
        traces=traces,
        x_axis={"range": [first - margin, last + margin]},
        y_axis=y_axis,
        shapes=shapes,
        annotations=[*notes, *cuts],
        layout={"barmode": "overlay"},
    )


def _bars(
    name: str, pairs: list[tuple[int, int]], color: str, edge: str, edge_width: float
) -> dict[str, Any]:
    return bars(
        [code for code, _ in pairs],
        [count for _, count in pairs],
        color,
        name=name,
        hover="code %{x}: %{y:,} values",
        edge=edge,
        edge_width=edge_width,
        width=1,
    )


def describe_codes(tensor: TensorReport) -> str:
    """Return the takeaway of `code_usage` in one sentence."""
    codes = tensor.codes
    return (
        f"{codes.codes_used} of {len(codes.counts)} codes are used; "
        f"{format_percent(end_code_share(tensor))} of the values have an end code."
    )
