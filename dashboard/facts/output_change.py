"""Whether a second run degrades the output less than a first: the rule by which a remedy counts."""

from __future__ import annotations

from typing import Literal

from dashboard.facts.accuracy import compare_outputs
from dashboard.facts.outputs import degradation_of, outputs_of, prefix_of
from dashboard.words.degradation import KL
from dashboard.words.formatting import format_number
from quant_engine.report import ModelReport, OutputReport

TIMES_INTERVAL = 2.0
"""A change of the degradation counts from this many times half of its 95 % interval on."""


def output_text(output: OutputReport) -> str:
    """Return the degradation of an output with its interval, such as "0.2 nats (0.1–0.3)"."""
    measure, value, interval = degradation_of(output)
    text = measure.text(value) if measure is KL else measure.named(value)
    if interval is None:
        return text
    low, high = (format_number(edge) for edge in interval)
    return f"{text} ({low}–{high})"


def degradation_text(report: ModelReport) -> str:
    """Return the degradation of every output; empty while nothing is evaluated."""
    found = outputs_of(report)
    return "; ".join(prefix_of(output, report) + output_text(output) for output in found)


def effect_on_all(
    before: ModelReport, after: ModelReport
) -> Literal["better", "worse", "none", "unknown"]:
    """Return what a change did to all outputs: "worse" where one got worse, whatever others did."""
    outputs = outputs_of(before), outputs_of(after)
    if [output.name for output in outputs[0]] != [output.name for output in outputs[1]]:
        return "unknown"
    found = {effect(a, b) for a, b in zip(*outputs, strict=True)} or {"unknown"}
    for verdict in ("worse", "unknown", "better"):
        if verdict in found:
            return verdict
    return "none"


def effect(
    before: OutputReport | None, after: OutputReport | None
) -> Literal["better", "worse", "none", "unknown"]:
    """Return what a change did to the output: "none" where the data shows no difference.

    It is read from the degradation, or, of outputs without an interval of it, from the right
    answers, compared in pairs.

    Args:
        before: The output without the change.
        after: The output with it, on the same samples.
    """
    if before is None or after is None:
        return "unknown"
    measure, first, interval = degradation_of(before)
    _, second, _ = degradation_of(after, measure)
    if first is not None and second is not None and interval is not None:
        if not abs(first - second) > TIMES_INTERVAL * (interval[1] - interval[0]) / 2:
            return "none"
        return "better" if second < first else "worse"
    change = compare_outputs(before, after)
    if change is None:
        return "unknown"
    return "none" if change.verdict == "unclear" else change.verdict
