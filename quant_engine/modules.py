"""Looking at and changing the tree of modules that a model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_MODULE_STATE = frozenset({"_parameters", "_buffers", "_modules"})


def replace_module(root: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put `new` where the module called `name` is, in place, and return the root.

    A module that is reachable by several names is replaced at all of them, and also in lists,
    tuples and dictionaries that a module keeps as plain attributes.

    Args:
        root: The model.
        name: Dotted name; "" is the root itself.
        new: What takes its place.

    Returns:
        `root`, or `new` if the root itself was replaced.

    Raises:
        AttributeError: If no module has that name.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> replace_module(model, "1", nn.Tanh())
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): Tanh()
        )
    """
    if not name:
        return new
    old = root.get_submodule(name)

    def swapped(value: object) -> object:
        return new if value is old else value

    for parent in list(root.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent.add_module(key, new)
        for key, value in plain_attributes(parent).items():
            changed = map_nested(value, swapped)
            if changed is not value:
                parent.__dict__[key] = changed
    return root


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what `module` holds besides parameters, buffers and submodules."""
    return {key: value for key, value in vars(module).items() if key not in _MODULE_STATE}


def map_nested(value: Any, change: Callable[[object], object]) -> Any:
    """Apply `change` to a value and to all that lists, tuples and dictionaries in it hold.

    A container is rebuilt only if something in it changed; otherwise it is returned as it is.

    Example:
        >>> map_nested([1, (2, {"a": 3})], lambda v: -3 if v == 3 else v)
        [1, (2, {'a': -3})]
    """
    changed = change(value)
    if changed is not value:
        return changed
    if type(value) is dict:
        items = {key: map_nested(item, change) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) is list or type(value) is tuple:
        entries = [map_nested(item, change) for item in value]
        is_same = all(new is old for new, old in zip(entries, value, strict=True))
        return value if is_same else type(value)(entries)
    return value


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


def count_parameter_uses(model: nn.Module) -> Mapping[int, int]:
    """Return id of a parameter -> number of different modules that hold it."""
    return Counter(
        identity
        for module in model.modules()
        for identity in {id(value) for value in named_parameters_of(module).values()}
    )


def names_of_modules(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Return id of a module -> all its dotted names, the first one first."""
    names: dict[int, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[id(module)] = (*names.get(id(module), ()), name)
    return names


def nested_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, and in lists, tuples and dictionaries within it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from nested_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from nested_tensors(item)
