"""Replacing modules in the tree, and reading it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quant_engine.model.modules import (
    copy_hooks,
    count_parameter_uses,
    has_hooks,
    has_own_forward,
    named_parameters_of,
    names_of_modules,
    replace_modules,
)


class Listed(nn.Module):
    """Keeps its layers in plain containers too, and runs those."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.order = [("a", self.first), ("b", self.second)]
        self.by_name = {"head": (self.second,)}
        object.__setattr__(self, "shortcut", self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _, layer in self.order:
            x = layer(x)
        return self.by_name["head"][0](self.shortcut(x))


def test_nested_name() -> None:
    model = nn.Sequential(nn.ModuleDict({"deep": nn.Sequential(nn.Linear(2, 2))}))
    new = nn.Identity()

    assert replace_modules(model, {"0.deep.0": new}) is model

    assert model[0]["deep"][0] is new


def test_the_root() -> None:
    new = nn.Identity()

    assert replace_modules(nn.Linear(2, 2), {"": new}) is new


def test_all_names_of_a_shared_module() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    new = nn.Identity()

    replace_modules(model, {"0": new})

    assert model[0] is model[2][0] is new


def test_plain_containers_and_attributes_are_followed() -> None:
    model = Listed()
    first, second = nn.Identity(), nn.Identity()

    replace_modules(replace_modules(model, {"first": first}), {"second": second})

    x = torch.ones(1, 2)
    assert torch.equal(model(x), x)
    assert model.shortcut is first


def test_other_modules_stay_where_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other = model[1]

    replace_modules(model, {"0": nn.Identity()})

    assert model[1] is other
    assert len(model) == 2


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        replace_modules(nn.Sequential(nn.ReLU()), {"nowhere": nn.Identity()})


def test_hooks_are_copied_with_their_options() -> None:
    source, target = nn.Identity(), nn.Identity()
    calls: list[object] = []
    source.register_forward_hook(lambda m, a, k, o: calls.append(k), with_kwargs=True)
    source.register_forward_pre_hook(lambda m, a: calls.append("before"))
    assert not has_hooks(target)

    copy_hooks(source, target)
    target(torch.ones(1))

    assert has_hooks(target)
    assert calls == ["before", {}]
    target.register_forward_hook(lambda *_: None)
    assert len(source._forward_hooks) == 1


def test_own_forward() -> None:
    module = nn.Linear(2, 2)
    assert not has_own_forward(module)

    module.forward = lambda x: x  # type: ignore[method-assign]

    assert has_own_forward(module)


def test_parameters_and_their_uses() -> None:
    table, head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    head.weight = table.weight
    model = nn.Sequential(table, nn.ReLU(), head, head)

    assert named_parameters_of(head) == {"weight": table.weight}
    assert named_parameters_of(model) == {}
    assert count_parameter_uses(model) == {id(table.weight): 2}


def test_names() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(shared, nn.Sequential(shared))

    assert list(names_of_modules(model).values()) == [("",), ("0", "1.0"), ("1",)]
