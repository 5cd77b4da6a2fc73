"""GPTQ: weights are rounded one input at a time, and the rest make up for each error.

With H = XXᵀ + λI over the inputs X of a layer, and U the upper Cholesky factor of H⁻¹, for column j
of the weight, in the order of falling H_jj:

    e = (w_j - Q(w_j)) / U_jj,    W_k → W_k - e U_jk  for all columns k behind j

Q rounds to the grid that is chosen already, so the order costs nothing ("static groups"). Frantar
et al., ICLR 2023; computed in float64, a group of a convolution at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedLayer,
    QuantizedLinear,
)
from quant_engine.layers.convolution import edge_padding
from quant_engine.model.batches import Batch
from quant_engine.model.forward import layer_input, run_model, watched_layers
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.channels import Layer
from quant_engine.report import Treatment
from quant_engine.scheme import Gptq
from quant_engine.tensors.affine import QParams

MOST_DAMPINGS = 4
"""Dampings that are tried, each ten times the one before, until H can be factored."""

MOST_HESSIAN_VALUES = 32_000_000
"""Values of H that are held at once (256 MB), unless one layer alone has more."""

BLOCK = 128
"""Columns that are rounded before the rest of the weight is brought up to date."""


def round_by_gptq(
    prepared: PreparedModel,
    quantized: nn.Module,
    remedy: Gptq,
    batches: Sequence[Batch],
    meter: ProgressMeter,
) -> tuple[Treatment, ...]:
    """Round the weights of a quantized model again, in place; their grids stay.

    Args:
        prepared: The float model that it was made from.
        quantized: The quantized model.
        remedy: Which layers, and the damping.
        batches: Calibration data.
        meter: Told after every layer.

    Returns:
        One entry for each quantized layer that the remedy names. Its errors are those of the
        layer's output on the calibration data, weights alone rounded.
    """
    layers = {
        name: module
        for name, module in quantized.named_modules()
        if isinstance(module, QuantizedLayer) and remedy.treats(name)
    }
    found = {
        name: Treatment(remedy.kind, (name,), is_applied=False, reason=reason)
        for name, layer in layers.items()
        if (reason := _why_not(layer, quantized))
    }
    able = {name: layer for name, layer in layers.items() if name not in found}
    for names in _portions(able):
        hessians = _hessians(prepared, {name: able[name] for name in names}, batches)
        for name in names:
            found[name] = _round_layer(
                name, able[name], prepared.model.get_submodule(name), hessians.get(name), remedy
            )
            meter.say(f"round the weights of {name} by GPTQ")
    return tuple(found[name] for name in layers)


def _why_not(layer: QuantizedLayer, model: nn.Module) -> str:
    if not isinstance(layer, QuantizedLinear | QuantizedConv1d | QuantizedConv2d | _TRANSPOSED):
        return "it looks rows up, so no other weight can make up for an error"
    holders = [m for m in model.modules() if getattr(m, "stored_weight", None) is not None]
    if sum(holder.stored_weight is layer.stored_weight for holder in holders) > 1:
        return "it shares its weight with another layer"
    return ""


_TRANSPOSED = QuantizedConvTranspose2d


def _blocks_of(name: str, layer: QuantizedLayer) -> Layer:
    return Layer(name, layer, getattr(layer, "groups", 1), isinstance(layer, _TRANSPOSED))


def _columns(layer: QuantizedLayer) -> tuple[int, int]:
    """Return the groups of a layer, and the inputs of each output of a group."""
    assert layer.quantized_weight is not None
    groups, _, inputs, taps = _blocks_of("", layer).blocks(layer.quantized_weight).shape
    return groups, inputs * taps


def _portions(layers: Mapping[str, QuantizedLayer]) -> Iterator[list[str]]:
    """Yield names of layers whose Hessians are held together, in one pass over the data."""
    portion: list[str] = []
    held = 0
    for name, layer in layers.items():
        groups, columns = _columns(layer)
        size = groups * columns**2
        if portion and held + size > MOST_HESSIAN_VALUES:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def _hessians(
    prepared: PreparedModel, layers: Mapping[str, QuantizedLayer], batches: Sequence[Batch]
) -> dict[str, Tensor]:
    """Return XXᵀ of each layer's float inputs, (groups, columns, columns)."""
    found: dict[str, Tensor] = {}

    def observe(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> None:
        x = layer_input(args, kwargs)
        if x is None or not x.numel():
            return
        rows = input_rows(layers[name], x.detach().double())
        h = rows @ rows.transpose(1, 2)
        found[name] = found[name] + h if name in found else h

    watched = {name: prepared.model.get_submodule(name) for name in layers}
    prepared.state.write(prepared.model)
    with watched_layers(watched, observe), torch.random.fork_rng(devices=[]):
        for batch in batches:
            with prepared.state.same_numbers():
                run_model(prepared.model, batch)
    prepared.state.write(prepared.model)
    return found


def input_rows(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Return what each weight of an output is multiplied with, (groups, columns, outputs).

    Column order is that of `Layer.blocks`: input channels of the group, then taps of the kernel.

    Args:
        layer: A linear layer or a convolution.
        x: Its input, with or without a batch.
    """
    if isinstance(layer, QuantizedLinear):
        return x.reshape(1, -1, x.shape[-1]).transpose(1, 2)
    axes = len(layer.kernel_size)
    x = x if x.dim() == axes + 2 else x.unsqueeze(0)
    if isinstance(layer, _TRANSPOSED):
        patches = _transposed_patches(layer, x)
    else:
        assert isinstance(layer, QuantizedConv1d | QuantizedConv2d)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = F.pad(x, edge_padding(layer.padding, layer.kernel_size, layer.dilation), mode=mode)
        strides, dilations = layer.stride, layer.dilation
        if axes == 1:
            x, strides, dilations = x.unsqueeze(2), (1, *strides), (1, *dilations)
        kernel = (1, *layer.kernel_size)[-2:]
        patches = F.unfold(x, kernel, dilation=dilations, stride=strides)
    samples, values, places = patches.shape
    by_group = patches.view(samples, layer.groups, values // layer.groups, places)
    return by_group.permute(1, 2, 0, 3).reshape(layer.groups, values // layer.groups, -1)


def _transposed_patches(layer: QuantizedConvTranspose2d, x: Tensor) -> Tensor:
    """Return the patches of the convolution that a transposed one is: zeros between the inputs."""
    samples, channels, *sizes = x.shape
    spaced = [(size - 1) * step + 1 for size, step in zip(sizes, layer.stride, strict=True)]
    between = x.new_zeros(samples, channels, *spaced)
    between[:, :, :: layer.stride[0], :: layer.stride[1]] = x
    edges: list[int] = []
    for axis in (1, 0):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - layer.padding[axis]
        edges += [reach, reach + layer.output_padding[axis]]
    patches = F.unfold(F.pad(between, edges), layer.kernel_size, dilation=layer.dilation)
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    return patches.view(samples, channels, taps, -1).flip(2).reshape(samples, channels * taps, -1)


def _round_layer(
    name: str, layer: QuantizedLayer, module: nn.Module, hessian: Tensor | None, remedy: Gptq
) -> Treatment:
    """Round one layer, and keep what is better: GPTQ's codes or those of plain rounding."""

    def refused(reason: str) -> Treatment:
        return Treatment(remedy.kind, (name,), is_applied=False, reason=reason)

    if hessian is None:
        return refused("nothing entered it on the calibration data")
    stored, view = layer.stored_weight, _blocks_of(name, layer)
    assert stored is not None
    grid, shape = stored.qparams, stored.codes.shape

    def by_output(values: Tensor) -> Tensor:
        """Return values of each weight as (groups, outputs, columns), float64."""
        return view.blocks(values.expand(shape).double().contiguous()).flatten(2)

    rows = by_output(module.weight.detach())  # type: ignore[operator]
    scale, points = (by_output(grid.aligned(x, shape)) for x in (grid.scale, grid.zero_point))
    before = by_output(stored.codes)
    codes, damping = gptq_codes(rows, hessian, scale, points, grid, remedy.damping)
    if codes is None:
        return refused(
            f"XXᵀ of its inputs cannot be factored, damped by up to {damping:g} of its mean "
            "diagonal; its weights are rounded as usual"
        )
    signal = _energy(rows, hessian)
    errors = [
        (_energy(rows - (c - points) * scale, hessian) / signal) ** 0.5 if signal else 0.0
        for c in (before, codes)
    ]
    if errors[1] > errors[0]:
        return refused("its output error would be larger than that of plain rounding")
    blocks = view.blocks(stored.codes)
    blocks.copy_(codes.view(blocks.shape))
    return Treatment(
        remedy.kind,
        (name,),
        is_applied=True,
        reason=f"damping was raised to {damping:g}" if damping > remedy.damping else "",
        error_before=errors[0],
        error_after=errors[1],
        error_of="layer outputs, from weights alone",
    )


def _energy(rows: Tensor, hessian: Tensor) -> float:
    """Return Σ(W x)² over all data, for W (groups, outputs, columns)."""
    return max(0.0, ((rows @ hessian) * rows).sum().item())


def gptq_codes(
    rows: Tensor, hessian: Tensor, scale: Tensor, points: Tensor, grid: QParams, damping: float
) -> tuple[Tensor | None, float]:
    """Return the codes that GPTQ chooses.

    Args:
        rows: Weights, float64, (groups, outputs, columns).
        hessian: XXᵀ, (groups, columns, columns).
        scale: Of each weight, shape of `rows`, or of each output, (groups, outputs, 1).
        points: Zero points, likewise.
        grid: Smallest and largest code.
        damping: λ as a share of the mean diagonal; raised tenfold while H cannot be factored.

    Returns:
        The codes, float64, shape of `rows`, or None where no damping helped; and the damping.
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    is_dead = diagonal <= 0
    hessian = hessian + torch.diag_embed(is_dead.double())
    mean = diagonal.sum(dim=1, keepdim=True) / (~is_dead).sum(dim=1, keepdim=True).clamp(min=1)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    hessian = _take(_take(hessian, order, 2), order, 1)
    damping = max(damping, 1e-8)
    factor = None
    for attempt in range(MOST_DAMPINGS):
        damping *= 10 if attempt else 1
        damped = hessian + torch.diag_embed((damping * mean).expand_as(diagonal))
        factor = _factor(damped)
        if factor is not None:
            break
    if factor is None:
        return None, damping
    rows, scale, points = (_take(x.expand_as(rows), order, 2) for x in (rows, scale, points))
    codes = torch.empty_like(rows)
    lo, hi = grid.qmin - points, grid.qmax - points
    for start in range(0, rows.shape[2], BLOCK):
        end = min(start + BLOCK, rows.shape[2])
        errors = torch.empty_like(rows[:, :, start:end])
        for j in range(start, end):
            column = rows[:, :, j]
            steps = torch.round(column / scale[..., j]).clamp(lo[..., j], hi[..., j])
            codes[:, :, j] = steps + points[..., j]
            error = (column - steps * scale[..., j]) / factor[:, j, j, None]
            rows[:, :, j:end] -= error[..., None] * factor[:, None, j, j:end]
            errors[:, :, j - start] = error
        rows[:, :, end:] -= errors @ factor[:, start:end, end:]
    return torch.empty_like(codes).scatter_(2, order[:, None].expand_as(codes), codes), damping


def _take(values: Tensor, order: Tensor, axis: int) -> Tensor:
    """Reorder one axis of (groups, a, b), in each group in its own order."""
    index = order[:, None] if axis == 2 else order[:, :, None]
    return values.gather(axis, index.expand_as(values))


def _factor(hessian: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of each inverse, or None where there is none."""
    lower, info = torch.linalg.cholesky_ex(hessian)
    if info.any() or not torch.isfinite(lower).all():
        return None
    upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if info.any() or not torch.isfinite(upper).all() else upper
