"""What integers change in the time of each layer, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboard.facts.cost.executions import (
    FLOAT_EXECUTION,
    INTEGER,
    baseline_of,
    execution,
    fastest_integer,
)
from dashboard.words.formatting import format_count, format_ms
from quant_engine.report import TimingEntry, TimingReport

GAINS, LOSES, UNCLEAR, FLOAT_ONLY = "gains", "loses", "no clear difference", "not on integers"


_VERBS: Mapping[str, tuple[str, str]] = {
    GAINS: ("gains time", "gain time"),
    LOSES: ("loses time", "lose time"),
    UNCLEAR: ("shows no clear difference", "show no clear difference"),
}


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer, in float and on integers.

    Attributes:
        name: Name of the layer.
        before: Its time in float.
        after: Its time on integers; None where it does not multiply integers.
    """

    name: str
    before: TimingEntry
    after: TimingEntry | None

    @property
    def gain_ms(self) -> float:
        """How much less time it takes on integers; negative where it takes more."""
        return 0.0 if self.after is None else self.before.median_ms - self.after.median_ms

    @property
    def kind(self) -> str:
        """Whether it gains or loses, or whether the middle halves of the runs overlap."""
        if self.after is None:
            return FLOAT_ONLY
        if are_alike(self.before, self.after):
            return UNCLEAR
        return GAINS if self.gain_ms > 0 else LOSES


def are_alike(one: TimingEntry, other: TimingEntry) -> bool:
    """Whether the middle halves of two times' runs overlap, so that neither is clearly faster."""
    return one.q1_ms <= other.q3_ms and other.q1_ms <= one.q3_ms


def layer_times(timing: TimingReport) -> tuple[LayerTime, ...]:
    """Return every layer that was timed in float, the largest gain first.

    Float is the layout that is the whole model's baseline, and integers are the fastest execution
    of the whole model, each where single layers were timed in it. Layers that do not compute on
    integers come last, the slowest of them first.
    """
    others = {entry.name for entry in timing.executions if entry.execution != INTEGER}
    times = {(entry.execution, entry.layer): entry for entry in timing.layers}
    size = max((entry.batch_size for entry in timing.layers), default=0)
    base, best = baseline_of(timing, size), fastest_integer(timing, size)
    floats = (FLOAT_EXECUTION if base is None else base.execution, FLOAT_EXECUTION)
    integers = (INTEGER if best is None else best.execution, INTEGER)
    found = []
    for name in dict.fromkeys(entry.layer for entry in timing.layers):
        before = [times[layout, name] for layout in floats if (layout, name) in times]
        after = [times[kind, name] for kind in integers if (kind, name) in times]
        if before:
            is_integer = bool(after) and name not in others
            found.append(LayerTime(name, before[0], after[0] if is_integer else None))
    return tuple(sorted(found, key=_order))


def _order(time: LayerTime) -> tuple[bool, float]:
    return time.after is None, -(time.before.median_ms if time.after is None else time.gain_ms)


def most_telling(times: Sequence[LayerTime], top: int | None) -> tuple[LayerTime, ...]:
    """Return the layers with the largest gains and losses, or the slowest, in the order given."""
    kept = sorted(times, key=lambda time: (time.after is None, -abs(time.gain_ms)))[:top]
    return tuple(time for time in times if time in kept)


def describe_layer_times(times: Sequence[LayerTime], timing: TimingReport) -> str:
    """Return how many layers gain and lose on integers, and what that sums up to."""
    if not times:
        return "Single layers were not timed."
    pairs = [(time.before, time.after) for time in times if time.after is not None]
    if not pairs:
        slowest = max(times, key=lambda time: time.before.median_ms)
        return (
            f"No layer multiplies integers; the slowest in float is {slowest.name} with "
            f"{format_ms(slowest.before.median_ms)}."
        )
    before, after = pairs[0]
    total = [sum(entry.median_ms for entry in entries) for entries in zip(*pairs, strict=True)]
    text = (
        f"{execution(after.execution).label.capitalize()}: {_count_kinds(times)}. Together they "
        f"take {format_ms(total[0])} in {execution_label(before)} and {format_ms(total[1])} on "
        f"integers, at batch size {before.batch_size}."
    )
    best = fastest_integer(timing, after.batch_size)
    if best is not None and best.execution != after.execution:
        text += f" In {execution_label(best)}, which is faster, single layers were not timed."
    return text


def _count_kinds(times: Sequence[LayerTime]) -> str:
    """Return how many layers there are of each kind that occurs."""
    parts: list[str] = []
    for kind, (one, many) in _VERBS.items():
        count = sum(time.kind == kind for time in times)
        if count:
            noun = "" if parts else "layer " if count == 1 else "layers "
            parts.append(f"{format_count(count)} {noun}{one if count == 1 else many}")
    *others, last = parts
    if not others:
        return last
    return f"{', '.join(others)}{',' if len(others) > 1 else ''} and {last}"


def execution_label(entry: TimingEntry) -> str:
    """Return what the execution of a time is called."""
    return execution(entry.execution).label
