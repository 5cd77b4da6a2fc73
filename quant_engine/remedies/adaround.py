"""AdaRound: for every weight it is learned whether to round it up or down.

    min over V of ‖W X - W̃ X̂‖² + λ Σ (1 - |2 h(V) - 1|^β),    W̃ = s clip(⌊W / s⌋ + h(V))

h(V) = clip(1.2 σ(V) - 0.1, 0, 1) is how far a weight is rounded up. X are the layer's inputs in the
float model, X̂ those behind layers that are rounded already. β falls from 20 to 2, so that h ends at
0 or 1 (Nagel et al., ICML 2020).

As W̃ is linear in h, XX̂ᵀ and X̂X̂ᵀ say all there is to know about the data: every step of Adam is on
the whole of it, and costs the same for one sample as for a million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer
from quant_engine.model.forward import PassEnded, layer_input, run_model, watched_layers
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.codes import (
    FROM_WEIGHTS,
    NOTHING_ENTERED,
    OutputRows,
    SeenInputs,
    columns_of,
    find_layers,
    improved,
    input_rows,
    why_not,
)
from quant_engine.remedies.gptq import gptq_codes
from quant_engine.remedies.passes import Passes
from quant_engine.report import Treatment
from quant_engine.scheme import AdaRound, Gptq

WARM_UP = 0.2
"""Share of the steps without the regularizer."""

FIRST_BETA, LAST_BETA = 20.0, 2.0
LOWEST, HIGHEST = -0.1, 1.1
"""What the sigmoid is stretched to before it is clipped to 0 … 1."""

STEPS_PER_LAYER = 100
"""Steps of progress for each layer on average; those that take longer have more of them."""

SECONDS_PER_COST = 9e-11
"""Of a step: 7.6e-11 to 1.03e-10 on the sample models, one thread (`docs/remedies.md`)."""

_OTHER_SHAPES = "its inputs have other shapes once the model is quantized"


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """The outputs that a layer should give, and how far codes are from giving them.

    Attributes:
        rows: The layer's weights; `hessian` is X̂X̂ᵀ of its inputs behind rounded layers.
        target: W XX̂ᵀ, float64, (groups, outputs, columns).
        energy: Σ (W x)² over all data.
    """

    rows: OutputRows
    target: Tensor
    energy: float

    def error(self, codes: Tensor) -> float:
        """Return √(Σ(W x - W̃ x̂)² / Σ(W x)²) over all data."""
        weight = (codes - self.rows.points) * self.rows.scale
        noise = self.energy + ((weight @ self.rows.hessian - 2 * self.target) * weight).sum().item()
        return float((max(noise, 0.0) / self.energy) ** 0.5) if self.energy else 0.0


def round_by_adaround(
    passes: Passes, quantized: nn.Module, remedy: AdaRound, meter: ProgressMeter
) -> tuple[Treatment, ...]:
    """Round the weights of a quantized model again, in place; their grids stay.

    Layers are rounded in the order in which they run, each for what the rounded ones before it
    give, so each costs a pass of both models over the data up to it.

    Args:
        passes: Over calibration data, of the float model that it was made from.
        quantized: The quantized model.
        remedy: Which layers, and how to learn.
        meter: Told after every step of Adam, with `STEPS_PER_LAYER` steps of its own for each layer
            that is named.

    Returns:
        One entry for each quantized layer that the remedy names. Codes change only where that does
        not make the output error on the calibration data larger.
    """
    layers, shared = find_layers(quantized, remedy)
    reasons = {name: why_not(layer, name in shared) for name, layer in layers.items()}
    calls = count_calls(passes, [name for name in layers if not reasons[name]])
    sizes = {name: (layers[name].weight.numel(), columns_of(layers[name])[1]) for name in calls}
    costs = {name: _step_cost(*size) for name, size in sizes.items()}
    marks = _spread(STEPS_PER_LAYER * len(layers), costs)
    found = {
        name: Treatment.refused(remedy, name, reason=reason or NOTHING_ENTERED)
        for name, reason in reasons.items()
        if name not in calls
    }
    for number, (name, count) in enumerate(calls.items(), start=1):
        text = f"round by AdaRound: {name} (layer {number} of {len(calls)})"
        tell = teller(meter, text, marks[name], remedy.steps)
        pairs = paired_rows(
            passes, quantized, name, layers[name], stops=count == len(passes.batches)
        )
        module = passes.prepared.model.get_submodule(name)
        aim = _aim_of(layers[name], module, pairs, tell)
        found[name] = (
            Treatment.refused(remedy, name, reason=_OTHER_SHAPES)
            if aim is None
            else _round_layer(name, aim, remedy, tell)
        )
    return tuple(found[name] for name in layers)


def round_layer_alone(
    name: str, rows: OutputRows, remedy: AdaRound, tell: Callable[[int], None]
) -> Treatment:
    """Round the weights of one layer, in place, by itself: for the inputs of the float model.

    Args:
        name: Its name.
        rows: Its weights, and what they are multiplied with.
        remedy: How to learn.
        tell: Called with the number of steps of Adam that are done, after each.

    Returns:
        What was done.
    """
    target = rows.weight @ rows.hessian
    aim = Aim(rows, target, (target * rows.weight).sum().item())
    done = _round_layer(name, aim, remedy, tell)
    return replace(done, error_of=FROM_WEIGHTS) if done.is_applied else done


_Tell = Callable[[int], None]


def teller(meter: ProgressMeter, text: str, marks: int, steps: int) -> _Tell:
    """Return what reports that so many steps of Adam are done, out of `steps`, as `marks` steps.

    Args:
        meter: What it reports to.
        text: What is going on.
        marks: Steps of progress that all steps of Adam make; 0 says the text alone.
        steps: Steps of Adam.
    """
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        due = marks * done // steps
        meter.step(text, due - told)
        told = due

    return tell


def _step_cost(weights: int, columns: int) -> float:
    """Return about how long a step takes, in a unit of its own; fits 9 to 2,304 columns."""
    return weights * (columns + 600.0) + 7e6


def estimate_adaround_seconds(sizes: Iterable[tuple[int, int]], steps: int) -> float:
    """Return about how long AdaRound takes on one core like the one that it was measured on.

    Args:
        sizes: Of each layer, its weights and the inputs of one output.
        steps: Of Adam.

    Example:
        >>> round(estimate_adaround_seconds([(36_864, 576), (640, 64)], 1000))
        5
    """
    return sum(_step_cost(*size) for size in sizes) * steps * SECONDS_PER_COST


def _spread(total: int, costs: Mapping[str, float]) -> dict[str, int]:
    """Share out a total by cost, in integers that sum up to it.

    Example:
        >>> _spread(10, {"a": 1.0, "b": 2.0, "c": 1.0})
        {'a': 2, 'b': 6, 'c': 2}
    """
    whole, seen, spent, found = sum(costs.values()), 0.0, 0, {}
    for name, cost in costs.items():
        seen += cost
        found[name] = round(total * seen / whole) - spent
        spent += found[name]
    return found


def _aim_of(
    layer: QuantizedLayer,
    module: nn.Module,
    pairs: Iterable[tuple[list[Tensor], list[Tensor]]],
    tell: _Tell,
) -> Aim | None:
    """Return what a layer should give; None where its calls in the two models do not match."""
    rows = target = None
    energy = 0.0
    for expected, found in pairs:
        tell(0)
        if [x.shape for x in expected] != [x.shape for x in found]:
            return None
        for x, x_hat in zip(expected, found, strict=True):
            seen = SeenInputs.of(x_hat)
            if target is None or rows is None:
                rows = OutputRows.of(layer, module, seen)
                target = torch.zeros_like(rows.weight)
            else:
                rows.seen.update(seen)
            y = rows.weight @ x
            energy += y.square().sum().item()
            target += y @ x_hat.transpose(1, 2)
    assert rows is not None
    assert target is not None
    return Aim(rows, target, energy)


def _round_layer(name: str, aim: Aim, remedy: AdaRound, tell: _Tell) -> Treatment:
    """Round one layer, and keep what is better: AdaRound's codes or those that it has."""
    rows = aim.rows
    codes, undecided = learn_codes(aim, remedy, tell)
    before, after = aim.error(rows.codes), aim.error(codes)
    if after > before:
        reason = "its output error would be larger than it is"
        return Treatment.refused(remedy, name, reason=reason)
    by_gptq, _ = gptq_codes(
        rows.weight, rows.hessian, rows.scale, rows.points, rows.grid, Gptq().damping
    )
    rows.write(codes)
    unsettled = (
        f"{undecided:,} of {codes.numel():,} weights had not settled, and took the nearer of their "
        "two codes"
    )
    return replace(
        improved(remedy, name, before, after, unsettled if undecided else ""),
        error_of="layer outputs behind rounded layers",
        error_by_gptq=None if by_gptq is None else aim.error(by_gptq),
    )


