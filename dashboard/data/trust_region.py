"""Up to which predicted degradation predictions hold on a model: where runs of it confirm them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

FACTOR = 2.0
"""A prediction holds if it is at most this many times too large or too small."""
_WINDOW = 8
_MOST_MISSES = 2  # in a window
_USUAL = 0.9


@dataclass(frozen=True, slots=True)
class TrustRegion:
    """Where predictions were found to hold.

    Attributes:
        limit: Largest predicted degradation up to which they hold; 0 where they hold nowhere.
        factor: Nine of ten predictions up to there are at most this factor off.
        checked: Pairs of a prediction and a measurement up to there.
    """

    limit: float
    factor: float
    checked: int

    def holds(self, predicted: float) -> bool:
        """Whether a predicted degradation lies where predictions hold; 0 always does."""
        return predicted <= self.limit


def find_region(pairs: Iterable[tuple[float, float]]) -> TrustRegion:
    """Return up to which prediction neighbouring pairs agree within a factor of `FACTOR`.

    Pairs are put in order of their predictions. The region ends where, of eight in a row, three
    are further off; it never reaches beyond what was checked. Its limit is rounded down to one
    digit.

    Args:
        pairs: Predicted and measured degradation of configurations. Pairs without any are
            left out.

    Example:
        >>> right = [(x / 100, x / 100) for x in range(1, 40)]
        >>> find_region([*right, *((x, 5 * x) for x in range(1, 20))])
        TrustRegion(limit=0.3, factor=1.0, checked=30)
    """
    known = sorted(
        (predicted, measured)
        for predicted, measured in pairs
        if all(0 < value < math.inf for value in (predicted, measured))
    )
    offs = [max(p / m, m / p) for p, m in known]
    end = len(known)
    for start in range(len(known) - _WINDOW + 1):
        misses = [i for i in range(start, start + _WINDOW) if offs[i] > FACTOR]
        if len(misses) > _MOST_MISSES:
            end = misses[0]
            break
    if end < _WINDOW:
        return TrustRegion(0.0, math.inf, 0)
    limit = _round_down(known[end - 1][0])
    inside = sorted(off for (p, _), off in zip(known, offs, strict=True) if p <= limit)
    if not inside:
        return TrustRegion(0.0, math.inf, 0)
    usual = inside[min(len(inside) - 1, math.ceil(_USUAL * len(inside)) - 1)]
    return TrustRegion(limit, usual, len(inside))


def _round_down(value: float) -> float:
    """Round a positive number down to one significant digit."""
    exponent = math.floor(math.log10(value))
    # Text, so that the result is the decimal that people read.
    return float(f"{math.floor(value / 10.0**exponent + 1e-9)}e{exponent}")
