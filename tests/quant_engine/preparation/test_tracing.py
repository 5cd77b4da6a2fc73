"""What a forward does to its values in Python is in its graph, or the graph is given up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.dlpack
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quant_engine import quantize_model
from quant_engine.execution.convert import convert_execution, execution_notes
from quant_engine.execution.lowering.lower import is_lowered
from quant_engine.preparation.folding_check import prepare_for
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((5, 3, 6))

Question = Callable[[Any, Tensor, Tensor], bool]


QUESTIONS: dict[str, Question] = {
    "has it logits": lambda m, x, y: hasattr(y, "logits"),
    "has it a shape": lambda m, x, y: hasattr(y, "shape"),
    "what are its logits": lambda m, x, y: getattr(y, "logits", None) is None,
    "is a layer's output a tensor": lambda m, x, y: isinstance(y, Tensor),
    "is it a tensor, as torch asks": lambda m, x, y: torch.is_tensor(y),
    "is it a mapping": lambda m, x, y: isinstance(y, Mapping),
    "is it a parameter": lambda m, x, y: isinstance(y, nn.Parameter),
    "is the input a list": lambda m, x, y: isinstance(x, list),
    "is a size a number": lambda m, x, y: isinstance(y.shape[-1], int),
    "is a shape a tuple": lambda m, x, y: isinstance(y.shape, tuple),
    "are parts a tuple": lambda m, x, y: isinstance(y.chunk(2), tuple),
    "are an LSTM's outputs a tuple": lambda m, x, y: isinstance(m.memory(y), tuple),
}


class Asking(nn.Module):
    """Each question about a layer's output decides what is added; no two sums are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.memory = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z: Tensor = self.last(y)
        for number, question in enumerate(QUESTIONS.values()):
            if question(self, x, y):
                z = z + 2.0**number
        return z


@torch.no_grad()
def test_questions_are_answered_as_for_a_tensor() -> None:
    model = fill(Asking())
    quantized = quantize_model(model, X)
    lowered = convert_execution(quantized, "simulated", lowered=True)

    torch.testing.assert_close(lowered(X), quantized(X))
    assert is_lowered(lowered)
    assert execution_notes(lowered) == ()  # once it ran: a graph of other answers is given up


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def scripted(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


def replaced(write: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor], Tensor]:
    """Write a value into a new tensor by means that torch has for its own tensors only."""

    def run(x: Tensor) -> Tensor:
        y = torch.ones(3, 6, 2, 2)
        write(y, x)
        return y

    return run


def given_other_data(x: Tensor) -> Tensor:
    y = x.clone()
    y.data = x * 2
    return y


BELOW_PYTHON: dict[str, Callable[[Any], Any]] = {
    "autograd.Function": Reverse.apply,
    "scripted": lambda x: scripted(swish)(x),
    "as_tensor": torch.as_tensor,
    "tensor": lambda x: x + torch.tensor(x[0, 0, 0].tolist()),  # a number of its own for each
    "reentrant checkpoint": lambda x: checkpoint(torch.tanh, x, use_reentrant=True),
    "checkpoint": lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
    "nested": lambda x: torch.nested.to_padded_tensor(torch.nested.nested_tensor([x]), 0.0)[0],
    "y.data = x": replaced(lambda y, x: setattr(y, "data", x)),
    "x.data = y": given_other_data,
    "set_": replaced(lambda y, x: y.set_(x)),
    "copy_": replaced(lambda y, x: y.copy_(x)),
    "y[:] = x": replaced(lambda y, x: y.__setitem__(slice(None), x)),
    "out=": replaced(lambda y, x: torch.tanh(x, out=y)),
    "Parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "DLPack": lambda x: torch.utils.dlpack.from_dlpack(x),
    "numpy": lambda x: torch.from_numpy(np.asarray(x)),
    "vmap": torch.vmap(torch.tanh),
    "func.grad": lambda x: torch.func.grad(lambda v: v.square().sum())(x),
    "custom operator": lambda x: torch.ops.aten.tanh.default(x),
    "sparse": lambda x: x.to_sparse().to_dense(),
    "subclass": lambda x: x.as_subclass(Tensor),
    "legacy constructor": lambda x: torch.Tensor(x),
}


class Reading(nn.Module):
    """Hands a value to torch below Python between a BatchNorm and a layer."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last, self.read = nn.Linear(24, 4), read

    def forward(self, x: Tensor) -> Tensor:
        y = self.read(self.norm(self.convolution(x)))
        z: Tensor = self.last(torch.flatten(y, 1))
        return z


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:.*nested tensors:UserWarning",
    "ignore:None of the inputs have requires_grad:UserWarning",
)
@pytest.mark.parametrize("read", BELOW_PYTHON.values(), ids=BELOW_PYTHON)
def test_what_torch_reads_below_python_does_not_end_the_process(
    read: Callable[[Any], Any],
) -> None:
    images = seeded((3, 3, 4, 4))
    model = fill(Reading(read))
    with torch.no_grad():
        quantized = quantize_model(model, images)
        lowered = convert_execution(quantized, "simulated", lowered=True)
        prepared = prepare_for(model, images)[0].model
        expected = model(images)

        torch.testing.assert_close(prepared(images), expected, rtol=1e-4, atol=1e-4)
        if execution_notes(lowered):
            assert torch.equal(lowered(images), quantized(images))
        else:
            step = (quantized(images) - expected).abs().max()
            assert (lowered(images) - quantized(images)).abs().max() <= step
