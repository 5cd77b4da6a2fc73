"""Folding a BatchNorm into the convolution before it.

In eval mode a BatchNorm is y = (x - mean) · γ / √(variance + ε) + β for each channel: a scale and
an offset, which the convolution's weight and bias can take over. See `docs/math.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quant_engine.modules import has_hooks, has_own_forward, named_parameters_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def is_batchnorm(module: nn.Module) -> bool:
    """Whether the module is a BatchNorm that `fold_batchnorm` knows."""
    return type(module) in _BATCHNORMS


def can_fold(convolution: nn.Module, batchnorm: nn.Module, uses: Mapping[int, int]) -> bool:
    """Whether folding is exact, given that the BatchNorm alone reads the convolution's output.

    Args:
        convolution: The module before.
        batchnorm: The module after.
        uses: id of a parameter -> number of modules that hold it.
    """
    if type(convolution) not in _CONVOLUTIONS or type(batchnorm) not in _BATCHNORMS:
        return False
    if any(has_hooks(module) or has_own_forward(module) for module in (convolution, batchnorm)):
        return False
    own = named_parameters_of(convolution)
    is_plain = "weight" in own and set(own) <= {"weight", "bias"} and not own["weight"].is_meta
    is_alone = all(uses[id(parameter)] == 1 for parameter in own.values())
    statistics = {name for name, _ in batchnorm.named_buffers(recurse=False)}
    return (
        is_plain
        and is_alone
        and {"running_mean", "running_var"} <= statistics
        and own["weight"].is_floating_point()
        and batchnorm.num_features == convolution.out_channels
    )


def fold_batchnorm(convolution: nn.Module, batchnorm: nn.Module) -> bool:
    """Give the convolution the BatchNorm's scale and offset, in place.

    Computed in float64. Nothing changes if a result is not finite.

    Returns:
        Whether it was done.
    """
    own = named_parameters_of(convolution)
    weight, bias = own["weight"], own.get("bias")
    scale, offset = _scale_and_offset(batchnorm)
    start = torch.zeros_like(scale) if bias is None else bias.detach().double()
    folded_bias = (start * scale + offset).to(weight.dtype)
    folded_weight = (weight.detach().double() * _over_weight(scale, convolution)).to(weight.dtype)
    if not (torch.isfinite(folded_weight).all() and torch.isfinite(folded_bias).all()):
        return False
    convolution.weight = nn.Parameter(folded_weight, requires_grad=weight.requires_grad)
    convolution.bias = nn.Parameter(folded_bias, requires_grad=weight.requires_grad)
    return True


def _scale_and_offset(batchnorm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return γ / √(variance + ε) and β - mean · that, float64, shape (channels,)."""
    buffers = dict(batchnorm.named_buffers(recurse=False))
    own = named_parameters_of(batchnorm)
    scale = torch.rsqrt(buffers["running_var"].double() + float(batchnorm.eps))  # type: ignore[arg-type]
    if "weight" in own:
        scale = scale * own["weight"].detach().double()
    offset = -buffers["running_mean"].double() * scale
    if "bias" in own:
        offset = offset + own["bias"].detach().double()
    return scale, offset


def _over_weight(scale: Tensor, convolution: nn.Module) -> Tensor:
    """Reshape (out_channels,) so that it multiplies the weight."""
    if not isinstance(convolution, nn.ConvTranspose2d):
        return scale.view(-1, *[1] * (convolution.weight.dim() - 1))  # type: ignore[operator]
    # Weight (in_channels, out_channels / groups, ...): rows of group g make the outputs of group g.
    rows = convolution.in_channels // convolution.groups
    return scale.view(convolution.groups, -1).repeat_interleave(rows, dim=0)[:, :, None, None]
