"""Counting the weights that are on codes, and those that are not, with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from quant_engine.layers import QuantizedLayer
from quant_engine.quantization.conversion import LayerPlan
from quant_engine.report import Coverage, LeftOut

_NO_LAYER = "{kind} is not a layer that this engine knows; what reads its parameters is not known."
_NAME = re.compile(r"`[^`]*`")
_INDEX = re.compile(r"(?<=[`.])\d+(?=[`.])")
_NOT_WEIGHT = "It is a parameter of {kind} besides its weight; only the weight gets codes."


def measure_coverage(
    float_model: nn.Module, quantized_model: nn.Module, plans: Sequence[LayerPlan]
) -> Coverage:
    """Return the share of the weights that is on codes; see `Coverage` for what counts.

    Reasons that differ in the index of a repeated block are one: "... in `layers.*.attn`".

    Args:
        float_model: The prepared float model.
        quantized_model: Its quantized copy.
        plans: What was done with each layer.
    """
    reasons = {plan.layer.name: plan.reason for plan in plans}
    sizes: dict[object, int] = {}
    floats: dict[object, tuple[str, str]] = {}  # parameter -> (reason, module that holds it)
    for name, module in float_model.named_modules():
        layer = quantized_model.get_submodule(name)
        has_codes = isinstance(layer, QuantizedLayer) and layer.quantized_weight is not None
        for key, parameter in module._parameters.items():
            if parameter is None or not _is_weight(parameter):
                continue
            identity = _identity(parameter)
            sizes[identity] = parameter.numel()
            if has_codes and key == "weight":
                continue
            kind = type(module).__name__
            own = _NOT_WEIGHT if has_codes else _NO_LAYER
            reason = reasons.get(name) or own.format(kind=kind)
            floats.setdefault(identity, (reason, name))
    groups: dict[str, list[tuple[int, str, str]]] = {}
    for identity, (reason, name) in floats.items():
        alike = _NAME.sub(lambda found: _INDEX.sub("*", found[0]), reason)
        groups.setdefault(alike, []).append((sizes[identity], name, reason))
    left_out = [
        LeftOut(
            found[0][2] if len({reason for _, _, reason in found}) == 1 else alike,
            sum(size for size, _, _ in found),
            tuple(dict.fromkeys(name for _, name, _ in found)),
        )
        for alike, found in groups.items()
    ]
    total = sum(sizes.values())
    return Coverage(
        weights=total,
        on_codes=total - sum(group.weights for group in left_out),
        left_out=tuple(sorted(left_out, key=lambda group: -group.weights)),
    )


def _is_weight(parameter: nn.Parameter) -> bool:
    return (
        not isinstance(parameter, UninitializedParameter)
        and parameter.dim() >= 2
        and (parameter.is_floating_point() or parameter.is_complex())
    )


def _identity(tensor: Tensor) -> object:
    """Return a key that parameters share if they hold the same numbers in the same memory."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.numel()
