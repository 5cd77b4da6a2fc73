"""Weights of a quantized model by the outputs they belong to, and XXᵀ of what they multiply.

What remedies for codes share. Σ(wx)² over all data is w XXᵀ wᵀ for the weights w of an output, so
the error of a layer's output is known for any codes without running the layer again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedEmbedding,
    QuantizedEmbeddingBag,
    QuantizedLayer,
    QuantizedLinear,
)
from quant_engine.layers.convolution import edge_padding
from quant_engine.model.modules import count_parameter_uses, names_that_share
from quant_engine.remedies.channels import Layer
from quant_engine.remedies.passes import Passes
from quant_engine.report import Treatment
from quant_engine.scheme import Remedy
from quant_engine.tensors.affine import QParams

MOST_HESSIAN_VALUES = 32_000_000
"""Values of H = XXᵀ that are held at once (256 MB), unless one layer alone has more."""

FROM_WEIGHTS = "layer outputs, from weights alone"
"""What errors of a layer by itself are errors of."""

NOTHING_ENTERED = "nothing entered it on the calibration data"


@dataclass(frozen=True, slots=True, eq=False)
class OutputRows:
    """A quantized layer's weights by output: float64, each (groups, outputs, columns).

    Attributes:
        layer: The layer.
        blocks: Its codes, a view (groups, outputs, inputs, taps).
        weight: The float weights.
        scale: The scale of each weight.
        points: The zero point of each weight.
        codes: The codes as they are.
        seen: What they are multiplied with.
        has_own_bias: Whether no other layer shares its bias.
    """

    layer: QuantizedLayer
    blocks: Tensor
    weight: Tensor
    scale: Tensor
    points: Tensor
    codes: Tensor
    seen: SeenInputs
    has_own_bias: bool = True

    @classmethod
    def of(cls, layer: QuantizedLayer, module: nn.Module, seen: SeenInputs) -> OutputRows:
        """Read them from a layer, the float layer it was made from, and what entered that."""
        grid = layer.weight_qparams
        codes = layer.quantized_weight
        assert codes is not None
        scale, points = (grid.aligned(x, codes.shape) for x in (grid.scale, grid.zero_point))
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        return cls(
            layer=layer,
            blocks=_blocks_of(layer).blocks(codes),
            weight=by_outputs(layer, weight),
            scale=by_outputs(layer, scale),
            points=by_outputs(layer, points),
            codes=by_outputs(layer, codes),
            seen=seen,
        )

    @property
    def hessian(self) -> Tensor:
        """XXᵀ of the inputs, (groups, columns, columns)."""
        return self.seen.hessian

    @property
    def grid(self) -> QParams:
        """The layer's grid."""
        return self.layer.weight_qparams

    def output_error(self, codes: Tensor, scale: Tensor | None = None) -> float:
        """Return √(Σ(y - ŷ)² / Σy²) over all data for other codes, and perhaps other scales."""
        scale = self.scale if scale is None else scale
        noise = _energy(self.weight - (codes - self.points) * scale, self.hessian)
        return math.sqrt(self.share_of_output(noise))

    def share_of_output(self, energy: Tensor | float) -> float:
        """Return an energy as a share of Σy² over all data; the bias is not part of y."""
        signal = _energy(self.weight, self.hessian)
        return float(energy / signal) if signal else 0.0

    def write(self, codes: Tensor) -> None:
        """Give the layer other codes."""
        self.blocks.copy_(codes.view(self.blocks.shape))


@dataclass(slots=True, eq=False)
class SeenInputs:
    """What each weight of an output was multiplied with on all data, in float64.

    Attributes:
        hessian: XXᵀ, (groups, columns, columns).
        total: Sum over all data, (groups, columns).
        count: How many values each output had.
    """

    hessian: Tensor
    total: Tensor
    count: int

    @classmethod
    def of(cls, rows: Tensor) -> SeenInputs:
        """Count inputs, (groups, columns, values)."""
        return cls(rows @ rows.transpose(1, 2), rows.sum(dim=2), rows.shape[2])

    def update(self, other: SeenInputs) -> None:
        """Count what another one saw as well."""
        self.hessian += other.hessian
        self.total += other.total
        self.count += other.count

    @property
    def mean(self) -> Tensor:
        """Mean over all data, (groups, columns)."""
        return self.total / self.count


TreatRows: TypeAlias = Callable[[str, OutputRows, Any], Treatment]
"""Treats one layer, by name and rows, with a remedy; says what it did."""

Step: TypeAlias = tuple[QuantizedLayer, Remedy]
"""A quantized form of a layer, and a remedy for it."""


