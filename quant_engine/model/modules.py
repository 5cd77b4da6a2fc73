"""Looking at and changing the tree of modules that a model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from quant_engine.model.nesting import map_nested
from quant_engine.model.rebinding import Rebinder

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_ADDED_BIAS = "has_added_bias"
_MODULE_STATE = frozenset({"_parameters", "_buffers", "_modules"})


def replace_modules(root: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """Put modules where those of the given names are, in place, and return the root.

    A module that is reachable by several names is replaced at all of them, and also in lists,
    tuples, dictionaries and functions that a module keeps as plain attributes or hooks.

    Args:
        root: The model.
        replacements: Dotted name -> what takes its place; "" is the root itself.

    Returns:
        `root`, or what replaced it.

    Raises:
        AttributeError: If no module has one of the names; nothing is replaced then.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> replace_modules(model, {"1": nn.Tanh()})
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): Tanh()
        )
    """
    if not replacements:
        return root
    olds = {name: root.get_submodule(name) for name in replacements}  # alive while ids are used
    new = {id(old): replacements[name] for name, old in olds.items()}
    for parent in list(root.modules()):
        for key, child in list(parent._modules.items()):
            if id(child) in new:
                parent.add_module(key, new[id(child)])
    rebind_attributes(root, new)
    return new.get(id(root), root)


def rebind_attributes(root: nn.Module, replaced: Mapping[int, Any]) -> None:
    """Exchange objects in what modules keep besides submodules, in place; also in functions.

    Args:
        root: A model; functions that its modules keep are their own `forward` and hooks too.
        replaced: id of an object -> what is meant instead. The objects must be alive.
    """
    rebind = Rebinder(replaced)
    for module in root.modules():
        for key, value in plain_attributes(module).items():
            if key in _HOOKS:
                for number, hook in value.items():
                    value[number] = rebind(hook)
            elif (changed := map_nested(value, rebind)) is not value:
                module.__dict__[key] = changed


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what `module` holds besides parameters, buffers and submodules."""
    return {key: value for key, value in vars(module).items() if key not in _MODULE_STATE}


def has_hooks(module: nn.Module) -> bool:
    """Whether the caller registered forward hooks or pre-hooks on the module."""
    return any(getattr(module, name, None) for name in _HOOKS)


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the forward hooks and pre-hooks of `source`, besides its own."""
    for name in _HOOKS:
        getattr(target, name).update(getattr(source, name))


def has_own_forward(module: nn.Module) -> bool:
    """Whether `forward` was replaced on this very instance, so that its type says nothing."""
    return "forward" in vars(module)


def named_parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that the module itself holds, not those of its submodules."""
    return {name: value for name, value in module._parameters.items() if value is not None}


def add_bias(module: nn.Module, bias: Tensor) -> None:
    """Give a layer that has no bias one, and remember that it had none."""
    module.bias = nn.Parameter(bias, requires_grad=False)
    vars(module)[_ADDED_BIAS] = True


def has_added_bias(module: nn.Module) -> bool:
    """Whether a layer got its bias by `add_bias`."""
    return bool(vars(module).get(_ADDED_BIAS, False))


def count_parameter_uses(model: nn.Module) -> Mapping[int, int]:
    """Return id of a parameter -> number of different modules that hold it."""
    return Counter(
        identity
        for module in model.modules()
        for identity in {id(value) for value in named_parameters_of(module).values()}
    )


def names_that_share(held: Mapping[str, object]) -> frozenset[str]:
    """Return the names that hold the very same object as another one.

    Example:
        >>> weight = [1.0]
        >>> sorted(names_that_share({"a": weight, "b": [1.0], "c": weight}))
        ['a', 'c']
    """
    holders = Counter(map(id, held.values()))
    return frozenset(name for name, value in held.items() if holders[id(value)] > 1)


def names_of_modules(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Return id of a module -> all its dotted names, the first one first."""
    names: dict[int, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[id(module)] = (*names.get(id(module), ()), name)
    return names


class StandIn(nn.Module):
    """Stands in the place of a layer; what is inside it bears the layer's name in messages."""


def visible_names(model: nn.Module) -> dict[int, str]:
    """Return id of a module -> its dotted name, the first of several.

    What is inside a stand-in has the name of the layer whose place it takes.
    """
    names: dict[int, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if id(module) in names:
            return
        names[id(module)] = name
        for key, child in module.named_children():
            inner = f"{name}.{key}" if name else key
            visit(child, name if isinstance(module, StandIn) else inner)

    visit(model, "")
    return names
