"""Order layers by sensitivity, and say which of them are statistically tied.

Neighbours are tied where the data does not say which one is worse. For the measure that the report
ranks by, the report says so itself: it compares neighbours sample by sample. Layers further apart
in a run of tied neighbours are tied where their intervals overlap too: the ends of a long run may
well be different. For other measures two layers whose intervals overlap are tied, which calls more
layers tied. Every layer gets the range of ranks that this allows, and every tie that is shown, the
culprit's too, is one of `rank_layers`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dashboard.facts.accuracy import Interval
from dashboard.facts.sensitivity.metrics import SensitivityMetric, available_metrics
from dashboard.words.degradation import RATIO
from quant_engine.report import LayerSensitivity, Ranking, SensitivityReport
from quant_engine.sensitivity import LEAVE_ONE_OUT


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """One layer in the order of a ranking.

    Attributes:
        layer: What was measured.
        position: 1 for the most sensitive layer.
        first_possible: Smallest position it may have: one more than the number of layers that are
            distinguishably worse.
        last_possible: Largest position it may have.
        value: Value of the chosen measure; may be infinite.
        interval: 95 % interval of the value, or None.
        span: The interval, or the value alone, widened to hold the value.
        gain: With the layer left out, how much better that is than all layers quantized, in the
            measure's own unit; None for a layer alone.
        gain_interval: Its 95 % interval in pairs, where the report ranks by this measure.
        is_tied_with_previous: Whether it is statistically tied with the layer one position above.
        is_tied_with_next: Whether it is statistically tied with the layer one position below.
        is_compared: Whether the report's own paired comparisons decided that, not intervals.
    """

    layer: LayerSensitivity
    position: int
    first_possible: int
    last_possible: int
    value: float
    interval: Interval | None
    span: Interval
    is_tied_with_previous: bool
    is_tied_with_next: bool
    gain: float | None = None
    gain_interval: Interval | None = None
    is_compared: bool = False

    @property
    def drawn(self) -> tuple[float, Interval | None]:
        """What a figure of the ranking draws: what sparing the layer gains, else its value."""
        if self.gain is None:
            return self.value, self.interval
        return self.gain, self.gain_interval

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    @property
    def is_tied(self) -> bool:
        """Whether it is statistically tied with a neighbour in the ranking."""
        return self.is_tied_with_previous or self.is_tied_with_next

    @property
    def could_be(self) -> str:
        """The positions it may have: one, or a range."""
        if self.first_possible == self.last_possible:
            return str(self.position)
        return f"{self.first_possible}–{self.last_possible}"

    @property
    def rank_text(self) -> str:
        """Position as text, with the range that it may lie in."""
        only = str(self.position)
        return only if self.could_be == only else f"{only} ({self.could_be})"

    def is_tied_with(self, other: RankedLayer) -> bool:
        """Whether it is statistically tied with any other layer of the same ranking."""
        if self.is_compared:
            return self._may_be_at(other.position) and other._may_be_at(self.position)
        return _overlap(self.span, other.span)

    def _may_be_at(self, position: int) -> bool:
        return self.first_possible <= position <= self.last_possible

    @property
    def saved_bytes(self) -> int:
        """Bytes that quantizing the layer saves."""
        return self.layer.float_bytes - self.layer.quantized_bytes


def sensitivity_sign(direction: str) -> int:
    """Return +1 where more error means more sensitive, -1 where less does.

    Leaving one layer out of the quantization shows its share by what is left without it: the less
    error remains, the more the layer was to blame.

    Example:
        >>> sensitivity_sign("one_at_a_time"), sensitivity_sign("leave_one_out")
        (1, -1)
    """
    return -1 if direction == LEAVE_ONE_OUT else 1


def rank_layers(report: SensitivityReport, metric: SensitivityMetric) -> tuple[RankedLayer, ...]:
    """Return the layers that have a value, the most sensitive first.

    Equal values keep the order in which the layers run. Where the report ranks by this measure, the
    order and the ties are its own.

    Args:
        report: A measurement of one option; see `sweeps.split_options`.
        metric: What to rank by.
    """
    sign = sensitivity_sign(report.direction)
    rows: list[tuple[LayerSensitivity, float, Interval | None, Interval]] = []
    for layer in report.layers:
        value = metric.value(layer)
        if value is None:
            continue
        interval = metric.interval(layer, report)
        low, high = (metric.badness(end) * sign for end in (interval or (value, value)))
        badness = metric.badness(value) * sign
        # The value belongs to its interval, even where a skewed bootstrap left it outside.
        rows.append((layer, value, interval, (min(low, high, badness), max(low, high, badness))))
    ranking = reported_ranking(report, metric)
    if ranking is None:
        rows.sort(key=lambda row: metric.badness(row[1]) * sign, reverse=True)
        ranges = _overlapping_ranks([row[3] for row in rows])
        ties = [_overlap(above[3], below[3]) for above, below in pairwise(rows)]
    else:
        rows.sort(key=lambda row: ranking.layers.index(row[0].name))
        ties = [pair.is_tied for pair in ranking.comparisons]
        paired = [layer.gain_interval or span for layer, _, _, span in rows]
        ranges = _narrow(_shared_ranks(ties), _overlapping_ranks(paired), ties)
    return tuple(
        RankedLayer(
            layer=layer,
            position=index + 1,
            first_possible=first,
            last_possible=last,
            value=value,
            interval=interval,
            span=span,
            is_tied_with_previous=index > 0 and ties[index - 1],
            is_tied_with_next=index < len(ties) and ties[index],
            gain=spared_gain(report, metric, value),
            gain_interval=layer.gain_interval if ranking and metric.is_ranked_unit else None,
            is_compared=ranking is not None,
        )
        for index, ((layer, value, interval, span), (first, last)) in enumerate(
            zip(rows, ranges, strict=True)
        )
    )


def decided_by(row: RankedLayer, metric: SensitivityMetric) -> str:
    """Return which of several outputs gave a degradation ratio, to follow it; empty for others."""
    output = row.layer.decided_by
    return f", by {output}" if output and metric.key == RATIO.key else ""


def rivals_of_first(ranked: Sequence[RankedLayer]) -> tuple[str, ...]:
    """Return the layers that could be the most sensitive one as well as the first."""
    return tuple(row.name for row in ranked[1:] if row.first_possible == 1)


def _overlapping_ranks(spans: Sequence[Interval]) -> list[tuple[int, int]]:
    """Return the smallest and the largest rank that each interval allows among the others."""
    lows, highs = sorted(low for low, _ in spans), sorted(high for _, high in spans)
    return [
        (len(spans) - bisect_right(lows, high) + 1, len(spans) - bisect_left(highs, low))
        for low, high in spans
    ]


def _shared_ranks(ties: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the ranks of each run of tied neighbours, once for each of its layers.

    Args:
        ties: Whether each layer but the last is tied with the one after it.
    """
    ranges: list[tuple[int, int]] = []
    first = 1
    for position, is_tied in enumerate((*ties, False), start=1):
        if not is_tied:
            ranges += [(first, position)] * (position - first + 1)
            first = position + 1
    return ranges


