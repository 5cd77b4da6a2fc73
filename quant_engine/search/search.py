"""From a budget to a configuration, by prediction; and the whole frontier of size and degradation.

What a configuration is predicted to do is the effect of the summed shifts of its layers, so the
search knows where errors of layers add and where they cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from quant_engine.errors import BudgetError, SchemeError, require_at_least
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.report import ConfigurationPoint, FrontierReport
from quant_engine.response.agreement import as_pairs
from quant_engine.response.arrays import IntArray
from quant_engine.response.logit_response import LogitResponse
from quant_engine.search.moves import additive_optimum, improve, is_allowed
from quant_engine.search.space import BYTES, EFFECTIVE_BITS, WEIGHT_BITS, Limit, SearchSpace

_STARTS = 3
_KICKS = 6
_FRONTIER_KICKS = 1
_KICKED_UNITS = 3
_TRIES = 50


def search_configuration(
    response: LogitResponse,
    *,
    model_bytes: int | None = None,
    effective_bits: float | None = None,
    weight_bits: float | None = None,
    float_layers: int | None = None,
    progress: Progress | None = None,
) -> ConfigurationPoint:
    """Return the configuration with the least predicted degradation within one or more budgets.

    The start is the best configuration if degradations of layers added up; then candidates are
    changed and exchanged between layers as long as the prediction, interactions included, gets
    better, from several starts. The result is not proven to be the best one.

    Of several outputs, none is predicted to be worse than with the same bits for all layers within
    the budgets: an output is not given up for another one whose ratio is larger. Run, one may be
    worse nevertheless: `search_measured` runs these bits too, and puts what degrades one last.

    Args:
        response: What predicts.
        model_bytes: Most bytes of the whole model.
        effective_bits: Most mean bits for each weight, with scales and zero points; see
            `ConfigurationSize`.
        weight_bits: Most mean bits for each weight, codes alone: what "6 bits" means. It does not
            see what finer scales cost, so candidates must share one granularity of the weights, or
            `model_bytes` be given too.
        float_layers: Most layers that may stay float, of those that the response is about.
        progress: Called after every round of moves; may raise to cancel.

    Returns:
        The configuration, not measured. What a search finds is predicted too well, as it looks for
        what the prediction gets wrong: `search_measured` runs the best few.

    Raises:
        SchemeError: If no budget is given, no configuration keeps to all of them at once, or
            `weight_bits` alone would have to compare granularities.
        BudgetError: If no configuration keeps to one of them; it says what the least is.
    """
    budgets = (model_bytes, effective_bits, weight_bits, float_layers)
    return find_best(response, budgets, count=1, progress=progress)[0][0]


Budgets: TypeAlias = tuple[int | None, float | None, float | None, int | None]
"""Most bytes, effective bits, bits per weight and float layers; None for no limit."""


def find_best(
    response: LogitResponse, budgets: Budgets, *, count: int, progress: Progress | None = None
) -> tuple[list[ConfigurationPoint], int | None]:
    """Find up to `count` configurations, the best predicted first; see `search_configuration`.

    Returns:
        The configurations, and the index of the one that all others must not be worse than in any
        of several outputs; None for a single output, or where no such one keeps to the budgets.
    """
    model_bytes, effective_bits, weight_bits, float_layers = budgets
    space = SearchSpace(response)
    if weight_bits is not None and model_bytes is None:
        _require_one_granularity(response)
    sizes = {BYTES: model_bytes, EFFECTIVE_BITS: effective_bits, WEIGHT_BITS: weight_bits}
    limits = [space.limit(what, most) for what, most in sizes.items() if most is not None]
    if float_layers is not None:
        limits.append(space.limit_float_layers(float_layers))
    if not limits:
        raise SchemeError(
            "No budget is given. Give model_bytes, effective_bits, weight_bits or float_layers; "
            "without one the float model is best."
        )
    for limit in limits:
        least = limit.fixed + limit.costs.min(axis=1).sum()
        if least > limit.most + limit.tolerance:
            raise BudgetError(limit.what, limit.most, float(least))
    meter = ProgressMeter(progress, 0)
    found = _ends(space, limits, _starts(space, limits), meter)
    if not found:
        raise SchemeError(
            "No configuration keeps to all budgets at once, though to each one alone. Raise one."
        )
    no_worse = [end for end in found if not space.is_worse(end)]
    chosen = (no_worse or found)[:count]
    place = None
    if space.alike is not None:
        same = [index for index, end in enumerate(chosen) if (end == space.alike).all()]
        if not same and count > 1:
            chosen = [*chosen[: count - 1], space.alike]
            same = [len(chosen) - 1]
        place = same[0] if same else None
    return [_point(space, assignment) for assignment in chosen], place


def _require_one_granularity(response: LogitResponse) -> None:
    """Raise SchemeError if options cut weights into groups of different sizes."""
    schemes = [option.scheme.weight for option in response.report.options]
    kinds = sorted({scheme.granularity_name for scheme in schemes})
    if len(kinds) > 1:
        raise SchemeError(
            f"weight_bits counts codes alone, and the candidates have scales {', '.join(kinds)}: "
            "finer ones would look free. Give model_bytes too, or effective_bits, or measure the "
            "response with candidates of one granularity."
        )


def pareto_frontier(
    response: LogitResponse, *, points: int = 20, progress: Progress | None = None
) -> FrontierReport:
    """Return the least predicted degradation per size, from the smallest model to the float one.

    Args:
        response: What predicts.
        points: Sizes that are searched for, evenly spaced on a logarithmic scale.
        progress: Called after every round of moves; may raise to cancel.

    Raises:
        SchemeError: If points is below 2.
    """
    require_at_least(2, "points", points)
    space = SearchSpace(response)
    any_size = space.limit(BYTES, 0)
    least = any_size.fixed + any_size.costs.min(axis=1).sum()
    most = max(any_size.fixed, least)
    budgets = np.geomspace(max(least, 1.0), max(most, 1.0), points)
    meter = ProgressMeter(progress, points)
    found: list[IntArray] = []
    for number, budget in enumerate(budgets, start=1):
        limits = [replace(any_size, most=float(max(budget, least)))]
        starts = [*_starts(space, limits), *found[-1:]]
        found += _ends(space, limits, starts, meter, _FRONTIER_KICKS)[:1]
        meter.step(f"find the best bits, model size {number} of {points}")
    chosen = [_point(space, assignment) for assignment in [*found, space.uniform(0)]]
    return FrontierReport(_undominated(chosen), response.agreement.verdict)


def _starts(space: SearchSpace, limits: Sequence[Limit]) -> list[IntArray]:
    """Return assignments to begin from: the additive optimum, all alike, and the cheapest.

    From here on, no output may get worse than with the best of all alike.
    """
    alike = [space.uniform(choice) for choice in range(space.choices)]
    space.protect([start for start in alike if is_allowed(start, limits)])
    additive = additive_optimum(space, limits)
    cheapest = [limit.costs.argmin(axis=1).astype(np.int64) for limit in limits]
    starts = [*([] if additive is None else [additive]), *alike, *cheapest]
    return [start for start in starts if is_allowed(start, limits)]


def _ends(
    space: SearchSpace,
    limits: Sequence[Limit],
    starts: Sequence[IntArray],
    meter: ProgressMeter,
    kicks: int = _KICKS,
) -> list[IntArray]:
    """Improve the additive optimum and the better ones of the other starts, then kick the best.

    A kick changes a few units at random and improves again, which leads out of local optima
    (iterated local search: Lourenço, Martin and Stützle, 2003). The random numbers are the same
    every time.

    Returns:
        Where these ended, then the starts; the best predicted first, each once.
    """
    if not starts:
        return []
    ranked = [
        starts[0],
        *sorted(starts[1:], key=lambda start: float(space.degradations([start])[0])),
    ]

    def improved(start: IntArray) -> tuple[IntArray, float]:
        return improve(space, start, limits, lambda: meter.say("find the best bits"))

    ends = [improved(start) for start in ranked[:_STARTS]]
    best, degradation = min(ends, key=lambda end: end[1])
    generator = np.random.default_rng(0)
    for _ in range(kicks):
        start = _kicked(space, best, limits, generator)
        if start is None:
            continue
        ends.append(improved(start))
        if ends[-1][1] < degradation:
            best, degradation = ends[-1]
    ends += [(start, float(space.degradations([start])[0])) for start in ranked]
    in_order = sorted(ends, key=lambda end: end[1])
    return list({end.tobytes(): end for end, _ in [(best, degradation), *in_order]}.values())


def _kicked(
    space: SearchSpace,
    assignment: IntArray,
    limits: Sequence[Limit],
    generator: np.random.Generator,
) -> IntArray | None:
    """Change a few units at random; None if no try keeps to the budgets."""
    size = min(_KICKED_UNITS, len(assignment))
    for _ in range(_TRIES):
        result = assignment.copy()
        units = generator.choice(len(assignment), size, replace=False)
        result[units] = generator.integers(0, space.choices, size)
        if is_allowed(result, limits):
            return result
    return None


def _point(space: SearchSpace, assignment: IntArray) -> ConfigurationPoint:
    configuration = space.configuration(assignment)
    return ConfigurationPoint(as_pairs(configuration), space.response.score(configuration))


def _undominated(points: Sequence[ConfigurationPoint]) -> tuple[ConfigurationPoint, ...]:
    """Keep what is better than everything smaller, from small to large."""
    kept: list[ConfigurationPoint] = []
    order = sorted(points, key=lambda p: (p.predicted.size.model_bytes, p.predicted.degradation))
    for point in order:
        if not kept or point.predicted.degradation < kept[-1].predicted.degradation:
            kept.append(point)
    return tuple(kept)
