"""How far each layer's quantization error moves the output, to first order, on one batch.

A forward hook adds a zero to the output of every layer. Gradients are taken with respect to that
zero: the sum is a tensor of its own, so what follows may change it in place, and neither parameters
nor inputs need gradients.

The part of the error that comes from rounding the input is kept apart as well: it is another one as
soon as the input is, while the weight's part stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.errors import QuantizationError
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from quant_engine.model.forward import layer_input, watched_layers
from quant_engine.model.inputs import copy_inputs
from quant_engine.response.directions import Directions

NO_GRADIENT = "no gradient reaches it from the output, as behind detach, argmax or rounding"
NO_ROWS = "its output cannot be cut into the rows of the model's output"
NO_TENSOR = "its output is not a float tensor"

_TOLERANCE = 1e-3
_HALF_TOLERANCE = 3e-2


@dataclass(slots=True, eq=False)
class _Call:
    """One call of a layer.

    Attributes:
        zero: What was added to its output.
        deltas: Quantized minus float output under each option, then what rounding the input alone
            does under each rounding.
        source: The node of the graph that its input comes from; None if from no layer.
        axis: Axis of the output along which the rows lie; None while that is not known.
    """

    zero: Tensor
    deltas: list[Tensor]
    source: Any
    axis: int | None = None


@dataclass(slots=True, eq=False)
class LinearResponse:
    """Shifts of the output on one batch.

    Attributes:
        shifts: Layer name -> shifts along every direction, float64 (options + roundings, rows,
            directions).
        reasons: Layer name -> why it is not in `shifts`.
        sources: Layer name -> names of the layers that its input depends on.
    """

    shifts: dict[str, Tensor] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    sources: dict[str, frozenset[str]] = field(default_factory=dict)


def linear_response(
    model: nn.Module,
    forms: Mapping[str, Mapping[str, QuantizedLayer]],
    roundings: Sequence[str],
    batch: Batch,
    read: Callable[[Any], Sequence[Tensor]],
    directions: Sequence[Directions],
    axes: Sequence[RowAxes],
    on_pass: Callable[[], None],
) -> list[LinearResponse]:
    """Run the float model once and go back through it once for each direction of each output.

    Args:
        model: The prepared float model; its parameters must not require gradients.
        forms: Layer name -> option name -> quantized layer.
        roundings: Options whose rounding of the input is measured by itself.
        batch: The batch.
        read: From the model's answer to what the directions are directions of.
        directions: Directions of each output on this batch.
        axes: Of each output, what the batches before have told of its rows.
        on_pass: Called after every backward pass.

    Returns:
        For each output the shifts of the layers it could tell them for, and reasons for the others.
    """
    layers = {name: model.get_submodule(name) for name in forms}
    calls: dict[str, list[_Call]] = {name: [] for name in forms}
    reasons: dict[str, str] = {}
    results = []

    # Layers are watched inside the caller's hooks, which forms have too; `forward` leaves them out.
    def watch(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            reasons[name] = NO_TENSOR
            return output
        with torch.no_grad():
            deltas = [form.forward(*args, **kwargs) - output for form in forms[name].values()]
            for option in roundings:
                deltas.append(_rounding(layers[name], forms[name][option], args, kwargs, output))
        zero = torch.zeros_like(output, requires_grad=True)
        source = layer_input(args, kwargs)
        calls[name].append(_Call(zero, deltas, None if source is None else source.grad_fn))
        return output + zero

    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = copy_inputs(batch)
            with watched_layers(layers, watch):
                answer = model(*inputs.args, **inputs.kwargs)
            outputs = read(answer)
            sources = _find_sources(calls)
            for output, along, known in zip(outputs, directions, axes, strict=True):
                if not output.requires_grad:
                    raise RuntimeError("the output does not depend on any layer by a gradient")
                result = LinearResponse(reasons=dict(reasons), sources=sources)
                _sum_up(output.reshape(along.rows, -1), calls, along, known, result, on_pass)
                results.append(result)
    except QuantizationError:
        raise
    except Exception as error:
        # Whatever autograd cannot do with this model: the caller runs it instead, and says so.
        first_line = str(error).strip().split("\n", 1)[0][:200]
        reason = f"gradients could not be taken ({type(error).__name__}: {first_line})"
        return [LinearResponse({}, dict.fromkeys(forms, reason)) for _ in directions]
    return results


def _rounding(
    layer: nn.Module,
    form: QuantizedLayer,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    plain: Tensor,
) -> Tensor:
    """Return what rounding the input alone does to `plain`, the output of the float layer."""
    x = layer_input(args, kwargs)
    if x is None or not form.rounds_input:
        return torch.zeros_like(plain)
    x_hat = form.simulate_input(x).to(x.dtype)
    changed: Tensor = layer.forward(
        *(x_hat if value is x else value for value in args),
        **{key: x_hat if value is x else value for key, value in kwargs.items()},
    )
    return changed - plain


def _find_sources(calls: Mapping[str, list[_Call]]) -> dict[str, frozenset[str]]:
    """Return layer name -> names of the layers that its input depends on, from autograd's graph."""
    owners = {id(call.zero): name for name in calls for call in calls[name]}
    found = {}
    for name in calls:
        names = set()
        waiting = [call.source for call in calls[name]]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            if id(getattr(node, "variable", None)) in owners:
                names.add(owners[id(node.variable)])
            following = {step for step, _ in node.next_functions} - seen
            seen |= following
            waiting.extend(following)
        found[name] = frozenset(names)
    return found


