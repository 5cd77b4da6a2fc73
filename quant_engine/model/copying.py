"""A private copy of the caller's model, in eval mode, with plain weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from quant_engine.errors import UnsupportedLayerError
from quant_engine.model.modules import has_own_forward, plain_attributes, rebind_attributes
from quant_engine.model.nesting import map_nested, nested_tensors

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "OptimizedModule"  # what torch.compile returns; importing its module is slow


def copy_model(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Copy a model and set the copy to eval mode.

    Wrappers (DataParallel, torch.compile) are taken off. Tensors that hang in an autograd graph,
    such as an activation a module remembers, are copied without it.

    Returns:
        The copy, and notes on what was done besides copying.

    Raises:
        UnsupportedLayerError: If the model is not a module or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedLayerError(
            f"The model is a {type(model).__name__}. Give an nn.Module instance."
        )
    notes = []
    while (inner := _wrapped(model)) is not None:
        notes.append(f"The model was taken out of its {type(model).__name__} wrapper.")
        model = inner
    try:
        result = copy_module(model, {id(t): t.detach().clone() for t in _graph_tensors(model)})
    except Exception as error:
        raise UnsupportedLayerError(
            f"The model {type(model).__name__} cannot be copied: {type(error).__name__}: {error} "
            "Remove from it what copy.deepcopy cannot copy, such as locks and open files."
        ) from error
    notes += [
        f"The forward of {name!r} was replaced on the instance; its copy runs the copy's layers."
        for name, module in result.named_modules()
        if has_own_forward(module)
    ]
    result.eval()  # not what it returns: an `eval` or `train` of the model's own may return nothing
    return result, notes


def copy_module(module: nn.Module, copies: Mapping[int, Any] | None = None) -> nn.Module:
    """Deep-copy a module; functions that it keeps run the copy's layers, not the module's.

    Compiled functions (`torch.jit.script`) that it keeps are shared.

    Args:
        module: It is not changed.
        copies: id of an object in it -> what stands for that in the copy.
    """
    memo = dict(copies or {})
    try:
        result = copy.deepcopy(module, memo)
    except Exception:
        compiled = _compiled_functions(module)
        if not compiled:
            raise
        memo = compiled | dict(copies or {})
        result = copy.deepcopy(module, memo)
    rebind_attributes(result, memo)
    return result


def _compiled_functions(module: nn.Module) -> dict[int, Any]:
    """Return by id what a module keeps that deepcopy refuses, and that holds nothing to copy."""
    found: dict[int, Any] = {}

    def note(value: object) -> object:
        if isinstance(value, torch.jit.ScriptFunction):
            found[id(value)] = value
        return value

    for part in module.modules():
        map_nested(plain_attributes(part), note)
    return found


def share_tensors(model: nn.Module) -> nn.Module:
    """Copy the modules of a model but share its parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy_module(model, shared)


def share_parameters(model: nn.Module) -> nn.Module:
    """Copy the modules and buffers of a model, whose forward may change them, but no parameters."""
    return copy_module(model, {id(parameter): parameter for parameter in model.parameters()})


def materialize_weights(model: nn.Module) -> list[str]:
    """Turn recomputed weights into plain ones: weight_norm, spectral_norm, pruning and the like.

    In eval mode they are constants, so the output stays as it is.

    Returns:
        One note for each weight.
    """
    notes = []
    for name, module in list(model.named_modules()):
        label = name or "the model"
        for tensor in _remove_parametrizations(module):
            notes.append(f"{label}: the parametrized {tensor} was computed once and stored.")
        for tensor, how in _remove_weight_hooks(module):
            notes.append(f"{label}: the {tensor} under {how} was computed once and stored.")
    return notes


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, _WRAPPERS):
        return cast(nn.Module, model.module)
    if type(model).__name__ == _COMPILED:
        return cast(nn.Module, model._orig_mod)
    return None


def _graph_tensors(model: nn.Module) -> list[Tensor]:
    """Return the tensors that deepcopy refuses: results of a computation with gradients."""
    return [
        tensor
        for module in model.modules()
        for value in (*plain_attributes(module).values(), *module._buffers.values())
        for tensor in nested_tensors(value)
        if not tensor.is_leaf
    ]


def _remove_parametrizations(module: nn.Module) -> list[str]:
    """Turn parametrized tensors into plain ones.

    torch's own `remove_parametrizations` is no help: it takes the properties off the class, which
    the copy shares with the caller's module.
    """
    if not parametrize.is_parametrized(module):
        return []
    lists = cast(nn.ModuleDict, module.parametrizations)
    with torch.no_grad():
        values = {name: cast(Tensor, getattr(module, name)).clone() for name in lists}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, originals in lists.items():
        parameters = list(originals.parameters(recurse=False))
        if parameters:
            is_trained = any(parameter.requires_grad for parameter in parameters)
            module.register_parameter(name, nn.Parameter(values[name], is_trained))
        else:
            module.register_buffer(name, values[name])
    return list(values)


def _remove_weight_hooks(module: nn.Module) -> list[tuple[str, str]]:
    removed = []
    with torch.no_grad():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
                removed.append((hook.name, "weight_norm"))
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                removed.append((hook.name, "spectral_norm"))
            elif isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                prune.remove(module, name)  # type: ignore[no-untyped-call]
                removed.append((name, "pruning"))
    return removed
