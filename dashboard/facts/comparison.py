"""Whether a second run degrades the output less than a first: the rule by which a remedy counts."""

from __future__ import annotations

from typing import Literal

from dashboard.facts.accuracy import compare_outputs
from dashboard.words.formatting import format_nats, format_number
from quant_engine.report import OutputReport

TIMES_INTERVAL = 2.0
"""A change of the degradation counts from this many times half of its 95 % interval on."""


def degradation_text(output: OutputReport | None) -> str:
    """Return the KL divergence of an output with its interval, or its NMSE; empty without output.

    Example:
        >>> degradation_text(None)
        ''
    """
    if output is None:
        return ""
    if output.kl_divergence is None:
        return f"NMSE {format_number(output.error.nmse)}"
    if output.kl_interval is None:
        return format_nats(output.kl_divergence)
    low, high = (format_number(edge) for edge in output.kl_interval)
    return f"{format_nats(output.kl_divergence)} ({low}–{high})"


def effect(
    before: OutputReport | None, after: OutputReport | None
) -> Literal["better", "worse", "none", "unknown"]:
    """Return what a change did to the output: "none" where the data shows no difference.

    It is read from the KL divergence, or, of outputs without one, from the right answers, compared
    in pairs.

    Args:
        before: The output without the change.
        after: The output with it, on the same samples.
    """
    if before is None or after is None:
        return "unknown"
    first, second, interval = before.kl_divergence, after.kl_divergence, before.kl_interval
    if first is not None and second is not None and interval is not None:
        if not abs(first - second) > TIMES_INTERVAL * (interval[1] - interval[0]) / 2:
            return "none"
        return "better" if second < first else "worse"
    change = compare_outputs(before, after)
    if change is None:
        return "unknown"
    return "none" if change.verdict == "unclear" else change.verdict
