"""A lowered model takes the arguments that its model takes: other ones lower it again."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import quantize_model
from quant_engine.execution.convert import convert_execution, execution_notes
from quant_engine.execution.lowering.lower import LoweredModel, is_lowered
from tests.quant_engine.layer_cases import fill, seeded

X, MASK = seeded((3, 6)), torch.ones(3, 5)


class Choosy(nn.Module):
    """Goes another way for nearly every argument."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        times: int = 1,
        *others: Tensor,
        size: tuple[int, int] = (1, 2),
        has_features: bool = False,
        **named: Tensor,
    ) -> Tensor:
        y = F.relu(self.first(x)) * times
        y = y if mask is None else y * mask
        for other in (*others, *named.values()):
            y = y + other
        return y if has_features else self.last(y) * size[0]


def copies(model: nn.Module) -> list[nn.Module]:
    """The model and copies of it, which share its graphs."""
    return [model, copy.deepcopy(model), convert_execution(model)]


def unpickled(model: nn.Module) -> nn.Module:
    """One that captures graphs of its own."""
    loaded: nn.Module = pickle.loads(pickle.dumps(model))  # noqa: S301
    return loaded


@pytest.fixture(scope="module")
def quantized() -> nn.Module:
    return quantize_model(fill(Choosy()), X)


@pytest.fixture(scope="module")
def lowered(quantized: nn.Module) -> nn.Module:
    result = convert_execution(quantized, "simulated", lowered=True)
    assert is_lowered(result)
    return result


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((X,), {}),
        ((X, None, 1), {}),
        ((), {"x": X}),
        ((X,), {"mask": None, "has_features": False, "size": (1, 2)}),
    ],
)
@torch.no_grad()
def test_arguments_at_their_defaults_may_be_given(
    quantized: nn.Module, lowered: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for model in copies(lowered):
        torch.testing.assert_close(model(*args, **kwargs), quantized(*args, **kwargs))


OTHERS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((X, MASK), {}),
    ((X,), {"mask": MASK}),
    ((X, None, 2), {}),
    ((X, None, 2.0), {}),
    ((X, None, 1, MASK, MASK), {}),
    ((X,), {"size": (2, 2)}),
    ((X,), {"another": MASK}),
    ((torch.cat([X, X]), MASK[:1]), {}),
    ((X[:1], MASK[:1]), {}),
    ((seeded((2, 4, 6)),), {}),
]


@torch.no_grad()
def test_other_values_lower_it_again(quantized: nn.Module, lowered: nn.Module) -> None:
    for args, kwargs in (*OTHERS, *reversed(OTHERS)):
        torch.testing.assert_close(lowered(*args, **kwargs), quantized(*args, **kwargs))
    assert "more than 8 kinds" in execution_notes(lowered)[0]
    for model in (*copies(lowered), unpickled(lowered)):
        torch.testing.assert_close(model(X, MASK), quantized(X, MASK))


@torch.no_grad()
def test_lengths_that_change_lower_it_once_more_and_then_stay_free() -> None:
    model = fill(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    quantized = quantize_model(model, seeded((4, 7, 6)))
    lowered = convert_execution(quantized, "simulated", lowered=True)
    for shape in ((4, 7, 6), (2, 7, 6), (1, 7, 6), (4, 9, 6), (3, 11, 6), (1, 1, 6)):
        x = seeded(shape)
        torch.testing.assert_close(lowered(x), quantized(x))

    assert isinstance(lowered, LoweredModel)
    assert len(lowered._programs) == 2
    assert execution_notes(lowered) == ()


class Batched(nn.Module):
    """Asks for the number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).squeeze()
        y = self.last(y if len(x) > 1 else -y)
        return y if x.shape[0] < 5 else 2 * y


@torch.no_grad()
def test_a_graph_stands_only_for_the_sizes_that_take_its_way() -> None:
    quantized = quantize_model(fill(Batched()), seeded((3, 6)))
    lowered = convert_execution(quantized, "simulated", lowered=True)
    for samples in (3, 4, 1, 5, 9, 2):
        x = seeded((samples, 6), seed=samples)
        torch.testing.assert_close(lowered(x), quantized(x))


class Activating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor, activation: Any = F.relu) -> Tensor:
        return activation(self.layer(x))


@torch.no_grad()
def test_a_function_may_be_an_argument_and_an_object_may_not() -> None:
    quantized = quantize_model(fill(Activating()), X)
    lowered = convert_execution(quantized, "simulated", lowered=True)
    for activation in (F.relu, torch.tanh):
        assert torch.equal(lowered(X, activation), quantized(X, activation))
    assert execution_notes(lowered) == ()

    assert torch.equal(lowered(X, nn.Tanh()), quantized(X, nn.Tanh()))
    assert "An argument is a Tanh" in execution_notes(lowered)[0]


class Assigning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(3, 6)
        y.data = x
        z: Tensor = self.layer(y)
        return z


@torch.no_grad()
def test_what_a_graph_does_not_show_is_found_out_on_data() -> None:
    quantized = quantize_model(fill(Assigning()), X)
    lowered = convert_execution(quantized, "simulated", lowered=True)

    assert torch.equal(lowered(X), quantized(X))
    assert "gives other numbers than the model" in execution_notes(lowered)[0]
