"""Layers whose input stays float: products are float, weights are held as codes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_engine.layers import PackedTensor, QuantizedLayer, QuantizedLinear

PIECE = 2**18
"""Weights that are dequantized at a time: 1 MiB of float32, which stays in a processor's cache."""


def run_on_float_input(layer: QuantizedLayer, x: Tensor, *arguments: Any) -> Tensor:
    """Run a layer of codes on a float input.

    A weight with one scale for each output: y = scale · Σ x (q - z) + bias. The codes enter the
    float operation as they are: scaling the sums instead of the weight spares a pass over it.
    Groups have no scale that could leave the sum, so the weight is dequantized, as in simulation;
    and so it is where a linear layer holds its codes two to a byte, a piece at a time.
    """
    stored = layer.stored_weight
    if isinstance(stored, PackedTensor) and isinstance(layer, QuantizedLinear):
        x, bias = x.float(), layer.bias
        parts = [F.linear(x, weight) for weight in stored.weight_pieces(PIECE)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return y if bias is None else y.add_(bias.float())
    if layer.scheme.weight.group_size is not None:
        return layer.compute(*layer.operands(x), *arguments)
    codes = layer.quantized_weight
    assert codes is not None
    weight = codes.float()
    grid = layer.weight_qparams
    if not layer.scheme.weight.symmetric:
        weight -= grid.aligned(grid.zero_point, codes.shape)
    sums = layer.compute(x.float(), weight, None, *arguments)
    channels = sums.shape[layer.output_axis]
    scale, bias = by_output_channel(grid.scale, channels), layer.bias
    shape = [1] * sums.dim()
    shape[layer.output_axis] = channels
    y = sums.mul_(scale.view(shape))
    return y if bias is None else y.add_(bias.float().view(shape))


def by_output_channel(values: Tensor, channels: int) -> Tensor:
    """Return one entry for each output channel from a layer's grid, shape (channels,).

    A grid has one entry, or one per channel, or, in a transposed convolution with groups, one for
    each channel of a group.
    """
    if not values.dim():
        return values.expand(channels).contiguous()
    return values.repeat(channels // len(values))
