"""What measured times say about int8, in plain sentences: which execution is faster, and why not.

Only executions that multiply integers get a verdict on speed. Simulated execution gets none: it
computes in float and rounds on top, so its time says nothing about int8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dashboard.facts.cost.executions import (
    INTEGER,
    LOWERED,
    SIMULATED,
    baseline_of,
    execution,
    fastest_integer,
    format_ratio,
    gap_text,
    ratio_to_baseline,
)
from dashboard.facts.cost.layer_times import LOSES, LayerTime, are_alike, layer_times
from dashboard.facts.diagnosis.verdicts import GOOD, INFO, WATCH, Verdict
from dashboard.words.formatting import format_ms, plural
from quant_engine.report import NOT_COMPARED, TimingEntry, TimingReport

_NAMED_LAYERS = 3


def timing_verdicts(timing: TimingReport, batch_size: int) -> tuple[Verdict, ...]:
    """Return what the times at one batch size do and do not say.

    Args:
        timing: Measured times; without integer ones, that is said.
        batch_size: The batch size in question.
    """
    integers = _integer_verdict(timing, batch_size)
    others = (
        _why_not_lowered(timing),
        why_slower(timing, batch_size) if integers.tone == WATCH else None,
        _simulated_verdict(timing, batch_size),
    )
    return (integers, *(verdict for verdict in others if verdict is not None))


def timing_words(timing: TimingReport, batch_size: int) -> str:
    """Return the same as running text."""
    return " ".join(f"{v.subject} {v.text}" for v in timing_verdicts(timing, batch_size))


def gap_verdict(timing: TimingReport) -> Verdict | None:
    """Return how far answers on integers lie from the simulated ones; None without integers."""
    if not has_integer_times(timing):
        return None
    subject = "Are the answers on integers those of the simulation?"
    if not timing.gaps:
        text = (
            "Not measured in this run. Its errors are those of the simulation; integers differ "
            "from it where float32 puts a value on the other side of a tie."
        )
        reasons = [note for note in timing.notes if note.startswith(NOT_COMPARED)]
        return Verdict(INFO, subject, " ".join((text, *reasons)))
    found = "; ".join(
        f"{execution(name).label} {gap_text(timing, name)}"
        for name in dict.fromkeys(gap.execution for gap in timing.gaps)
    )
    text = (
        f"They differ by this share of the quantization error: {found} (root mean square of "
        "integer minus simulated over that of simulated minus float, on "
        f"{plural(timing.gaps[0].samples, 'sample')}). The errors of a run are the simulation's; "
        "those on integers lie within that share of them. Float32 sums put values on the other "
        "side of a tie, and lowered execution also rounds residuals once more."
    )
    return Verdict(INFO, subject, text)


def was_compared(timing: TimingReport) -> bool:
    """Whether answers on integers were compared with simulated ones, or cannot be."""
    return bool(timing.gaps) or any(note.startswith(NOT_COMPARED) for note in timing.notes)


def has_integer_times(timing: TimingReport) -> bool:
    """Whether the model was timed on integers."""
    return any(entry.execution in (INTEGER, LOWERED) for entry in timing.models)


def _integer_verdict(timing: TimingReport, batch_size: int) -> Verdict:
    """Compare the fastest integer execution with the float baseline."""
    entry, base = fastest_integer(timing, batch_size), baseline_of(timing, batch_size)
    if entry is None:
        return _why_missing(timing)
    if timing.executions and not any(e.execution == INTEGER for e in timing.executions):
        reason, _ = Counter(e.reason for e in timing.executions).most_common(1)[0]
        text = f"{reason} The time says nothing about int8 arithmetic."
        return Verdict(INFO, "On integers: no layer multiplies integers.", text)
    own = f"{format_ms(entry.median_ms)} as {execution(entry.execution).label}"
    ratio = ratio_to_baseline(timing, entry)
    if base is None or ratio is None or entry.median_ms <= 0:
        return Verdict(INFO, "On integers:", f"{own}, with no float time to compare it with.")
    numbers = f"{own} against {format_ms(base.median_ms)} for {execution(base.execution).label}"
    rest = _slower_way(timing, entry)
    if are_alike(entry, base):
        text = f"{numbers}; the middle halves of the runs overlap ({_span(entry)}, {_span(base)})."
        return Verdict(INFO, "On integers: no clear difference to float.", text + rest)
    if ratio < 1:
        text = f"{numbers}: {format_ratio(1 / ratio).removesuffix(' ×')} times as fast."
        return Verdict(GOOD, "On integers: faster than float.", text + rest)
    text = f"{numbers}: it takes {format_ratio(ratio).removesuffix(' ×')} times as long."
    return Verdict(WATCH, "On integers: slower than float.", text + rest)


def _slower_way(timing: TimingReport, fastest: TimingEntry) -> str:
    """Name the other way to compute on integers, where it was timed too."""
    other = timing.model(INTEGER if fastest.execution == LOWERED else LOWERED, fastest.batch_size)
    if other is None:
        return ""
    label = execution(other.execution).label
    return f" The slower way, {label}, takes {format_ms(other.median_ms)}."


def _span(entry: TimingEntry) -> str:
    return f"{format_ms(entry.q1_ms)} to {format_ms(entry.q3_ms)}"


def _why_missing(timing: TimingReport) -> Verdict:
    if has_integer_times(timing):
        return Verdict(INFO, "On integers:", "Not timed at this batch size.")
    if timing.notes:
        return Verdict(INFO, "On integers: not possible here.", " ".join(timing.notes))
    return Verdict(INFO, "On integers: not timed.", "The run does not say why. Time it again.")


def _why_not_lowered(timing: TimingReport) -> Verdict | None:
    """Say why int8 values do not stay int8 between layers, where the engine found a reason."""
    is_lowered = any(entry.execution == LOWERED for entry in timing.models)
    if is_lowered or not timing.notes or not has_integer_times(timing):
        return None
    subject = f"{execution(LOWERED).label.capitalize()}: not possible here."
    return Verdict(INFO, subject, " ".join(timing.notes))


def why_slower(timing: TimingReport, batch_size: int) -> Verdict | None:
    """Say where the time goes when integers are slower, as far as the layers' own times show it."""
    times = layer_times(timing)
    pairs = [(t.before.median_ms, t.after.median_ms) for t in times if t.after is not None]
    if not pairs:
        return None
    losers = [time for time in reversed(times) if time.kind == LOSES]
    parts = [*(_fixed_cost(pairs) if losers else ()), _losers(losers, len(pairs)), _total(pairs)]
    layers_at = times[0].before.batch_size
    if layers_at > batch_size:
        parts.append(
            f"Layers were timed at batch size {layers_at}; at {batch_size} each has less to "
            "compute, and a fixed cost weighs more."
        )
    return Verdict(INFO, "Why slower?", " ".join(parts))


