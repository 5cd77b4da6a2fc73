"""What a kernel computes with besides the input: the weights, and what is done to the sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_engine.execution.kernels.codes import Grid, from_codes, to_codes_of

NO_ACTIVATION = "none"


@dataclass(frozen=True, slots=True, eq=False)
class IntegerWeights:
    """The weights of one layer, output channels first.

    Attributes:
        codes: int8, shape (out_channels, ...).
        scale: float32, shape (out_channels,).
        zero_point: int32, shape (out_channels,); None if all are 0.
        bias: float32, shape (out_channels,), or None.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Epilogue:
    """What happens to the sums of a layer before they are written.

    y = activation(scale · sums + bias + skip), rounded to `output` if that is given.

    Attributes:
        activation: A name of `ACTIVATIONS`.
        output: Grid of the result; None for float32 values.
        skip: What is added: unsigned codes where `skip_grid` is given, else float32 values.
        skip_grid: Grid of `skip`.
    """

    activation: str = NO_ACTIVATION
    output: Grid | None = None
    skip: Tensor | None = None
    skip_grid: Grid | None = None


PLAIN = Epilogue()

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    NO_ACTIVATION: lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def finish(y: Tensor, epilogue: Epilogue) -> Tensor:
    """Apply an epilogue to float32 values y = scale · sums + bias.

    Args:
        y: Values, which may be overwritten.
        epilogue: What to do.

    Returns:
        Float32 values, or unsigned codes of `epilogue.output`.
    """
    if epilogue.skip is not None:
        grid = epilogue.skip_grid
        y = y + (epilogue.skip if grid is None else from_codes(epilogue.skip, grid))
    output = epilogue.output
    if output is not None and epilogue.activation == "relu":
        # Codes below that of 0 are cut off anyway.
        return to_codes_of(y, replace(output, lowest=max(output.lowest, output.zero_point)))
    y = ACTIVATIONS[epilogue.activation](y)
    return y if output is None else to_codes_of(y, output)


def scaled_sums(sums: Tensor, x_scale: float, weights: IntegerWeights) -> Tensor:
    """Return x_scale · weight_scale · sums + bias in float32, output channels on axis 1."""
    shape = (-1, *[1] * (sums.dim() - 2))
    y = sums.float() * (weights.scale * x_scale).view(shape)
    return y if weights.bias is None else y.add_(weights.bias.view(shape))


def with_counters(weights: IntegerWeights, groups: int) -> Tensor:
    """Return the codes, each group with one output channel of ones if weights have zero points.

    The sums of that channel count the inputs of the group.

    With a weight zero point z, Σ (q_x - z_x)(q_w - z) = Σ (q_x - z_x) q_w - z Σ (q_x - z_x), and
    the last sum is what the appended channel gives.
    """
    if weights.zero_point is None:
        return weights.codes
    parts = weights.codes.chunk(groups)
    return torch.cat([torch.cat([part, torch.ones_like(part[:1])]) for part in parts])


def without_counters(sums: Tensor, zero_point: Tensor, groups: int) -> Tensor:
    """Take the appended channels' sums, times the zero points, off the others.

    Args:
        sums: Sums of codes `with_counters`, int32, output channels on axis 1.
        zero_point: Of the layer's own output channels, shape (out_channels,).
        groups: Of the layer.
    """
    parts = sums.reshape(len(sums), groups, sums.shape[1] // groups, *sums.shape[2:])
    own, counted = parts[:, :, :-1], parts[:, :, -1:]
    points = zero_point.to(sums.dtype).view(groups, -1, *[1] * (sums.dim() - 2))
    return (own - points * counted).flatten(1, 2)
