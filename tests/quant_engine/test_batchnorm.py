"""Folding a BatchNorm changes nothing but rounding, and happens only where that holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine.batchnorm import can_fold, fold_batchnorm
from quant_engine.modules import count_parameter_uses
from tests.quant_engine.layer_cases import fill, seeded


def foldable(convolution: nn.Module, batchnorm: nn.Module, *others: nn.Module) -> bool:
    uses = count_parameter_uses(nn.ModuleList([convolution, batchnorm, *others]))
    return can_fold(convolution, batchnorm, uses)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[nn.Module, nn.Module, Tensor]:
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    arguments: dict[str, Any] = {
        "in_channels": inputs,
        "out_channels": outputs,
        "kernel_size": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    kind = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d]))
    if kind is nn.ConvTranspose2d:
        arguments["padding"] = 0
    norm = nn.BatchNorm1d if kind is nn.Conv1d else nn.BatchNorm2d
    seed = draw(st.integers(0, 99))
    batchnorm = norm(outputs, eps=draw(st.sampled_from([1e-5, 1.0])), affine=draw(st.booleans()))
    axes = 1 if kind is nn.Conv1d else 2
    x = seeded((2, inputs, *[7] * axes), seed)
    return fill(kind(**arguments), seed), fill(batchnorm, seed), x


@given(pair=pairs(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_pair(pair: tuple[nn.Module, nn.Module, Tensor], dtype: torch.dtype) -> None:
    convolution, batchnorm, x = (part.to(dtype) for part in pair)
    expected = batchnorm(convolution(x))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12

    assert foldable(convolution, batchnorm)
    assert fold_batchnorm(convolution, batchnorm)

    torch.testing.assert_close(convolution(x), expected, rtol=tolerance, atol=tolerance)
    assert convolution.weight.dtype == dtype


def test_worked_by_hand() -> None:
    convolution, batchnorm = nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1, eps=0.0)
    with torch.no_grad():
        convolution.weight.fill_(3.0)
        convolution.bias.fill_(1.0)
        batchnorm.running_mean.fill_(5.0)
        batchnorm.running_var.fill_(4.0)
        batchnorm.weight.fill_(10.0)
        batchnorm.bias.fill_(7.0)

    assert fold_batchnorm(convolution, batchnorm)

    # (3x + 1 - 5) / 2 · 10 + 7 = 15x - 13
    assert convolution.weight.item() == 15.0
    assert convolution.bias.item() == -13.0


def test_padded_borders_are_right_too() -> None:
    """The offset is added after the convolution, so padding does not see it."""
    convolution, batchnorm = fill(nn.Conv2d(2, 3, 3, padding=2)), fill(nn.BatchNorm2d(3))
    x = torch.zeros(1, 2, 4, 4)
    expected = batchnorm(convolution(x))

    fold_batchnorm(convolution, batchnorm)

    torch.testing.assert_close(convolution(x), expected)


def test_whether_it_is_trained_stays() -> None:
    convolution = nn.Conv2d(2, 3, 1, bias=False).requires_grad_(False)

    fold_batchnorm(convolution, nn.BatchNorm2d(3))

    assert not convolution.weight.requires_grad
    assert not convolution.bias.requires_grad


class Scaled(nn.Conv2d):
    pass


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


REFUSED: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "no running statistics": lambda: (
        nn.Conv2d(2, 3, 1),
        nn.BatchNorm2d(3, track_running_stats=False),
    ),
    "other channels": lambda: (nn.Conv2d(2, 3, 1), nn.BatchNorm2d(2)),
    "subclass": lambda: (Scaled(2, 3, 1), nn.BatchNorm2d(3)),
    "linear": lambda: (nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "no norm": lambda: (nn.Conv2d(2, 3, 1), nn.InstanceNorm2d(3)),
    "hook on the convolution": lambda: (hooked(nn.Conv2d(2, 3, 1)), nn.BatchNorm2d(3)),
    "hook on the norm": lambda: (nn.Conv2d(2, 3, 1), hooked(nn.BatchNorm2d(3))),
    "patched norm": lambda: (nn.Conv2d(2, 3, 1), patched(nn.BatchNorm2d(3))),
    "complex": lambda: (nn.Conv2d(2, 3, 1, dtype=torch.complex64), nn.BatchNorm2d(3)),
}


@pytest.mark.parametrize("pair", REFUSED.values(), ids=REFUSED)
def test_refused(pair: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    assert not foldable(*pair())


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tied_parameters_are_left_alone(name: str) -> None:
    convolution, other = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
    setattr(other, name, getattr(convolution, name))

    assert foldable(convolution, nn.BatchNorm2d(3))
    assert not foldable(convolution, nn.BatchNorm2d(3), other)


def test_results_that_are_no_numbers_are_not_used() -> None:
    convolution, batchnorm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3, eps=0.0)
    batchnorm.running_var.zero_()
    before = copy.deepcopy(convolution.state_dict())

    assert not fold_batchnorm(convolution, batchnorm)

    assert all(torch.equal(before[k], v) for k, v in convolution.state_dict().items())
