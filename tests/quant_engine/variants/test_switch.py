"""Modules that stand where a layer was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from quant_engine.errors import ModelForwardError
from quant_engine.model.batches import Batch
from quant_engine.model.forward import run_model
from quant_engine.model.modules import visible_names
from quant_engine.variants.switch import Switch


def make_switch() -> Switch:
    return Switch(nn.Linear(4, 3), {"other": nn.Linear(4, 3), "plain": nn.Identity()})


def test_a_switch_answers_as_the_chosen_form() -> None:
    switch, x = make_switch(), torch.ones(2, 4)
    other = switch.get_submodule("form_0")
    before = switch(x)

    switch.choose("other")

    assert torch.equal(switch(x), other(x))
    assert switch.weight is other.weight
    switch.choose(None)
    assert torch.equal(switch(x), before)
    assert switch.weight is switch.float_layer.weight


def test_what_only_the_float_layer_has_is_answered_by_it() -> None:
    switch = make_switch()
    switch.choose("plain")

    assert switch.out_features == 3
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = switch.no_such_name


def test_who_listens_is_told_of_tensors_that_are_read() -> None:
    switch, told = make_switch(), list[nn.Module]()
    switch.on_read = told.append

    _ = switch.in_features, switch(torch.ones(2, 4))
    assert told == []
    _ = switch.bias
    assert told == [switch]


def test_a_copy_is_a_switch_of_its_own() -> None:
    switch = make_switch()
    twin = copy.deepcopy(switch)
    twin.choose("other")

    assert torch.equal(twin.weight, switch.get_submodule("form_0").weight)
    assert torch.equal(switch.weight, switch.float_layer.weight)


@pytest.mark.parametrize("form", [None, "other"])
def test_messages_know_the_layer_and_not_the_switch(form: str | None) -> None:
    switch = make_switch()
    switch.choose(form)
    model = nn.Sequential(nn.ReLU(), nn.Sequential(switch))

    with pytest.raises(ModelForwardError, match=r"in layer '1\.0' \(Linear\)"):
        run_model(model, Batch((torch.ones(2, 5),), samples=2))


def test_names_of_a_plain_model_are_those_of_torch() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.Tanh())

    assert visible_names(model) == {id(module): name for name, module in model.named_modules()}