def _sum_up(
    flat: Tensor,
    calls: Mapping[str, list[_Call]],
    directions: Directions,
    axes: RowAxes,
    result: LinearResponse,
    on_pass: Callable[[], None],
) -> None:
    found = [(name, call) for name in calls for call in calls[name]]
    zeros = [call.zero for _, call in found]
    columns: dict[str, list[Tensor]] = {name: [] for name in calls if name not in result.reasons}
    axes.find(flat, found, result.reasons)
    for direction in directions:
        seed = direction.to(flat.dtype)
        gradients = torch.autograd.grad(flat, zeros, seed, retain_graph=True, allow_unused=True)
        sums: dict[str, Tensor] = {}
        for (name, call), gradient in zip(found, gradients, strict=True):
            if name in result.reasons or gradient is None:
                continue
            part = _inner_products(gradient, call, directions.rows)
            sums[name] = sums[name] + part if name in sums else part
        for name, total in sums.items():
            columns[name].append(total)
        on_pass()
    for name, column in columns.items():
        if name in result.reasons:
            continue
        if not calls[name]:
            result.reasons[name] = "it did not run on this batch"
            continue
        if not column:
            result.reasons[name] = NO_GRADIENT
            continue
        shifts = torch.stack(column, dim=-1)
        if not shifts.any() and any(delta.any() for c in calls[name] for delta in c.deltas):
            result.reasons[name] = NO_GRADIENT
        else:
            result.shifts[name] = shifts


class RowAxes:
    """Along which axis the output of each call of a layer holds the rows of the model's output.

    That is the model's doing, so what several rows of one batch have told holds for the batches
    after it. A call is known by its layer, its place among the layer's calls and its axes.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], int | str] = {}

    def find(
        self, flat: Tensor, calls: Sequence[tuple[str, _Call]], reasons: dict[str, str]
    ) -> None:
        """Set the axis of every call.

        Args:
            flat: The model's output, shape (rows, values of a row).
            calls: Layer name and call, in the order of the layers.
            reasons: Layer name -> why its rows are not known; is added to.
        """
        counter = Counter[str]()
        keys = []
        for name, call in calls:
            keys.append((name, counter[name], call.zero.dim()))
            counter[name] += 1
        found = [self._known.get(key, NO_ROWS) for key in keys]
        is_known = all(key in self._known for key in keys) and all(
            isinstance(axis, str) or call.zero.shape[axis] % len(flat) == 0
            for axis, (_, call) in zip(found, calls, strict=True)
        )
        if not is_known:
            located = _locate_rows(flat, [call.zero for _, call in calls])
            found = [axis for axis, _ in located]
            self._known = {
                key: axis for key, (axis, is_sure) in zip(keys, located, strict=True) if is_sure
            }
        for (name, call), axis in zip(calls, found, strict=True):
            if isinstance(axis, str):
                reasons[name] = axis
            else:
                call.axis = axis


def _locate_rows(flat: Tensor, zeros: Sequence[Tensor]) -> list[tuple[int | str, bool]]:
    """Return for each call its axis, or why it has none, and whether other batches may rely on it.

    The gradient along a random direction is taken twice, the second time with every row multiplied
    by a number of its own. Where an axis holds the rows and no row acts on another, each part of
    the gradient is multiplied by its row's number, and by nothing else. Gradients of fewer than two
    rows cannot tell one axis from another.
    """
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat.device)
    weights = torch.linspace(1.0, 2.0, len(flat), dtype=torch.float64, device=flat.device)
    plains, scaleds = (
        torch.autograd.grad(
            flat, zeros, directed.to(flat.dtype), retain_graph=True, allow_unused=True
        )
        for directed in (seed, seed * weights[:, None])
    )
    located: list[tuple[int | str, bool]] = []
    for plain, scaled in zip(plains, scaleds, strict=True):
        if plain is None or scaled is None:
            located.append((NO_GRADIENT, True))
            continue
        axes = [axis for axis, size in enumerate(plain.shape) if size and size % len(flat) == 0]
        axis = next((a for a in axes if _is_scaled(plain, scaled, weights, a)), None)
        if axis is None:
            located.append((NO_ROWS, True))
        else:
            rows = _by_row(plain, axis, len(flat)).any(dim=1)
            located.append((axis, int(rows.sum()) > 1))
    return located


def _is_scaled(plain: Tensor, scaled: Tensor, weights: Tensor, axis: int) -> bool:
    expected = _by_row(plain, axis, len(weights)).double() * weights[:, None]
    error = _by_row(scaled, axis, len(weights)).double() - expected
    tolerance = _TOLERANCE if plain.element_size() > 2 else _HALF_TOLERANCE
    return bool(error.norm() <= tolerance * expected.norm())


def _by_row(values: Tensor, axis: int, rows: int) -> Tensor:
    """Return a layer's output as (rows of the model's output, values of each)."""
    return values.movedim(axis, 0).reshape(rows, -1)


def _inner_products(gradient: Tensor, call: _Call, rows: int) -> Tensor:
    """Return ⟨gradient, delta⟩ of every row, shape (options, rows)."""
    assert call.axis is not None
    by_row = _by_row(gradient, call.axis, rows)
    return torch.stack(
        [
            torch.linalg.vecdot(by_row, _by_row(delta.to(by_row.dtype), call.axis, rows)).double()
            for delta in call.deltas
        ]
    )
