"""Functions that refer to a module, made to refer to its copy or its replacement instead.

`copy.deepcopy` hands functions on as they are: one that stands in the place of `forward`, or is a
hook, would go on running the very modules that it was written for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from quant_engine.model.nesting import map_nested


class Rebinder:
    """Exchanges objects, and functions that refer to them for functions that do so no more.

    What a function refers to is looked up in its closure, its defaults and the globals that it
    names, functions of its own file among them.

    Args:
        replaced: id of an object -> what is meant instead. The objects must be alive.
    """

    def __init__(self, replaced: Mapping[int, Any]) -> None:
        self._replaced = replaced
        self._functions: dict[int, FunctionType] = {}
        self._scopes: dict[int, dict[str, Any]] = {}

    def __call__(self, value: Any) -> Any:
        """Return what stands for a value; it itself if it refers to nothing that was replaced."""
        if id(value) in self._replaced:
            return self._replaced[id(value)]
        kind = type(value)
        if kind is FunctionType:
            return self._function(value)
        if kind is MethodType:
            return self._method(value)
        if kind is partial:
            parts = (value.func, value.args, value.keywords)
            function, args, keywords = map_nested(parts, self)
            is_same = function is value.func and args is value.args and keywords is value.keywords
            return value if is_same else partial(function, *args, **keywords)
        return value

    def _method(self, method: MethodType) -> Any:
        owner, function = self(method.__self__), self(method.__func__)
        if owner is method.__self__ and function is method.__func__:
            return method
        if type(owner) is not type(method.__self__):
            return getattr(owner, method.__func__.__name__)
        return MethodType(function, owner)

    def _function(self, function: FunctionType) -> FunctionType:
        if id(function) in self._functions:
            return self._functions[id(function)]
        known = {name: function.__globals__.get(name) for name in _names_in(function.__code__)}
        known = {key: value for key, value in known.items() if self._may_change(value, function)}
        scope = function.__globals__
        if known:  # functions of a file go on sharing their globals
            scope = self._scopes.setdefault(id(scope), {**scope})
        cells = tuple(CellType() for _ in function.__closure__ or ())
        result = FunctionType(function.__code__, scope, function.__name__, None, cells or None)
        self._functions[id(function)] = result  # a function may refer to itself
        old = [known, function.__defaults__, function.__kwdefaults__]
        new = [map_nested(value, self) for value in old]
        for cell, new_cell in zip(function.__closure__ or (), cells, strict=True):
            try:
                old.append(cell.cell_contents)
            except ValueError:
                continue  # the variable has no value yet
            new.append(map_nested(old[-1], self))
            new_cell.cell_contents = new[-1]
        if all(n is o or n is result for n, o in zip(new, old, strict=True)):
            self._functions[id(function)] = function
            return function
        scope.update(new[0])
        result.__defaults__, result.__kwdefaults__ = new[1:3]
        result.__dict__.update(function.__dict__)
        result.__module__, result.__qualname__ = function.__module__, function.__qualname__
        return result

    def _may_change(self, value: Any, function: FunctionType) -> bool:
        """Whether a global may refer to what was replaced; libraries do not."""
        is_neighbour = type(value) is FunctionType and value.__globals__ is function.__globals__
        return is_neighbour or id(value) in self._replaced


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that code and the functions defined in it look up in modules."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