def _narrow(
    shared: Sequence[tuple[int, int]], allowed: Sequence[tuple[int, int]], ties: Sequence[bool]
) -> list[tuple[int, int]]:
    """Return the ranks that a layer shares with its run of ties and that its interval allows.

    Its place and those of the neighbours that it is tied with are always among them.
    """
    return [
        (
            max(first, min(low, place - before)),
            min(last, max(high, place + after)),
        )
        for place, ((first, last), (low, high), before, after) in enumerate(
            zip(shared, allowed, (False, *ties), (*ties, False), strict=True), start=1
        )
    ]


def spared_gain(report: SensitivityReport, metric: SensitivityMetric, value: float) -> float | None:
    """How much better it is to spare a layer than to quantize all; None for a layer alone."""
    whole = None if report.reference is None else metric.value(report.reference)
    if report.direction != LEAVE_ONE_OUT or whole is None:
        return None
    gain = metric.badness(whole) - metric.badness(value)
    return None if math.isnan(gain) else gain


def tie_runs(rows: Sequence[RankedLayer]) -> tuple[tuple[int, int], ...]:
    """Return first and last index of each run of rows tied with their neighbour.

    The neighbours are those in `rows`, which may be a part of a ranking. The ends of a long run may
    well be different.
    """
    runs: list[tuple[int, int]] = []
    for index, (above, below) in enumerate(pairwise(rows)):
        if not above.is_tied_with(below):
            continue
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(runs)


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return the indices of the points no other point beats, by growing first coordinate.

    A point is (gain, cost). It is beaten when another has at least its gain for at most its cost,
    and is better in one of the two. Of equal points all stay. NaN never enters the front.

    Example:
        >>> pareto_front([(10, 1.0), (20, 0.5), (30, 2.0)])
        (1, 2)
    """
    valid = [i for i, point in enumerate(points) if not any(math.isnan(x) for x in point)]
    valid.sort(key=lambda i: (-points[i][0], points[i][1]))
    front: list[int] = []
    for i in valid:
        if not front or points[i][1] < points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return tuple(reversed(front))


def reported_ranking(report: SensitivityReport, metric: SensitivityMetric) -> Ranking | None:
    """Return the report's own ranking, if it ranks by this measure and compares all neighbours."""
    if metric.key != report.metric or len(report.rankings) != 1:
        return None
    ranking = report.rankings[0]
    compared = [(pair.above, pair.below) for pair in ranking.comparisons]
    names = sorted(layer.name for layer in report.layers if metric.value(layer) is not None)
    is_whole = sorted(ranking.layers) == names and compared == list(pairwise(ranking.layers))
    return ranking if is_whole else None


