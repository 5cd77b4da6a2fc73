"""How a quantized layer keeps its grids: in small buffers, zero points only where they are used."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import QParams


def grid_of(
    scale: Tensor, zero_point: Tensor | None, scheme: TensorScheme, axis: int | None
) -> QParams:
    """Return the grid that two buffers hold; without zero points they are all 0."""
    if zero_point is None:
        points = torch.zeros(scale.shape, dtype=torch.int32, device=scale.device)
    else:
        points = zero_point.to(torch.int32)
    return QParams(scale, points, scheme.qmin, scheme.qmax, axis)


def empty_grids(codes: Tensor, scheme: LayerScheme, channel_axis: int) -> dict[str, Tensor | None]:
    """Return buffers of the shapes that the scheme gives them, to be filled.

    Args:
        codes: The weight's codes.
        scheme: How weight and input are quantized.
        channel_axis: Axis of the codes that output channels lie on.
    """
    weight, activation, device = scheme.weight, scheme.activation, codes.device
    shape = (codes.shape[channel_axis],) if weight.is_per_channel else ()
    points = torch.zeros(shape, dtype=torch.int8, device=device)
    has_grid = scheme.has_calibrated_input
    has_points = activation is not None and has_grid and not activation.symmetric
    return {
        "weight_scale": torch.ones(shape, dtype=torch.float32, device=device),
        "weight_zero_point": None if weight.symmetric else points,
        "input_scale": torch.ones((), dtype=torch.float32, device=device) if has_grid else None,
        "input_zero_point": (
            torch.zeros((), dtype=torch.int8, device=device) if has_points else None
        ),
    }
