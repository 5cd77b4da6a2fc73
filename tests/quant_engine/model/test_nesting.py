"""What is looked into, and what stays the same object."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils import _pytree

from quant_engine.model.nesting import leaves, map_leaves, map_nested, nested_tensors

Pair = namedtuple("Pair", "first second")
X, Y = torch.zeros(2), torch.ones(3)


@dataclass(frozen=True)
class Output:
    """A dataclass as models return it, which may point at another one, or at itself."""

    logits: Any
    hidden: Any = None
    links: list[Any] = field(default_factory=list)


class Registered(OrderedDict):
    """A mapping that its library registers, as those of transformers are."""


_pytree.register_pytree_node(
    Registered,
    lambda value: (list(value.values()), list(value)),
    lambda values, keys: Registered(zip(keys, values, strict=True)),
)

CONTAINERS = {
    "list": [X, [Y, 1]],
    "tuple": (X, (Y, "a")),
    "named tuple": Pair(X, Pair(Y, 0)),
    "dict": {"a": X, 3: {"b": Y}},
    "ordered dict": OrderedDict(a=X, b=[Y]),
    "default dict": defaultdict(list, a=X, b=(Y,)),
    "dataclass": Output(X, Output([Y])),
    "registered": Registered(a=X, b=Output(Y)),
}


def doubled(value: object) -> object:
    return value * 2 if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", CONTAINERS)
def test_tensors_are_found_and_changed_in_every_container(name):
    value = CONTAINERS[name]
    assert [id(t) for t in nested_tensors(value)] == [id(X), id(Y)]
    changed = map_nested(value, doubled)
    assert type(changed) is type(value)
    assert [t.tolist() for t in nested_tensors(changed)] == [[0, 0], [2, 2, 2]]
    assert map_nested(value, lambda v: v) is value


def test_tensors_are_found_in_mappings_and_lists_of_other_kinds():
    class Own(list):
        pass

    assert list(map(id, nested_tensors([UserDict(a=X), Own([Y])]))) == [id(X), id(Y)]


def test_map_nested_rebuilds_only_what_changes() -> None:
    inner = [1, 2]
    value = {"a": inner, "b": (3, [4])}

    result = map_nested(value, lambda item: 40 if item == 4 else item)

    assert result == {"a": [1, 2], "b": (3, [40])}
    assert result["a"] is inner
    assert map_nested(value, lambda item: item) is value


def test_what_is_changed_is_not_looked_into():
    inner = [X]
    assert map_nested([inner, X], lambda v: Y if v is inner else v) == [Y, X]


def test_dataclasses_that_refer_to_themselves_end():
    value = Output(X)
    value.links.append(value)
    assert list(map(id, nested_tensors(value))) == [id(X)]
    changed = map_nested(value, doubled)
    assert changed is not value
    assert changed.logits is not X
    assert map_nested(Output, doubled) is Output


def test_leaves_are_what_lists_tuples_and_dictionaries_hold():
    value = Registered(a=X, b=[1, Output(Y)])
    assert leaves(value)[:2] == [X, 1]
    copied = map_leaves(value, lambda v: v)
    assert copied is not value
    assert (type(copied), copied["b"]) == (Registered, value["b"])
    assert copied["b"] is not value["b"]