def _fixed_cost(pairs: Sequence[tuple[float, float]]) -> list[str]:
    in_float, quickest = (min(times) for times in zip(*pairs, strict=True))
    if quickest <= in_float:
        return []
    return [
        "On integers every layer pays a fixed cost for rounding its input and launching its "
        f"kernel: none takes less than {format_ms(quickest)}, in float the smallest takes "
        f"{format_ms(in_float)}. Small layers do not win that back."
    ]


def _losers(losers: list[LayerTime], count: int) -> str:
    if not losers:
        return "No single layer is clearly slower."
    worst = ", ".join(f"{g.name} ({format_ms(-g.gain_ms)})" for g in losers[:_NAMED_LAYERS])
    lose = "loses" if len(losers) == 1 else "lose"
    most = "; most of it" if len(losers) > _NAMED_LAYERS else ""
    return f"{len(losers)} of {count} layers {lose} time{most}: {worst}."


def _total(pairs: Sequence[tuple[float, float]]) -> str:
    """Say whether the layers account for the loss at all."""
    before, after = (sum(times) for times in zip(*pairs, strict=True))
    text = f"All layers together take {format_ms(after)} on integers"
    if after > before:
        return f"{text} and {format_ms(before)} in float."
    return (
        f"{text}, no more than the {format_ms(before)} in float: the rest is spent between the "
        "layers."
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
