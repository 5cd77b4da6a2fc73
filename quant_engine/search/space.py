"""What a search chooses from: layers and options as numbers, costs, and predicted degradation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quant_engine.report import ConfigurationSize
from quant_engine.report.response import has_shares
from quant_engine.response.arrays import IntArray, LayerOption, ResponseArrays
from quant_engine.response.logit_response import LogitResponse
from quant_engine.tensors.histogram import FloatArray

BYTES, EFFECTIVE_BITS, WEIGHT_BITS = "bytes", "effective bits", "bits per weight"
_FIGURES: dict[str, Callable[[ConfigurationSize], float]] = {
    BYTES: lambda size: size.model_bytes,
    EFFECTIVE_BITS: lambda size: size.effective_bits,
    WEIGHT_BITS: lambda size: size.weight_bits,
}
_MOST_VALUES = 4_000_000
_SLACK = 1e-9
_HARMFUL = 1e12
"""More than any degradation."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """A budget.

    Attributes:
        what: What is counted, in words.
        costs: What every choice costs, shape (units, choices).
        fixed: What is there in any case.
        most: The budget.
    """

    what: str
    costs: FloatArray
    fixed: float
    most: float

    def slack(self, assignment: IntArray) -> float:
        """Return how much of the budget an assignment leaves; below zero if it is exceeded."""
        spent = self.costs[np.arange(len(assignment)), assignment].sum()
        return float(self.most - self.fixed - spent)

    @property
    def tolerance(self) -> float:
        """Rounding error of sums of costs."""
        return _SLACK * max(1.0, abs(self.most))


class SearchSpace:
    """Assignments of a choice to every unit.

    A unit is a layer, or all layers with one shared weight: only if they get the same option is the
    weight stored once. Choice 0 is float, choice n the n-th option of the response. A layer that
    does not reach the judged output is left at the recipe's own option: no prediction is about it.

    Of several outputs the largest ratio counts, so that an output with a small one could be given
    up for the one with the largest. What `protect` was told is the most each output may degrade.

    Attributes:
        response: What predicts.
        units: Places of the layers of each unit.
        choices: Number of choices.
        most: Largest allowed degradation of each output, shape (outputs,); None without a limit.
        alike: The assignment that has exactly that.
        limits: The same to second order, as sums of `products`, shape (outputs that enter,).
    """

    def __init__(self, response: LogitResponse) -> None:
        """Collect the units of a response."""
        self.response = response
        groups: dict[str, list[int]] = {}
        for index, layer in enumerate(response.report.layers):
            groups.setdefault(layer.tied_to, []).append(index)
        layers = response.report.layers
        reached = {
            name: any(layers[index].reaches_output for index in groups[name]) for name in groups
        }
        self.units: list[list[int]] = [groups[name] for name in groups if reached[name]]
        # These degrade nothing that is judged.
        self._kept = {
            layers[index].name: response.own_option(layers[index].name)
            for name in groups
            if not reached[name]
            for index in groups[name]
        }
        self.choices = len(response.options) + 1
        self.most: FloatArray | None = None
        self.limits: FloatArray | None = None
        self.alike: IntArray | None = None
        self._known: dict[bytes, FloatArray] = {}

    def configuration(self, assignment: IntArray) -> dict[str, str]:
        """Return layer name -> option name; float layers are left out."""
        names, options = self.response.layers, self.response.options
        chosen = {
            index: self.response.effective_option(names[index], options[choice - 1])
            for indices, choice in zip(self.units, assignment, strict=True)
            for index in indices
            if choice
        }
        return {
            name: chosen[index] if index in chosen else self._kept[name]
            for index, name in enumerate(names)
            if index in chosen or name in self._kept
        }

    def uniform(self, choice: int) -> IntArray:
        """Return the assignment in which all units have the same choice."""
        return np.full(len(self.units), choice, dtype=np.int64)

    def alone(self) -> list[IntArray]:
        """Return the assignments in which one unit has a choice, unit after unit, others float."""
        units = np.eye(len(self.units), dtype=np.int64)
        return list(np.kron(units, np.arange(self.choices)[:, None]))

    def limit(self, what: str, most: float) -> Limit:
        """Return a budget on one of the figures that add up over units."""
        measure = _FIGURES[what]
        fixed = measure(self.response.size(self.configuration(self.uniform(0))))
        found = [measure(self.response.size(self.configuration(a))) for a in self.alone()]
        costs = np.array(found, dtype=np.float64).reshape(len(self.units), self.choices) - fixed
        return Limit(what, costs, fixed, most)

    def limit_float_layers(self, most: int) -> Limit:
        """Return a budget on the number of layers that stay float."""
        costs = np.zeros((len(self.units), self.choices))
        costs[:, 0] = [len(indices) for indices in self.units]
        return Limit("float layers", costs, 0.0, most)

    def protect(self, alike: Sequence[IntArray]) -> None:
        """Let no output get worse than under the best of some assignments; only of several outputs.

        An output whose reference has no shares does not enter here either.
        """
        self.most = self.limits = self.alike = None
        outputs = self.response.report.outputs
        if len(outputs) < 2 or not alike:
            return
        self.alike = best = alike[int(self.degradations(alike).argmin())]
        enters = [has_shares(output.reference) for output in outputs]
        self.most = np.where(enters, self.output_degradations([best])[:, 0], np.inf)
        chosen = np.arange(len(self.units)) * self.choices + best
        self.limits = np.array([p[np.ix_(chosen, chosen)].sum() for p in self.products])

    def is_worse(self, assignment: IntArray) -> bool:
        """Whether an assignment takes a protected output past its limit."""
        return bool(self._excess(self.output_degradations([assignment]))[0])

    def _excess(self, degradations: FloatArray) -> FloatArray:
        """Return how many times its limit the worst output has, where that is above 1; else 0.

        Args:
            degradations: Those of every output, shape (outputs, assignments).
        """
        if self.most is None:
            return np.zeros(degradations.shape[1])
        # The float model's limit is 0: whatever is above it is worse.
        most = np.maximum(self.most, 1.0 / _HARMFUL)[:, None]
        worst = (degradations / most).max(axis=0)
        return np.where(worst > 1.0 + _SLACK, worst, 0.0)

    def degradations(self, assignments: Sequence[IntArray]) -> FloatArray:
        """Return the predicted degradation of every assignment.

        Those that degrade a protected output come after all others, the least degraded first.
        """
        found = self.output_degradations(assignments)
        degradations: FloatArray = self.response.joined(found) + _HARMFUL * self._excess(found)
        return degradations

    def output_degradations(self, assignments: Sequence[IntArray]) -> FloatArray:
        """Return the predicted degradation of each output, shape (outputs, assignments)."""
        keys = [np.asarray(a, dtype=np.int64).tobytes() for a in assignments]
        unknown = {k: a for k, a in zip(keys, assignments, strict=True) if k not in self._known}
        values = sum(a.rows * a.shifts.shape[-1] for a in self.response.output_arrays)
        size = max(1, _MOST_VALUES // max(1, values))
        waiting = list(unknown.items())
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            chosen = [self._pairs(assignment) for _, assignment in part]
            found = self.response.output_degradations(chosen)
            for (key, _), degradations in zip(part, found.T, strict=True):
                self._known[key] = degradations
        return np.stack([self._known[key] for key in keys], axis=1)

    @cached_property
    def products(self) -> list[FloatArray]:
        """Inner products of what choices do to each output, to second order, averaged over rows.

        The degradation of an assignment is about the sum of the products of all pairs of its
        choices, a choice with itself included. Of several outputs each is in shares of its
        reference, and those that do not enter are left out.

        Returns:
            Each of shape (units · choices, units · choices).
        """
        arrays, outputs = self.response.output_arrays, self.response.report.outputs
        if len(arrays) == 1:
            return [self._products(arrays[0])]
        pairs = zip(arrays, outputs, strict=True)
        return [
            self._products(found) / output.reference
            for found, output in pairs
            if has_shares(output.reference)
        ] or [0.0 * self._products(arrays[0])]

    def _products(self, arrays: ResponseArrays) -> FloatArray:
        rows = []
        noise = np.zeros((len(self.units), self.choices))
        for unit, places in enumerate(self.units):
            for choice in range(self.choices):
                total = np.zeros(arrays.shifts.shape[2:])
                for place in places if choice else ():
                    total += arrays.shifts[place, choice - 1]
                    rounding = int(arrays.rounding_of[choice - 1])
                    if rounding >= 0 and arrays.sources[place].any():
                        total -= arrays.roundings[place, rounding]
                        noise[unit, choice] += arrays.rounding_degradation[place, rounding].sum()
                rows.append(arrays.features(total).reshape(-1))
        features = np.stack(rows)
        products: FloatArray = features @ features.T + np.diag(noise.reshape(-1))
        return products / arrays.total if arrays.total else products

    def _pairs(self, assignment: IntArray) -> list[LayerOption]:
        return [
            (index, int(choice) - 1)
            for indices, choice in zip(self.units, assignment, strict=True)
            for index in indices
            if choice
        ]
