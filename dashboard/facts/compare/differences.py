"""What differs between two runs: their settings, and how they came out, each with its certainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from dashboard.data.link_words import remedy_to_text
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.accuracy import (
    NO_DIFFERENCE,
    AccuracyChange,
    agreement_text,
    change_text,
    compare_outputs,
    right_text,
)
from dashboard.facts.cost.executions import FLOATS, execution
from dashboard.facts.cost.layer_times import are_alike
from dashboard.facts.output_change import effect, output_text
from dashboard.facts.outputs import degradation_of, judged_number, outputs_of
from dashboard.words.formatting import (
    MISSING,
    format_bytes,
    format_ms,
    format_number,
    format_shrinking,
)
from dashboard.words.recipes import REMEDY_NAMES, describe_scheme
from quant_engine.report import ModelReport, OutputReport, TimingEntry, TimingReport
from quant_engine.scheme import LayerScheme, TensorScheme

Verdict = Literal["better", "worse", "none", "unknown"]
"""What B is against A; "none" where the data shows no difference, "unknown" without a judgement."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing of both runs.

    Attributes:
        name: What it is, with its unit where the values have none.
        a: The first run's, as text.
        b: The second run's, as text.
        change: B against A in words; empty for settings.
        verdict: Whether that is better or worse.
    """

    name: str
    a: str
    b: str
    change: str = ""
    verdict: Verdict = "unknown"


# --- Settings -------------------------------------------------------------------------------------


def setting_differences(a: Settings, b: Settings) -> tuple[Difference, ...]:
    """Return the settings in which two runs differ, and only those."""
    readers: tuple[tuple[str, Callable[[Settings], str]], ...] = (
        ("Model", lambda s: s.model_name),
        ("Weights", lambda s: describe_scheme(s.recipe.weight)),
        ("Layer inputs", lambda s: _input_words(s.recipe.activation)),
        ("Kept in float", lambda s: ", ".join(s.recipe.exclude_layers) or "nothing"),
        ("Remedies", _remedy_words),
        ("Calibration samples, at most", lambda s: str(s.calibration_samples)),
        ("Seed", lambda s: str(s.seed)),
    )
    found = [Difference(name, read(a), read(b)) for name, read in readers]
    for name in dict.fromkeys((*a.recipe.overrides, *b.recipe.overrides)):
        first, second = (_layer_words(x.recipe.overrides.get(name)) for x in (a, b))
        found.append(Difference(f"Scheme of {name}", first, second))
    return tuple(one for one in found if one.a != one.b)


def _remedy_words(settings: Settings) -> str:
    """The remedies by name, with what is set in them where that is not the usual."""
    texts = []
    for remedy in settings.recipe.remedies:
        name, text = REMEDY_NAMES[remedy.kind], remedy_to_text(remedy)
        texts.append(name if text == remedy_to_text(type(remedy)()) else f"{name} ({text})")
    return ", ".join(texts) or "none"


def _input_words(scheme: TensorScheme | None) -> str:
    return "float" if scheme is None else describe_scheme(scheme)


def _layer_words(scheme: LayerScheme | None) -> str:
    if scheme is None:
        return "as the others"
    return f"weights {describe_scheme(scheme.weight)}; inputs {_input_words(scheme.activation)}"


# --- How they came out ----------------------------------------------------------------------------


def outcomes(a: Run, b: Run) -> tuple[Difference, ...]:
    """Return what was measured on both: answers, degradation, bytes and times, B against A."""
    first, second = a.report, b.report
    found = []
    for before, after in _common_outputs(first, second):
        # Of several outputs, each difference says which one it is of.
        of = f" of {before.name}" if len(outputs_of(first)) > 1 else ""
        rows = [*_answers(before, after), _degradation(a, b, before, after)]
        found += [replace(row, name=f"{row.name}{of}") for row in rows]
    return (*found, *_only_in_one(first, second), *_bytes(first, second), *_times(first, second))


def _common_outputs(
    a: ModelReport, b: ModelReport
) -> tuple[tuple[OutputReport, OutputReport], ...]:
    """Return the outputs that both runs judge; a single one of each is compared by any name."""
    first, second = outputs_of(a), {output.name: output for output in outputs_of(b)}
    if len(first) == len(second) == 1:
        return ((first[0], next(iter(second.values()))),)
    return tuple((output, second[output.name]) for output in first if output.name in second)


def _only_in_one(a: ModelReport, b: ModelReport) -> list[Difference]:
    """Return a row for each output that only one of the two runs judges."""
    common = {output.name for pair in _common_outputs(a, b) for output in pair}
    texts = [
        {o.name: " ".join(judged_number(o)) for o in outputs_of(report) if o.name not in common}
        for report in (a, b)
    ]
    names = dict.fromkeys((*texts[0], *texts[1]))
    change = "judged in one run only: not compared"
    return [
        Difference(f"Output {n}", texts[0].get(n, MISSING), texts[1].get(n, MISSING), change)
        for n in names
    ]


def have_same_samples(a: OutputReport | None, b: OutputReport | None) -> bool:
    """Whether both runs answered the same samples, as far as their labels and number say."""
    if a is None or b is None or a.samples != b.samples:
        return False
    if a.answers is None or b.answers is None:
        return a.labelled_samples == b.labelled_samples
    return a.answers.labels == b.answers.labels


def _answers(a: OutputReport, b: OutputReport) -> list[Difference]:
    is_same = have_same_samples(a, b)
    found = []
    if a.accuracy_quantized is not None and b.accuracy_quantized is not None:
        first, second = (right_text(x.accuracy_quantized, x) for x in (a, b))
        change = compare_outputs(a, b) if is_same else None
        found.append(_shares("Right answers", first, second, change))
    if a.top1_agreement is not None and b.top1_agreement is not None:
        first, second = agreement_text(a), agreement_text(b)
        found.append(_shares("Same answer as float", first, second, _agreement_change(a, b)))
    return found


def _shares(name: str, a: str, b: str, change: AccuracyChange | None) -> Difference:
    if change is None:
        return Difference(name, a, b, "other samples, or not kept: not compared in pairs")
    verdict: Verdict = "none" if change.verdict == "unclear" else change.verdict
    return Difference(name, a, b, change_text(change), verdict)


def _agreement_change(a: OutputReport, b: OutputReport) -> AccuracyChange | None:
    """Compare in pairs on which samples each model answers as its float model does."""
    if a.answers is None or b.answers is None or not have_same_samples(a, b):
        return None
    if not len(a.answers.float) == len(b.answers.float) == a.samples:
        return None
    first, second = set(a.answers.flipped), set(b.answers.flipped)
    return AccuracyChange(a.samples, lost=len(second - first), won=len(first - second))


def _degradation(a: Run, b: Run, first: OutputReport, second: OutputReport) -> Difference:
    measure, before, interval = degradation_of(first)
    other, after, other_interval = degradation_of(second)
    texts = output_text(first), output_text(second)
    if measure is not other or before is None or after is None:
        return Difference("Degradation", *texts, "measured in different ways")
    change = f"{format_number(after / before)} ×" if before > 0 else MISSING
    if a.model_name != b.model_name:
        return Difference("Degradation", *texts, f"{change}, each from its own float model")
    if interval is None or other_interval is None:
        return Difference("Degradation", *texts, f"{change}; there is no interval")
    # The rule for remedies, in both directions, so that swapping A and B changes nothing.
    verdicts = {effect(first, second), effect(second, first)}
    if "none" in verdicts:
        return Difference("Degradation", *texts, f"{change}: {NO_DIFFERENCE}", "none")
    return Difference("Degradation", *texts, change, effect(first, second))


def _bytes(a: ModelReport, b: ModelReport) -> list[Difference]:
    """Bytes are counted, not sampled: every difference is one."""
    if a.size is None or b.size is None:
        return []
    pairs = (
        ("Bytes", a.size.quantized_bytes, b.size.quantized_bytes),
        ("Bytes of the file", a.size.quantized_file_bytes, b.size.quantized_file_bytes),
    )
    found = []
    for name, before, after in pairs:
        verdict: Verdict = "none" if before == after else "better" if after < before else "worse"
        texts = (format_bytes(before), format_bytes(after), format_shrinking(before, after))
        found.append(Difference(name, *texts, verdict))
    return found


def _times(a: ModelReport, b: ModelReport) -> list[Difference]:
    """Return the times that were measured in both runs, where one machine measured them."""
    first, second = a.timing, b.timing
    if first is None or second is None:
        return []
    found = []
    is_same_float = a.model_name == b.model_name
    for entry in first.models:
        other = second.model(entry.execution, entry.batch_size)
        if other is None:
            continue
        name = f"Time, {execution(entry.execution).label}, batches of {entry.batch_size}"
        change, verdict = _time_change(entry, other)
        if is_same_float and verdict in ("better", "worse"):
            drift = _drift(first, second, entry.batch_size)
            faster, slower = sorted((entry.median_ms, other.median_ms))
            if slower <= drift * faster:
                change, verdict = f"{change}: float, the same in both, varies as much", "none"
        if first.environment != second.environment:
            change, verdict = "other machine or threads: not compared", "unknown"
        found.append(Difference(name, _time_text(entry), _time_text(other), change, verdict))
    return found


def _time_change(a: TimingEntry, b: TimingEntry) -> tuple[str, Verdict]:
    ratio = f"{format_number(b.median_ms / a.median_ms)} ×" if a.median_ms > 0 else MISSING
    if are_alike(a, b):
        return f"{ratio}: {NO_DIFFERENCE}", "none"
    return ratio, "better" if b.median_ms < a.median_ms else "worse"


def _drift(a: TimingReport, b: TimingReport, batch_size: int) -> float:
    """By what factor the times of one and the same float model differ: what the machine did."""
    pairs = ((a.model(kind, batch_size), b.model(kind, batch_size)) for kind in FLOATS)
    times = [(x.median_ms, y.median_ms) for x, y in pairs if x is not None and y is not None]
    return max((max(pair) / min(pair) for pair in times if min(pair) > 0), default=1.0)


def _time_text(entry: TimingEntry) -> str:
    """The median with its quartiles."""
    return f"{format_ms(entry.median_ms)} ({format_ms(entry.q1_ms)}–{format_ms(entry.q3_ms)})"