def learn_codes(aim: Aim, remedy: AdaRound, tell: _Tell) -> tuple[Tensor, int]:
    """Return the codes that AdaRound chooses, and of how many weights h was not yet 0 or 1.

    Args:
        aim: The weights of a layer, and what they should give.
        remedy: How to learn.
        tell: Called with the number of steps done, after each.

    Returns:
        Codes, float64, (groups, outputs, columns).
    """
    objective = Objective.of(aim)
    v = objective.start()
    v.grad = torch.empty_like(v)
    adam = torch.optim.Adam([v], lr=remedy.learning_rate, fused=True)
    warm_up = int(WARM_UP * remedy.steps)
    for step in range(remedy.steps):
        share = (step - warm_up) / (remedy.steps - warm_up)
        beta = FIRST_BETA + (LAST_BETA - FIRST_BETA) * share if step >= warm_up else None
        v.grad.copy_(objective.gradient(v, remedy.regularization, beta))
        adam.step()
        tell(step + 1)
    h = (v.sigmoid() * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)
    is_free = objective.step > 0
    undecided = int(((h > 0) & (h < 1) & is_free).sum())
    is_up = is_free & (h >= 0.5)
    return objective.lower + aim.rows.points + is_up.double(), undecided


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """What AdaRound makes small, of a layer, in float32 but for the codes.

    A row's squared error is divided by what one of its weights adds, off by a step, in the mean:
    λ then means the same whatever the units of inputs and outputs, and at all bits.

    Attributes:
        lower: The lower of the two steps of each weight, less its zero point, float64.
        rest: How far the weight is above it, 0 to 1.
        base: Its error there, ŵ - w.
        step: What ŵ grows by when it is rounded up; 0 where the grid ends before.
        pull: Twice `step`, over what the row's error is divided by.
        hessian: X̂X̂ᵀ, over its largest value.
        target: W (XX̂ᵀ - X̂X̂ᵀ), over the same.
    """

    lower: Tensor
    rest: Tensor
    base: Tensor
    step: Tensor
    pull: Tensor
    hessian: Tensor
    target: Tensor

    @classmethod
    def of(cls, aim: Aim) -> Objective:
        """Work out what stays the same from step to step."""
        rows = aim.rows
        scale = rows.scale.expand_as(rows.weight)
        low, high = rows.grid.qmin - rows.points, rows.grid.qmax - rows.points
        steps = rows.weight / scale
        lower, upper = (torch.clamp(steps.floor() + up, low, high) for up in (0, 1))
        step = (upper - lower) * scale
        largest = rows.hessian.amax().clamp(min=torch.finfo(torch.float64).tiny)
        hessian = rows.hessian / largest
        alone = (step.square() * hessian.diagonal(dim1=1, dim2=2)[:, None]).mean(2, keepdim=True)
        return cls(
            lower=lower,
            rest=(steps - steps.floor()).float(),
            base=(lower * scale - rows.weight).float(),
            step=step.float(),
            pull=torch.where(alone > 0, 2 * step / alone, 0.0).float(),
            hessian=hessian.float(),
            target=((aim.target - rows.weight @ rows.hessian) / largest).float(),
        )

    def start(self) -> Tensor:
        """Return V with h(V) = w / s - ⌊w / s⌋: no weight is rounded yet."""
        return torch.logit((self.rest - LOWEST) / (HIGHEST - LOWEST))

    def gradient(self, v: Tensor, weight: float, beta: float | None) -> Tensor:
        """Return the gradient at V; without the regularizer if β is None.

        Args:
            v: V, float32, (groups, outputs, columns).
            weight: λ.
            beta: β.
        """
        sigmoid = v.sigmoid()
        stretched = sigmoid * (HIGHEST - LOWEST) + LOWEST
        h = stretched.clamp(0, 1)
        gradient = torch.addcmul(self.base, self.step, h) @ self.hessian
        gradient.sub_(self.target).mul_(self.pull)
        if beta is not None:
            apart = h.mul(2).sub_(1)
            gradient.sub_(apart.abs().pow_(beta - 1).mul_(2 * weight * beta).copysign_(apart))
        return gradient.mul_(sigmoid.mul(1 - sigmoid).mul_(HIGHEST - LOWEST).mul_(h == stretched))


