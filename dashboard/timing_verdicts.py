"""What measured times say about int8, in plain sentences: which execution is faster, and why not.

Only executions that multiply integers get a verdict on speed. Simulated execution gets none: it
computes in float and rounds on top, so its time says nothing about int8.
"""

from __future__ import annotations

from collections import Counter

from dashboard.figures.formatting import format_ms
from dashboard.figures.layer_gains import LOSES, LayerGain, are_alike, layer_gains
from dashboard.figures.timing_text import (
    INTEGER,
    LOWERED,
    SIMULATED,
    baseline_of,
    execution,
    format_ratio,
    ratio_to_baseline,
)
from dashboard.verdicts import GOOD, INFO, WATCH, Verdict
from quant_engine.report import TimingEntry, TimingReport

_NAMED_LAYERS = 3


def timing_verdicts(timing: TimingReport, batch_size: int) -> tuple[Verdict, ...]:
    """Return what the times at one batch size do and do not say.

    Args:
        timing: Measured times; without integer ones, as older runs have them, that is said.
        batch_size: The batch size in question.
    """
    verdicts = [
        _integer_verdict(timing, kind, batch_size) or _why_missing(timing, kind)
        for kind in (INTEGER, LOWERED)
    ]
    if any(verdict is not None and verdict.tone == WATCH for verdict in verdicts):
        verdicts.append(why_slower(timing, batch_size))
    verdicts.append(_simulated_verdict(timing, batch_size))
    return tuple(verdict for verdict in verdicts if verdict is not None)


def timing_words(timing: TimingReport, batch_size: int) -> str:
    """Return the same as running text."""
    return " ".join(f"{v.subject} {v.text}" for v in timing_verdicts(timing, batch_size))


def has_integer_times(timing: TimingReport) -> bool:
    """Whether integer execution was timed at all; runs from before it was have no such times."""
    return any(entry.execution in (INTEGER, LOWERED) for entry in timing.models)


def was_integer_tried(timing: TimingReport) -> bool:
    """Whether integer execution was timed, or could not be for a reason that is known."""
    return has_integer_times(timing) or bool(timing.notes or timing.executions)


def _integer_verdict(timing: TimingReport, kind: str, batch_size: int) -> Verdict | None:
    entry, base = timing.model(kind, batch_size), baseline_of(timing, batch_size)
    if entry is None:
        return None
    name = execution(kind).label.capitalize()
    if timing.executions and not any(e.execution == INTEGER for e in timing.executions):
        reason, _ = Counter(e.reason for e in timing.executions).most_common(1)[0]
        text = f"{reason} Its time says nothing about int8 arithmetic."
        return Verdict(INFO, f"{name}: no layer multiplies integers.", text)
    ratio = ratio_to_baseline(timing, entry)
    if base is None or ratio is None or entry.median_ms <= 0:
        text = f"{format_ms(entry.median_ms)}, with no float time to compare it with."
        return Verdict(INFO, f"{name}:", text)
    numbers = (
        f"{format_ms(entry.median_ms)} against {format_ms(base.median_ms)} for "
        f"{execution(base.execution).label}"
    )
    if are_alike(entry, base):
        text = f"{numbers}; the middle halves of the runs overlap ({_span(entry)}, {_span(base)})."
        return Verdict(INFO, f"{name}: no clear difference.", text)
    if ratio < 1:
        text = f"{numbers}: {format_ratio(1 / ratio).removesuffix(' ×')} times as fast."
        return Verdict(GOOD, f"{name}: faster than the baseline.", text)
    text = f"{numbers}: it takes {format_ratio(ratio).removesuffix(' ×')} times as long."
    return Verdict(WATCH, f"{name}: slower than the baseline.", text)


def _span(entry: TimingEntry) -> str:
    return f"{format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}"


def _why_missing(timing: TimingReport, kind: str) -> Verdict | None:
    name = execution(kind).label.capitalize()
    notes = " ".join(timing.notes)
    if kind == LOWERED:
        if notes and has_integer_times(timing):
            return Verdict(INFO, f"{name}: not possible here.", notes)
        return None
    if has_integer_times(timing):  # at another batch size
        return None
    if was_integer_tried(timing):
        return Verdict(INFO, f"{name}: not possible here.", notes or "No reason was recorded.")
    text = "This run is from before integer execution was timed. Analyse it again to see it."
    return Verdict(INFO, f"{name}: not timed.", text)


def why_slower(timing: TimingReport, batch_size: int) -> Verdict | None:
    """Say where the time goes when integers are slower, as far as the layers' own times show it."""
    gains = layer_gains(timing)
    if not gains:
        return None
    losers = [gain for gain in reversed(gains) if gain.kind == LOSES]
    parts = [*(_fixed_cost(gains) if losers else ()), *_losers(losers, len(gains)), _total(gains)]
    layers_at = gains[0].after.batch_size
    if layers_at > batch_size:
        parts.append(
            f"Layers were timed at batch size {layers_at}; at {batch_size} each has less to "
            "compute, and a fixed cost weighs more."
        )
    return Verdict(INFO, "Why slower?", " ".join(parts))


def _fixed_cost(gains: tuple[LayerGain, ...]) -> list[str]:
    quickest = min(gain.after.median_ms for gain in gains)
    in_float = min(gain.before.median_ms for gain in gains)
    if quickest <= in_float:
        return []
    return [
        "On integers every layer pays a fixed cost for rounding its input and launching its "
        f"kernel: none takes less than {format_ms(quickest)}, in float the smallest takes "
        f"{format_ms(in_float)}. Small layers do not win that back."
    ]


def _losers(losers: list[LayerGain], count: int) -> list[str]:
    if not losers:
        return ["No single layer is clearly slower."]
    worst = ", ".join(f"{g.name} ({format_ms(-g.gain_ms)})" for g in losers[:_NAMED_LAYERS])
    lose = "loses" if len(losers) == 1 else "lose"
    most = "; most of it" if len(losers) > _NAMED_LAYERS else ""
    return [f"{len(losers)} of {count} layers {lose} time{most}: {worst}."]


def _total(gains: tuple[LayerGain, ...]) -> str:
    """Say whether the layers account for the loss at all."""
    after = format_ms(sum(gain.after.median_ms for gain in gains))
    before = format_ms(sum(gain.before.median_ms for gain in gains))
    if sum(gain.gain_ms for gain in gains) < 0:
        return f"All layers together take {after} on integers and {before} in float."
    return (
        f"All layers together take {after} on integers, no more than the {before} in float: the "
        "rest is spent between the layers."
    )


def _simulated_verdict(timing: TimingReport, batch_size: int) -> Verdict | None:
    entry = timing.model(SIMULATED, batch_size)
    if entry is None:
        return None
    ratio = ratio_to_baseline(timing, entry)
    takes = "" if ratio is None else f"It takes {format_ratio(ratio)} the time of the baseline. "
    text = (
        f"{takes}It computes in float and rounds on top, so it is slower than float by design. It "
        "shows what int8 does to the results."
    )
    return Verdict(INFO, "Simulated int8: never a speed-up.", text)
