"""A minimal int8 simulation, written apart from the engine, to judge the teaching variants by."""

from __future__ import annotations

import copy

import torch
from torch import nn


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy in which each BatchNorm is multiplied into the convolution before it."""
    folded = copy.deepcopy(model)
    previous: nn.Module | None = None
    for module in folded.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(previous, nn.Conv2d)
            gain = module.weight.data / torch.sqrt(module.running_var + module.eps)
            previous.weight.data *= gain.view(-1, 1, 1, 1)
            previous.bias = nn.Parameter(module.bias.data - module.running_mean * gain)
            module.reset_running_stats()
            module.weight.data.fill_((1 + module.eps) ** 0.5)
            module.bias.data.zero_()
        if not list(module.children()):
            previous = module
    return folded


def round_weights(model: nn.Module, *, per_channel: bool) -> nn.Module:
    """Return a copy whose matrices and kernels lie on symmetric int8 grids."""
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        for name, weight in module.named_parameters(recurse=False):
            is_matrix = name in {"weight", "in_proj_weight"} and weight.ndim > 1
            if is_matrix:
                rows = weight.data.flatten(1).abs().amax(dim=1)
                largest = rows if per_channel else rows.amax().expand_as(rows)
                scale = (largest / 127).view(-1, *[1] * (weight.ndim - 1))
                weight.data = (weight.data / scale).round() * scale
    return rounded


def round_activations(model: nn.Module, calibration: torch.Tensor) -> nn.Module:
    """Return a copy whose attention, Linear and convolution inputs lie on asymmetric int8 grids."""
    rounded = copy.deepcopy(model)
    readers = [
        module
        for module in rounded.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        # Attention calls no out_proj; its input cannot be reached from outside.
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    ]
    ranges: dict[nn.Module, tuple[float, float]] = {}

    def measure(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        ranges[module] = (min(0.0, inputs[0].min().item()), max(0.0, inputs[0].max().item()))

    hooks = [module.register_forward_pre_hook(measure) for module in readers]
    with torch.no_grad():
        rounded(calibration)
    for hook in hooks:
        hook.remove()

    def quantize(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        low, high = ranges[module]
        scale = (high - low) / 255
        zero_point = round(-128 - low / scale)
        codes = ((inputs[0] / scale).round() + zero_point).clamp(-128, 127)
        value = (codes - zero_point) * scale
        return tuple(value if given is inputs[0] else given for given in inputs)

    for module in readers:
        module.register_forward_pre_hook(quantize)
    return rounded


def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of samples that are right."""
    with torch.no_grad():
        return (model(inputs).argmax(dim=1) == labels).float().mean().item()


def kl_divergence(reference: nn.Module, model: nn.Module, inputs: torch.Tensor) -> float:
    """Return the mean KL divergence of a model's outputs from the reference's, in nats."""
    with torch.no_grad():
        p = reference(inputs).double().log_softmax(dim=1)
        q = model(inputs).double().log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1).mean().item()