def count_calls(passes: Passes, names: Iterable[str]) -> dict[str, int]:
    """Return how often layers run on all data, in the order in which they first do.

    A layer that nothing enters is left out.
    """
    calls: Counter[str] = Counter()
    passes.watch_inputs(names, lambda name, _: calls.update([name]))
    return calls


def paired_rows(
    passes: Passes, quantized: nn.Module, name: str, layer: QuantizedLayer, *, stops: bool
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield what a layer's weights are multiplied with on each batch, in both models.

    Both draw the same random numbers, and each keeps from batch to batch what it keeps.

    Args:
        passes: Over the data, of the float model.
        quantized: The quantized model, as it is by now.
        name: Name of the layer.
        layer: The layer of the quantized model.
        stops: Whether to end every pass behind the layer, which then may run once in a pass only.

    Yields:
        For each call of the layer its rows as `input_rows` gives them, float64: those in the float
        model, and those in the quantized one.
    """
    prepared = passes.prepared
    models = (prepared.model, quantized)
    rows: list[Tensor] = []

    def observe(_: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], __: Any) -> None:
        x = layer_input(args, kwargs)
        if x is not None and x.numel():
            # A copy: what the model does in place afterwards would change it.
            rows.append(input_rows(layer, x.detach().to(torch.float64, copy=True)))
        if stops:
            raise PassEnded

    for model in models:
        prepared.state.write(model)
    for batch in passes.batches:
        found = []
        with torch.random.fork_rng(devices=[]):
            random_state = torch.random.get_rng_state()
            for model in models:
                torch.random.set_rng_state(random_state)
                watched = watched_layers({name: model.get_submodule(name)}, observe)
                with watched, suppress(PassEnded), prepared.state.same_numbers():
                    run_model(model, batch)
                found.append(list(rows))
                rows.clear()
        yield found[0], found[1]
    for model in models:
        prepared.state.write(model)