def describe_ties(report: SensitivityReport, metric: SensitivityMetric) -> str:
    """Return how it was decided which neighbours are tied, and which layers were stopped early."""
    early = _describe_stopped(report)
    if reported_ranking(report, metric) is not None:
        return (
            "A bracket joins neighbours that are statistically tied: they were compared on the "
            "same samples, by a paired bootstrap. Layers further apart count as tied where all "
            f"between them are and their intervals overlap.{early}"
        )
    how = "layers whose intervals overlap count as tied, which calls more of them tied."
    by = available_metrics(report)[0].label
    return f"The measurement compared neighbours by {by} only. By {metric.label}, {how}{early}"


def _describe_stopped(report: SensitivityReport) -> str:
    """Return which layers did not run on all samples; empty if all did."""
    names: dict[int, list[str]] = {}
    for layer in report.layers:
        if layer.samples is not None:
            names.setdefault(layer.samples, []).append(layer.name)
    return "".join(
        f" Stopped early, far below the most sensitive, and judged on {count} of {report.samples} "
        f"samples: {', '.join(found)}."
        for count, found in names.items()
    )


def _overlap(first: Interval, second: Interval) -> bool:
    """Whether two intervals share a point."""
    return max(first[0], second[0]) <= min(first[1], second[1])


def find_layers(ranked: Sequence[RankedLayer], text: str, top: int | None) -> list[RankedLayer]:
    """Return the first `top` layers whose name contains `text`; positions stay those of all."""
    wanted = text.strip().lower()
    found = [row for row in ranked if wanted in row.name.lower()]
    return found if top is None else found[:top]


def layer_front(
    report: SensitivityReport, rows: Sequence[RankedLayer], metric: SensitivityMetric
) -> tuple[int, ...]:
    """Return the indices of the rows that no other row beats in both bytes and error.

    Single-layer, a good row saves much and errs little. Leave-one-out, a good row gives little
    back and gains much, which is to leave little error.
    """
    sign = sensitivity_sign(report.direction)
    return pareto_front([(sign * row.saved_bytes, metric.badness(row.value)) for row in rows])
