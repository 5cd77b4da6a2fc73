"""A lowered model takes the arguments that its model takes, or says that it cannot."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import quantize_model
from quant_engine.errors import DataError
from quant_engine.execution.convert import convert_execution, execution_notes
from quant_engine.execution.lowering import is_lowered
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


def copies(model: nn.Module) -> dict[str, nn.Module]:
    return {
        "itself": model,
        "a deep copy": copy.deepcopy(model),
        "unpickled": pickle.loads(pickle.dumps(model)),  # noqa: S301
        "on integers": convert_execution(model),
    }


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
    for model in copies(lowered).values():
        torch.testing.assert_close(model(*args, **kwargs), quantized(*args, **kwargs))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, MASK), {}, "mask=None"),
        ((X,), {"mask": MASK}, "mask=None"),
        ((X, None, 2), {}, "times=1"),
        ((X, None, 1, MASK), {}, "others="),
        ((X,), {"size": (2, 2)}, "size="),
        ((X,), {"has_features": True}, "has_features=False"),
        ((X,), {"another": MASK}, "named="),
    ],
)
@torch.no_grad()
def test_other_values_are_refused(
    quantized: nn.Module,
    lowered: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    message: str,
) -> None:
    assert quantized(*args, **kwargs) is not None
    for name, model in copies(lowered).items():
        # Unpickling, torch names an argument after *others wrongly; it is refused all the same.
        with pytest.raises(DataError, match=None if name == "unpickled" else message) as error:
            model(*args, **kwargs)
        assert "convert_execution(model)" in str(error.value)


class Activating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor, activation: Any = F.relu) -> Tensor:
        return activation(self.layer(x))


def test_a_default_that_a_graph_cannot_hold_leaves_the_model_as_it_is() -> None:
    quantized = quantize_model(fill(Activating()), X)
    kept = convert_execution(quantized, lowered=True)
    assert "argument 'activation'" in execution_notes(kept)[0]
    assert kept(X, torch.tanh).shape == (3, 2)