def find_layers(
    quantized: nn.Module, remedy: Remedy
) -> tuple[dict[str, QuantizedLayer], frozenset[str]]:
    """Return the quantized layers that a remedy names, and which share their weight with others."""
    layers = {n: m for n, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}
    stored = {name: layer.stored_weight for name, layer in layers.items() if layer.is_quantized}
    treated = {name: layer for name, layer in layers.items() if remedy.treats(name)}
    return treated, names_that_share(stored)


def treat_forms(
    passes: Passes, steps: Mapping[str, Sequence[Step]], shared: Collection[str], treat: TreatRows
) -> dict[str, list[Treatment]]:
    """Treat quantized layers, each in several forms; the data is read once for all.

    Args:
        passes: Over calibration data, of the float model.
        steps: Layer name -> what to do to its forms, in this order; at least one step.
        shared: Layers that share their weight with another one, which are left alone.
        treat: Does one step.

    Returns:
        Layer name -> what each step did.
    """
    reasons = {name: why_not(todo[0][0], name in shared) for name, todo in steps.items()}
    able = {name: todo[0][0] for name, todo in steps.items() if not reasons[name]}
    model = passes.prepared.model
    uses = count_parameter_uses(model)
    found: dict[str, list[Treatment]] = {}
    for names in _portions(able):
        seen = _see_inputs(passes, {name: able[name] for name in names})
        for name in names:
            if name not in seen:
                reasons[name] = NOTHING_ENTERED
                continue
            module = model.get_submodule(name)
            is_own = uses[id(module._parameters["bias"])] <= 1
            found[name] = []
            for layer, remedy in steps[name]:
                rows = OutputRows.of(layer, module, seen[name])
                found[name].append(treat(name, replace(rows, has_own_bias=is_own), remedy))
    for name, todo in steps.items():
        if reasons[name]:
            found[name] = [Treatment.refused(r, name, reason=reasons[name]) for _, r in todo]
    return found


def improved(
    remedy: Remedy, layer: str, before: float, after: float, reason: str = ""
) -> Treatment:
    """Return the entry of a layer that a remedy treated by itself, with its errors."""
    return Treatment(
        remedy.kind,
        (layer,),
        is_applied=True,
        reason=reason,
        error_before=before,
        error_after=after,
        error_of=FROM_WEIGHTS,
    )


def by_outputs(layer: QuantizedLayer, values: Tensor) -> Tensor:
    """Return one value for each weight, or what broadcasts to it, as `OutputRows` holds them."""
    assert layer.quantized_weight is not None
    spread = values.expand(layer.quantized_weight.shape).double().contiguous()
    return _blocks_of(layer).blocks(spread).flatten(2)


def why_not(layer: QuantizedLayer, is_shared: bool) -> str:
    """Return why the codes of a layer cannot be treated; empty if they can."""
    if isinstance(layer, QuantizedEmbedding | QuantizedEmbeddingBag):
        return "it looks rows up, so its weights are not summed with those of other inputs"
    if not isinstance(layer, QuantizedLinear | QuantizedConv1d | QuantizedConv2d | _TRANSPOSED):
        return f"what a {type(layer).__name__} multiplies its weights with is not worked out"
    return "it shares its weight with another layer" if is_shared else ""


_TRANSPOSED = QuantizedConvTranspose2d


def _blocks_of(layer: QuantizedLayer) -> Layer:
    return Layer("", layer, getattr(layer, "groups", 1), isinstance(layer, _TRANSPOSED))


def columns_of(layer: QuantizedLayer) -> tuple[int, int]:
    """Return the groups of a layer, and the inputs of each output of a group."""
    assert layer.quantized_weight is not None
    groups, _, inputs, taps = _blocks_of(layer).blocks(layer.quantized_weight).shape
    return groups, inputs * taps


def _portions(layers: Mapping[str, QuantizedLayer]) -> Iterator[list[str]]:
    """Yield names of layers whose Hessians are held together, in one pass over the data."""
    portion: list[str] = []
    held = 0
    for name, layer in layers.items():
        groups, columns = columns_of(layer)
        size = groups * columns**2
        if portion and held + size > MOST_HESSIAN_VALUES:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def _see_inputs(passes: Passes, layers: Mapping[str, QuantizedLayer]) -> dict[str, SeenInputs]:
    """Return what is known of each layer's float inputs."""
    found: dict[str, SeenInputs] = {}

    def observe(name: str, x: Tensor) -> None:
        seen = SeenInputs.of(input_rows(layers[name], x.double()))
        if name in found:
            found[name].update(seen)
        else:
            found[name] = seen

    passes.watch_inputs(layers, observe)
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


def _energy(rows: Tensor, hessian: Tensor) -> float:
    """Return Σ(W x)² over all data, for W (groups, outputs, columns)."""
    return max(0.0, ((rows @ hessian) * rows).sum().item())
