"""Contexts inside a forward: lowered where they change no number, and otherwise it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.execution.convert import convert_execution, execution_notes
from quant_engine.execution.lowering.lower import is_lowered
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((12, 8))


def coarse(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.matmul(x, x.transpose(0, 1))


def fine(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return torch.matmul(x, x.transpose(0, 1))


@torch.autocast("cpu", dtype=torch.bfloat16)
def decorated(x: Tensor) -> Tensor:
    return torch.matmul(x, x.transpose(0, 1))


@torch.enable_grad()
def forces(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_(True)
    energy = torch.tanh(y).square().sum()
    return torch.autograd.grad(energy, y)[0]


def forces_at_once(x: Tensor) -> Tensor:
    torch.set_grad_enabled(True)
    y = torch.tanh(x.detach().requires_grad_(True))
    torch.set_grad_enabled(False)
    return y.detach()


class Inside(nn.Module):
    """Two layers, and what the forward does between them."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(8, 8), nn.Linear(8, 4), middle

    def forward(self, x: Tensor) -> Any:
        return self.last(self.middle(self.first(x)).float()[:, :8])


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (coarse, "in a context of their own (autocast)"),
        (decorated, "in a context of their own (autocast)"),
        (forces, "could not be captured"),
        (fine, ""),
        (forces_at_once, ""),
    ],
)
def test_a_context_is_not_lost(middle: Callable[[Tensor], Tensor], reason: str) -> None:
    model = fill(Inside(middle))
    quantized = quantize_model(model, X)
    lowered = convert_execution(quantized, "simulated", lowered=True)

    assert is_lowered(lowered) is not bool(reason)
    assert reason in " ".join(execution_notes(lowered))
    for is_autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            assert torch.equal(lowered(X), quantized(X))


def test_a_model_with_a_context_is_timed() -> None:
    assert analyze(fill(Inside(forces)), X).timing is not None


@torch.no_grad()
def test_a_context_around_the_model_is_none_of_its_own() -> None:
    quantized = quantize_model(fill(Inside(torch.tanh)), X)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = convert_execution(quantized, "simulated", lowered=True)

    assert execution_notes(lowered) == ()
    torch.testing.assert_close(lowered(X), quantized(X))
