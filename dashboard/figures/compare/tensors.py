"""One weight or input in two runs, overlaid: its values, its errors, its codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from dashboard.figures.kit.binning import bin_edges
from dashboard.figures.kit.marks import Trace, line
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import FLOAT, new_figure
from dashboard.figures.layers.four_errors import A_MARK, B_MARK
from dashboard.words.formatting import format_db, format_number, format_percent
from quant_engine.report import TensorReport

SIDES = ("A", "B")
LOOKS = ((str(A_MARK["color"]), "solid"), (str(B_MARK["color"]), "dash"))
"""Colour and dash of the outline of each run."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A histogram as an outline.

    Attributes:
        label: Whose it is.
        edges: Edges of its equal-width bins.
        shares: Share of all values in each bin, 0 to 1.
    """

    label: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(
        cls, label: str, lo: float, hi: float, counts: Sequence[int], beyond: int = 0
    ) -> Outline:
        """Return the outline of counts; `beyond` lie outside the bins and count in the total."""
        total = max(1, sum(counts) + beyond)
        edges = tuple(bin_edges(lo, hi, len(counts)))
        return cls(label, edges, tuple(count / total for count in counts))

    @property
    def rows(self) -> Rows:
        """One row for each bin."""
        return [
            {"run": self.label, "from": low, "to": high, "share": share}
            for low, high, share in zip(self.edges, self.edges[1:], self.shares, strict=False)
        ]

    def trace(self, color: str, dash: str, unit: str, *, is_filled: bool = False) -> Trace:
        """Return it as a stepped line: the height of a bin is the share of values in one unit.

        Bins of two runs may differ in width, so heights are densities.
        """
        width = self.edges[1] - self.edges[0]
        heights = [share / width if width else 0.0 for share in self.shares]
        fill = {"fill": "tozeroy", "fillcolor": "rgba(0, 114, 178, 0.18)"} if is_filled else {}
        return line(
            [self.edges[0], *self.edges],
            [0.0, *heights, 0.0],
            color,
            name=self.label,
            hover=f"{self.label}, %{{x:.3g}}: %{{y:.3g}} per {unit}",
            width=1.5 if is_filled else 2.5,
            dash=dash,
            shape="hv",
            **fill,
        )


def _overlay(
    title: str, x_title: str, unit: str, outlines: Sequence[Outline], floats: Sequence[Outline] = ()
) -> go.Figure:
    traces = [one.trace(FLOAT, "solid", unit, is_filled=True) for one in floats]
    traces += [
        one.trace(color, dash, unit) for one, (color, dash) in zip(outlines, LOOKS, strict=True)
    ]
    y_title = f"Share of the values per {unit}"
    return new_figure(title, x_title, y_title, traces=traces)


def errors_picture(a: TensorReport, b: TensorReport, subject: str) -> Picture:
    """Return the errors of a tensor in steps of its grid, in both runs."""
    errors = zip(SIDES, (a.lsb_error, b.lsb_error), strict=True)
    outlines = [Outline.of(s, e.lo, e.hi, e.counts, e.below + e.above) for s, e in errors]
    texts = [
        f"{label} has {format_db(tensor.error.sqnr_db)} SQNR, and "
        f"{format_percent(tensor.error.clipped_fraction)} of its values are clipped"
        for label, tensor in zip(SIDES, (a, b), strict=True)
    ]
    return Picture(
        _overlay(f"{subject}: error in steps of the grid (LSB)", "Error (LSB)", "LSB", outlines),
        f"{'; '.join(texts)}.",
        (
            "How far each value moved when it was rounded, in steps of the grid of its own run. "
            "Solid is A, dashed is B.",
            "Rounding alone stays within half a step; what lies beyond is clipped. The two grids "
            "may have steps of different size: the sentence above compares the errors themselves.",
        ),
        lambda: [row for one in outlines for row in one.rows],
        "errors",
    )


def values_picture(a: TensorReport, b: TensorReport, subject: str) -> Picture:
    """Return what a tensor's values became in both runs, over what they were in A."""
    outlines = [
        Outline.of(s, v.lo, v.hi, v.quantized_counts, v.quantized_below + v.quantized_above)
        for s, v in zip(SIDES, (a.values, b.values), strict=True)
    ]
    seen, label = a.values, "float (A)"
    beyond = seen.float_below + seen.float_above
    floats = [Outline.of(label, seen.lo, seen.hi, seen.float_counts, beyond)]
    texts = [
        f"{label}: from {format_number(tensor.lo)} to {format_number(tensor.hi)} in steps of "
        f"{format_number(min(tensor.scale))}"
        + (f" to {format_number(max(tensor.scale))}" if len(set(tensor.scale)) > 1 else "")
        for label, tensor in zip(SIDES, (a, b), strict=True)
    ]
    title = f"{subject}: what the values became"
    return Picture(
        _overlay(title, "Value (units of the tensor)", "unit", outlines, floats),
        f"{'; '.join(texts)}.",
        (
            "Shaded: the float values. Solid: what they became in A. Dashed: in B.",
            "Spikes far apart are a coarse grid; an outline that ends before the shade does is a "
            "range that clips.",
        ),
        lambda: [row for one in (*floats, *outlines) for row in one.rows],
        "values",
    )


def codes_picture(a: TensorReport, b: TensorReport, subject: str) -> Picture:
    """Return how often each code occurs, in both runs."""
    codes = dict(zip(SIDES, (a.codes, b.codes), strict=True))
    outlines = [
        Outline.of(label, x.qmin - 0.5, x.qmin + len(x.counts) - 0.5, x.counts)
        for label, x in codes.items()
    ]
    texts = [f"{s} uses {x.codes_used} of {len(x.counts)} codes" for s, x in codes.items()]
    return Picture(
        _overlay(f"{subject}: values with each code", "Integer code", "code", outlines),
        f"{'; '.join(texts)}.",
        (
            "How often each integer code occurs. Solid is A, dashed is B.",
            "Codes that nothing uses are bits paid for and wasted; the two ends hold what is "
            "clipped.",
        ),
        lambda: [row for one in outlines for row in one.rows],
        "codes",
    )
