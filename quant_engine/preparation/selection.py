"""Which layers a model has, and which of them can be quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from quant_engine.layers import QuantizedLayer, is_quantizable, list_quantizable_types
from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.layers.functional_weight import held_weights
from quant_engine.model.modules import (
    count_parameter_uses,
    has_own_forward,
    named_parameters_of,
    names_of_modules,
)
from quant_engine.preparation.prepared_model import reads_children_directly


@dataclass(frozen=True, slots=True, eq=False)
class LayerInfo:
    """One layer of a model.

    Attributes:
        name: Dotted name, the first one if there are several; "" for the model itself.
        module: The layer.
        is_quantizable: Whether it has a quantized form.
        reason: Why not; empty if it has.
        aliases: Further names of the same module.
    """

    name: str
    module: nn.Module
    is_quantizable: bool
    reason: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the layer's type."""
        return type(self.module).__name__


def list_layers(model: nn.Module) -> tuple[LayerInfo, ...]:
    """List every module that holds weights itself, in the order of `named_modules`.

    Args:
        model: A model, best the one that `prepare` returns.

    Returns:
        One entry per module, even if it has several names.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
        >>> [(layer.name, layer.is_quantizable) for layer in list_layers(model)]
        [('0', True), ('1', False)]
        >>> list_layers(model)[1].reason
        'LayerNorm has no integer form in this engine; it stays float.'
    """
    uses = count_parameter_uses(model)
    owners = {
        id(child): parent
        for parent in model.modules()
        if reads_children_directly(parent)
        for child in parent.modules()
        if child is not parent
    }
    modules = dict(model.named_modules())
    layers = []
    for name, *aliases in names_of_modules(model).values():
        module = modules[name]
        is_layer = is_quantizable(module) or isinstance(module, QuantizedLayer)
        if not (is_layer or named_parameters_of(module)):
            continue
        reason = _reason(module, owners.get(id(module)), uses)
        layers.append(LayerInfo(name, module, not reason, reason, tuple(aliases)))
    return tuple(layers)


def _reason(module: nn.Module, owner: nn.Module | None, uses: Mapping[int, int]) -> str:
    """Return why the module stays float, or "" if it can be quantized."""
    if owner is not None and isinstance(module, tuple(list_quantizable_types())):
        return (
            f"It is part of a {type(owner).__name__} that could not be taken apart and that may "
            "read the weight directly, so codes would be passed by."
        )
    if not is_quantizable(module):
        return _reason_of_type(module)
    if has_own_forward(module):
        return "Its forward was replaced on this instance, so what it computes is not known."
    return _reason_of_weight(module, uses)


def _reason_of_type(module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, QuantizedLayer):
        return "It is a quantized layer of this engine already."
    if isinstance(module, torch.jit.ScriptModule):
        return "It was compiled by TorchScript and cannot be taken apart. Use the Python model."
    if type(module) is nn.Module:
        return (
            "It is part of a program of torch.export, whose operations read its parameters "
            "directly. Quantize the Python model, then export that."
        )
    if any(isinstance(value, UninitializedParameter) for value in module.parameters()):
        return f"{kind} has no weights yet. Run the model once before quantizing it."
    if isinstance(module, SplitMultiheadAttention):
        return "Its learned extra key and value (bias_k, bias_v) stay float."
    for known in list_quantizable_types():
        if isinstance(module, known):
            return f"{kind} is a subclass of {known.__name__} and may compute something else."
    if held := held_weights(module):
        rest = ", ".join(named_parameters_of(module)) or "all else"
        return (
            f"{', '.join(held)} can be quantized weight-only; {rest} and what {kind} computes "
            "with them stay float."
        )
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return f"{kind} feeds its output back into itself, which has no integer form here."
    if isinstance(module, nn.MultiheadAttention):
        return f"{kind} could not be split into plain Linears; it stays float."
    if type(module).__module__.startswith("torch.nn."):
        return f"{kind} has no integer form in this engine; it stays float."
    names = ", ".join(named_parameters_of(module))
    return f"{kind} is a custom module and uses its own parameters ({names}) in ways not known."


def _reason_of_weight(module: nn.Module, uses: Mapping[int, int]) -> str:
    weight = named_parameters_of(module).get("weight")
    if weight is None:
        return "Its weight is computed before every call, so codes would be overwritten."
    if type(weight.data) is not torch.Tensor or weight.layout != torch.strided:
        return f"Its weight is a special tensor ({type(weight.data).__name__}, {weight.layout})."
    if not weight.is_floating_point():
        return f"Its weight holds {weight.dtype} values; only real float weights can be quantized."
    if weight.is_meta:
        return "Its weight is on the meta device and has no values."
    if weight.numel() == 0:
        return f"Its weight has shape {tuple(weight.shape)} and so no values."
    if getattr(module, "max_norm", None) is not None and uses[id(weight)] > 1:
        return "Its max_norm changes, in forward, a weight that it shares with another layer."
    return ""
