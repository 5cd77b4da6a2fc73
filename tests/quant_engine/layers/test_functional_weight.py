"""Weights that modules multiply with themselves: recurrent layers, `F.linear`, stacked experts."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    PRESETS,
    Recipe,
    analyze,
    calibrate,
    list_executions,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
)
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot

WEIGHTS = PRESETS["int8_weights_only"]


def rounded(weight: Tensor) -> Tensor:
    """Round rows to int8 codes and back, symmetric, one scale per row of the last axis."""
    scale = (weight.double().abs().amax(-1, keepdim=True) / 127).float()
    return (weight / scale).round().clamp(-127, 127) * scale


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.inner = kind(6, 5, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.inner(x)[0].mean(1))
        return y


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        y: Tensor = self.head(state)
        return y


class Mixture(nn.Module):
    """Stacked experts, a router and a table of positions, as mixtures of experts hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.empty(3, 16))
        self.experts = nn.Parameter(torch.empty(3, 4, 16))
        self.positions = nn.Parameter(torch.empty(1, 16))
        self.kernel = nn.Parameter(torch.empty(2, 1, 3))
        self.parts = nn.ParameterList([nn.Parameter(torch.empty(4, 2))])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        share = F.linear(x, self.router).softmax(-1)
        y = torch.einsum("bd,eod->beo", x, self.experts)
        z = F.conv1d(x[:, None], self.kernel).mean(-1)
        out: Tensor = self.head((share[..., None] * y).sum(1)) + (y[:, 0] @ self.parts[0] + z).sum()
        return out


SEQUENCE, ROWS = seeded((4, 3, 6)), seeded((4, 16))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN], ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_a_recurrent_layer_computes_with_rounded_weights_and_float_gates(
    kind: Callable[..., nn.Module],
) -> None:
    model = fill(Recurrent(kind)).eval()
    expected = copy.deepcopy(model)
    for name, parameter in expected.named_parameters():
        if "weight" in name:
            parameter.copy_(rounded(parameter))

    before = snapshot(model)
    quantized = quantize_model(model, None, WEIGHTS)

    assert snapshot(model) == before

    torch.testing.assert_close(quantized(SEQUENCE), expected(SEQUENCE), atol=1e-6, rtol=1e-6)
    assert not torch.equal(quantized(SEQUENCE), model(SEQUENCE))
    floats = [name for name, p in quantized.named_parameters() if "weight" in name]
    assert not floats


@pytest.mark.parametrize(
    ("model", "x", "layers"),
    [(Recurrent(), SEQUENCE, 8), (Cell(), SEQUENCE, 2), (Mixture(), ROWS, 4)],
    ids=["LSTM", "GRUCell", "mixture"],
)
@torch.no_grad()
def test_they_are_covered_stored_copied_and_ranked(
    model: nn.Module, x: Tensor, layers: int, tmp_path: Path
) -> None:
    model = fill(model).eval()
    report = analyze(model, x, measure_time=False)
    quantized = quantize_model(model, x)

    held = {layer.name: layer for layer in report.layers if ".weight_only." in f".{layer.name}"}
    assert len(held) == layers
    for layer in held.values():
        assert layer.is_quantized
        assert layer.reason.startswith("weight-only, since its weight is read by")
    executions = {entry.name: entry.execution for entry in list_executions(quantized)}
    assert {executions[name] for name in held} == {"weights_only"}
    positions = model.positions.numel() if isinstance(model, Mixture) else 0
    assert report.coverage.weights - report.coverage.on_codes == positions
    expected = quantized(x)
    save_quantized_model(quantized, tmp_path)
    others = [
        copy.deepcopy(quantized),
        pickle.loads(pickle.dumps(quantized)),  # noqa: S301 -- our own bytes
        load_quantized_model(model, tmp_path),
        quantize_model(model, calibrate(model, x)),
    ]
    assert all(torch.equal(other(x), expected) for other in others)
    measured = {layer.name: layer for layer in measure_sensitivity(model, x).layers}
    assert all(measured[name].nmse > 0 for name in held)


@torch.no_grad()
def test_a_stack_of_matrices_has_one_scale_per_row_and_a_kernel_one_per_channel() -> None:
    quantized = quantize_model(fill(Mixture()).eval(), ROWS)

    assert quantized.experts.shape == (3, 4, 16)
    torch.testing.assert_close(quantized.experts, rounded(fill(Mixture()).experts))
    scales = {
        name: layer.weight_qparams.scale.shape for name, layer in quantized.weight_only.items()
    }
    assert scales == {"router": (3,), "experts": (12,), "kernel": (2,)}


@torch.no_grad()
def test_a_recipe_names_them_as_layers() -> None:
    recipe = Recipe.default().with_excluded("inner.weight_only.weight_hh_*")
    report = analyze(fill(Recurrent()).eval(), SEQUENCE, recipe, measure_time=False)
    assert report.layer("inner.weight_only.weight_ih_l1").is_quantized
    assert report.layer("inner.weight_only.weight_hh_l1").status == "excluded"


@torch.no_grad()
def test_a_shared_stack_and_one_under_a_property_stay_as_they_are() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Mixture(), Mixture()
            self.other.experts = self.one.experts

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(x) + self.other(x)
            return y

    model = fill(Shared()).eval()
    report = analyze(model, ROWS, measure_time=False)
    names = {layer.name for layer in report.layers}
    assert "one.weight_only.router" in names
    assert "one.weight_only.experts" not in names
    assert "experts" in report.layer("one").reason
