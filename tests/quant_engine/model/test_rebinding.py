"""A forward that was replaced on the instance runs the copy's layers, never the caller's."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    LogitResponse,
    Recipe,
    analyze,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
)
from quant_engine.execution.convert import convert_execution, execution_notes
from quant_engine.model.rebinding import Rebinder
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.oracles import nmse
from tests.quant_engine.unchanged import snapshot

X = seeded((10, 4, 3, 3))
DATA = [X]


class Block(nn.Module):
    """What is replaced: a convolution, a BatchNorm that must not move, and a second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Written(Block):
    """The block with that forward as its own."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.tanh(self.norm(self.first(x))))
        return y


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.head = block, nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(x).flatten(1))
        return y


def by_closure(net: Any) -> None:
    block = net.block
    block.forward = lambda x: block.second(torch.tanh(block.norm(block.first(x))))


def by_closure_over_layers(net: Any) -> None:
    first, norm, second = net.block.first, net.block.norm, net.block.second

    def forward(x: Tensor) -> Any:
        return second(torch.tanh(norm(first(x))))

    net.block.forward = forward


def by_defaults(net: Any) -> None:
    net.block.forward = lambda x, b=net.block: b.second(torch.tanh(b.norm(b.first(x))))


def by_keyword_defaults(net: Any) -> None:
    def forward(x: Tensor, *, layers: Any = (net.block.first, net.block.norm)) -> Any:
        for layer in layers:
            x = layer(x)
        return net.block.second(torch.tanh(x))

    net.block.forward = forward


def by_wrapping(net: Any) -> None:
    by_closure(net)
    old = net.block.forward

    @functools.wraps(old)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return old(*args, **kwargs) * 1.0

    net.block.forward = forward


def by_method(net: Any) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return self.second(torch.tanh(self.norm(self.first(x))))

    net.block.forward = types.MethodType(forward, net.block)


def by_method_that_holds_more(net: Any) -> None:
    norm = net.block.norm
    net.block.forward = types.MethodType(
        lambda self, x: self.second(torch.tanh(norm(self.first(x)))), net.block
    )


def by_partial(net: Any) -> None:
    def forward(block: Any, x: Tensor) -> Any:
        return block.second(torch.tanh(block.norm(block.first(x))))

    net.block.forward = functools.partial(forward, net.block)


def by_globals(net: Any) -> None:
    """As a notebook does it: the functions look the model up by its name, and each other."""
    notebook: dict[str, Any] = {"net": net, "torch": torch}
    exec(
        "def inner(x): return net.block.norm(net.block.first(x))\n"
        "net.block.forward = lambda x: net.block.second(torch.tanh(inner(x)))",
        notebook,
    )


def by_a_function_that_calls_itself(net: Any) -> None:
    layers = [net.block.first, net.block.norm]

    def run(x: Tensor, place: int = 0) -> Any:
        if place < len(layers):
            return run(layers[place](x), place + 1)
        return net.block.second(torch.tanh(x))

    net.block.forward = run


def by_hooks(net: Any) -> None:
    """The block does nothing; a hook that holds the caller's model does it all."""
    block = net.block
    block.forward = types.MethodType(lambda self, x: x, block)
    block.register_forward_pre_hook(lambda m, args: block.norm(block.first(args[0])))
    block.register_forward_hook(lambda m, args, y: block.second(torch.tanh(y)))


PATCHES = (
    by_closure,
    by_closure_over_layers,
    by_defaults,
    by_keyword_defaults,
    by_wrapping,
    by_method,
    by_method_that_holds_more,
    by_partial,
    by_globals,
    by_a_function_that_calls_itself,
    by_hooks,
)


def patched(patch: Callable[[Any], None]) -> tuple[nn.Module, nn.Module]:
    """Return a model in training mode whose block is patched, and one that is written so."""
    model, written = fill(Net(Block())), fill(Net(Written()))
    patch(model)
    model.train()
    return model, written


@pytest.mark.parametrize("patch", PATCHES)
@torch.no_grad()
def test_the_copys_layers_run(patch: Callable[[Any], None]) -> None:
    model, written = patched(patch)
    before = snapshot(model)
    recipe = Recipe.default().with_excluded("head")
    expected = quantize_model(written, DATA, recipe)

    quantized = quantize_model(model, DATA, recipe)
    report = analyze(model, DATA, recipe, measure_time=False)

    assert snapshot(model) == before
    step = (expected(X) - written(X)).abs().max()
    assert step > 0
    assert (quantized(X) - expected(X)).abs().max() <= 0.7 * step
    assert {e.name: e.calls for e in report.quantized_layers} == {
        "block.first": 1,
        "block.second": 1,
    }
    assert any("forward of 'block' was replaced" in note for note in report.notes)


@pytest.mark.parametrize("patch", [by_closure_over_layers, by_globals, by_hooks])
@torch.no_grad()
def test_every_measurement_leaves_the_callers_model_alone(
    patch: Callable[[Any], None], tmp_path: Any
) -> None:
    model, _ = patched(patch)
    before = snapshot(model)
    quantized = quantize_model(model, DATA)
    save_quantized_model(quantized, tmp_path)

    found = {e.name: e.nmse for e in measure_sensitivity(model, DATA).layers}
    response = LogitResponse.measure(model, DATA, agreement_configurations=2)
    loaded = load_quantized_model(model, tmp_path)
    lowered = convert_execution(quantized, "simulated", lowered=True)
    integer = convert_execution(quantized)

    assert snapshot(model) == before
    assert set(found) == set(response.layers) == {"block.first", "block.second", "head"}
    alone = quantize_model(model, DATA, Recipe.default().with_excluded("block.second", "head"))
    model.eval()
    assert found["block.first"] == pytest.approx(nmse(model(X), alone(X)), rel=1e-3)
    assert torch.equal(loaded(X), quantized(X))
    torch.testing.assert_close(integer(X), quantized(X), rtol=1e-3, atol=1e-3)
    if not execution_notes(lowered):
        torch.testing.assert_close(lowered(X), quantized(X), rtol=1e-2, atol=1e-2)


def test_functions_that_refer_to_nothing_else_are_left_alone() -> None:
    held = nn.Linear(2, 2)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    rebind = Rebinder({id(held): nn.Linear(2, 2)})

    assert rebind(by_closure) is by_closure
    assert rebind(even)(4)
    assert rebind(lambda: held)() is not held
