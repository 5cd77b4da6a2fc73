"""Improving an assignment by changing one unit or exchanging two, within budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from quant_engine.response.arrays import IntArray
from quant_engine.search.space import Limit, SearchSpace
from quant_engine.tensors.histogram import FloatArray

_TRIED_EXACTLY = 48
_MOST_ROUNDS = 200
_GAIN = 1e-9


def additive_optimum(space: SearchSpace, limits: Sequence[Limit]) -> IntArray | None:
    """Return the assignment of the least summed degradation of its units; None if none is allowed.

    One choice per unit within budgets is an integer linear program, which scipy solves exactly. It
    knows nothing of interactions, so it is where a search begins.
    """
    units, choices = len(space.units), space.choices
    degradations = space.response.joined(space.output_degradations(space.alone()))
    scale = degradations.max() or 1.0
    one_each = np.kron(np.eye(units), np.ones(choices))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for limit in limits:
        unit_cost = max(float(np.abs(limit.costs).max()), 1e-12)
        room = (limit.most - limit.fixed) / unit_cost
        constraints.append(LinearConstraint(limit.costs.reshape(1, -1) / unit_cost, -np.inf, room))
    found = milp(
        degradations / scale,
        constraints=constraints,
        integrality=np.ones(units * choices),
        bounds=Bounds(0, 1),
        options={"time_limit": 2.0},
    )
    if found.x is None:
        return None
    assignment = found.x.reshape(units, choices).argmax(axis=1).astype(np.int64)
    return assignment if is_allowed(assignment, limits) else None


def is_allowed(assignment: IntArray, limits: Iterable[Limit]) -> bool:
    """Whether an assignment keeps to all budgets."""
    return all(limit.slack(assignment) >= -limit.tolerance for limit in limits)


def improve(
    space: SearchSpace,
    assignment: IntArray,
    limits: Sequence[Limit],
    on_round: Callable[[], None] = lambda: None,
) -> tuple[IntArray, float]:
    """Change and exchange choices until no tried move lowers the predicted degradation.

    Moves are ranked by their effect to second order, which comes from inner products made once; the
    most promising are predicted in full, and the best of them is made if it helps.

    Args:
        space: What to choose from.
        assignment: Where to begin; must be allowed.
        limits: Budgets.
        on_round: Called after every round; may raise to cancel.

    Returns:
        An allowed assignment that is at least as good, and its predicted degradation.
    """
    assignment = _descend(space, assignment, limits, on_round)
    degradation = float(space.degradations([assignment])[0])
    for _ in range(_MOST_ROUNDS):
        on_round()
        gains, moves = rank_moves(space, assignment, limits)
        best = np.argsort(gains)[:_TRIED_EXACTLY]
        candidates = [apply_move(assignment, moves[number], space.choices) for number in best]
        if not candidates:
            break
        degradations = space.degradations(candidates)
        winner = int(degradations.argmin())
        if degradations[winner] >= degradation * (1.0 - _GAIN):
            break
        assignment, degradation = candidates[winner], float(degradations[winner])
    return assignment, degradation


def _descend(
    space: SearchSpace, start: IntArray, limits: Sequence[Limit], on_round: Callable[[], None]
) -> IntArray:
    """Make the best move to second order until none helps; of both ends, keep the better one."""
    assignment = start
    for _ in range(_MOST_ROUNDS):
        on_round()
        gains, moves = rank_moves(space, assignment, limits)
        if not len(gains) or gains.min() >= -_GAIN * max(float(p.max()) for p in space.products):
            break
        assignment = apply_move(assignment, moves[int(gains.argmin())], space.choices)
    degradations = space.degradations([start, assignment])
    return assignment if degradations[1] <= degradations[0] else start


def rank_moves(
    space: SearchSpace, assignment: IntArray, limits: Sequence[Limit]
) -> tuple[FloatArray, IntArray]:
    """Return all allowed moves of one or two units and the degradation they add, to second order.

    Returns:
        Changes, shape (moves,), and moves, shape (moves, 2): numbers unit · choices + choice; a
        move of one unit holds the same number twice.
    """
    units, choices = len(space.units), space.choices
    current = np.arange(units) * choices + assignment
    size = units * choices
    old = np.repeat(current, choices)
    first, second = np.triu_indices(size)
    is_single = first == second
    before, after = [], []
    for products in space.products:
        toward = products[:, current].sum(axis=1)
        change = 2.0 * (toward - toward[old])
        own = np.diag(products)
        single = change + own + own[old] - 2.0 * products[np.arange(size), old]
        crossed = products - products[:, old] - products[old, :] + products[np.ix_(old, old)]
        gains = np.where(is_single, single[first], single[first] + single[second])
        gains = gains + np.where(is_single, 0.0, 2.0 * crossed[first, second])
        before.append(float(toward[current].sum()))
        after.append(before[-1] + gains)
    # Of several outputs the one that is worse off counts, and none may get worse.
    gains = np.max(after, axis=0) - max(before)
    worse = _is_worse(space, np.array(before), np.array(after))
    unit = np.repeat(np.arange(units), choices)
    moves_something = (first != old[first]) & (second != old[second])
    usable = moves_something & (is_single | (unit[first] != unit[second]))
    usable[worse] = False
    for limit in limits:
        costs = limit.costs.reshape(-1)
        added = costs - costs[old]
        total = added[first] + np.where(is_single, 0.0, added[second])
        usable &= total <= limit.slack(assignment) + limit.tolerance
    return gains[usable], np.stack([first[usable], second[usable]], axis=1)


def _is_worse(space: SearchSpace, before: FloatArray, after: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which moves take a protected output past its limit, or further past it.

    Args:
        space: Knows the limits.
        before: What each output is now, to second order, shape (outputs,).
        after: The same after every move, shape (outputs, moves).
    """
    if space.limits is None:
        return np.zeros(after.shape[1], dtype=np.bool_)
    limits = np.maximum(space.limits, before) * (1.0 + _GAIN)
    found: npt.NDArray[np.bool_] = np.asarray((after > limits[:, None]).any(axis=0))
    return found


def apply_move(assignment: IntArray, move: IntArray, choices: int) -> IntArray:
    """Return the assignment after a move of `rank_moves`."""
    result = assignment.copy()
    for number in move:
        result[number // choices] = number % choices
    return result
