"""Up to which predicted degradation predictions hold on a model, by runs of it, and in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from quant_engine.metrics.catalogue import COSINE, KL_DIVERGENCE
from quant_engine.report import ResponseOutput, TrustRegion
from quant_engine.report.response import has_shares

FACTOR = 2.0
"""A prediction holds if it is at most this many times too large or too small."""
_WINDOW = 8
_MOST_MISSES = 2  # in a window
_USUAL = 0.9
_RIGHT, _FEW = 1.25, 4  # a median ratio within this factor; too few to speak of a median


def find_region(pairs: Iterable[tuple[float, float]]) -> TrustRegion:
    """Return up to which prediction neighbouring pairs agree within a factor of `FACTOR`.

    Pairs are put in order of their predictions. The region ends where, of eight in a row, three
    are further off; it never reaches beyond what was checked. Its limit is rounded down to one
    digit. Small degradations that rounding noise decides can end it early.

    Args:
        pairs: Predicted and measured degradation of configurations. Pairs without any are
            left out.

    Example:
        >>> right = [(x / 100, x / 100) for x in range(1, 40)]
        >>> find_region([*right, *((x, 5 * x) for x in range(1, 20))])
        TrustRegion(limit=0.3, factor=1.0, checked=30, beyond=0.2, beyond_checked=28)
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
    limit = _round_down(known[end - 1][0]) if end >= _WINDOW else 0.0
    inside = sorted(off for (p, _), off in zip(known, offs, strict=True) if p <= limit)
    beyond = [p / m for p, m in known if p > limit]
    return TrustRegion(
        limit=limit if inside else 0.0,
        factor=inside[math.ceil(_USUAL * len(inside)) - 1] if inside else math.inf,
        checked=len(inside),
        beyond=statistics.median(beyond) if beyond else None,
        beyond_checked=len(beyond),
    )


def describe_region(region: TrustRegion, outputs: Sequence[ResponseOutput]) -> str:
    """Return in words up to where predictions hold, and what they are beyond.

    Args:
        region: What `find_region` found.
        outputs: Of the response, whose unit degradations have.

    Example:
        >>> describe_region(TrustRegion(0.3, 1.4, 119, 0.2, 28), ())
        'Predictions hold up to a degradation of 0.3: 9 of 10 of the 119 that were checked there \
are at most 1.4 × off. Beyond it they are optimistic: 0.2 × what was measured, the median of 28. \
Run what you consider there.'
    """
    if not region.limit:
        return "No region was found in which predictions hold: run what you consider."
    text = (
        f"Predictions hold up to {describe_degradation(region.limit, outputs)}: 9 of 10 of the "
        f"{region.checked} that were checked there are at most {region.factor:.2g} × off."
    )
    if region.beyond is None or region.beyond_checked < _FEW:
        checked = f"Only {region.beyond_checked}" if region.beyond_checked else "None"
        return f"{text} {checked} of those checked lay beyond: run what you consider there."
    if region.beyond < 1 / _RIGHT:
        kind = "are optimistic"
    elif region.beyond > _RIGHT:
        kind = "are pessimistic"
    else:
        kind = "scatter"
    return (
        f"{text} Beyond it they {kind}: {region.beyond:.2g} × what was measured, the median of "
        f"{region.beyond_checked}. Run what you consider there."
    )


def describe_degradation(value: float, outputs: Sequence[ResponseOutput]) -> str:
    """Return a degradation with its metric; of several outputs, as a share, with their names.

    Example:
        >>> describe_degradation(0.25, ())
        'a degradation of 0.25'
    """
    number = f"{value:.3g}"
    if len(outputs) > 1:
        names = ", ".join(f"`{output.name}`" for output in outputs if has_shares(output.reference))
        return f"{number} of what the fully quantized model does to an output (largest of {names})"
    metric = outputs[0].metric if outputs else ""
    if metric == KL_DIVERGENCE:
        return f"KL {number} nats"
    if metric == COSINE:
        return f"1 - cosine {number}"
    return f"NMSE {number}" if metric else f"a degradation of {number}"


def _round_down(value: float) -> float:
    """Round a positive number down to one significant digit."""
    exponent = math.floor(math.log10(value))
    # Text, so that the result is the decimal that people read.
    return float(f"{math.floor(value / 10.0**exponent + 1e-9)}e{exponent}")
