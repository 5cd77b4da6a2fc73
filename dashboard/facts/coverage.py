"""How much of the weights is on codes, in words."""

from __future__ import annotations

from dashboard.words.formatting import format_percent, plural
from quant_engine.report import Coverage, LeftOut

MOST_GROUPS = 3


def coverage_text(coverage: Coverage) -> str:
    """Return the share of the weights on codes and the largest groups left out.

    Example:
        >>> coverage_text(Coverage(1000, 990, (LeftOut("It is excluded.", 10, ("a", "b")),)))
        '99 % of the weights are on codes. Left out: 1 % (a, b): It is excluded.'
    """
    if not coverage.weights:
        return "The model has no weights with two axes or more."
    text = f"{format_percent(coverage.share)} of the weights are on codes."
    if not coverage.left_out:
        return text
    said = "; ".join(_group_text(x, coverage.weights) for x in coverage.left_out[:MOST_GROUPS])
    rest = len(coverage.left_out[MOST_GROUPS:])
    more = f"; and {plural(rest, 'smaller group')}" if rest else ""
    return f"{text} Left out: {said.rstrip('.')}{more}."


def _group_text(group: LeftOut, weights: int) -> str:
    names = [name or "the model itself" for name in group.layers]
    shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    return f"{format_percent(group.weights / weights)} ({shown}): {group.reason.rstrip('.')}"
