"""Every layer under every option: what options share, and what none of them needs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import LogitResponse, measure_sensitivity, quantize_model
from quant_engine.quantization import conversion
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme

WEIGHT, INPUTS = TensorScheme(), TensorScheme(symmetric=False)
ROUNDED, PLAIN = LayerScheme(WEIGHT, INPUTS), LayerScheme(WEIGHT)


class Tied(nn.Module):
    """Looks words up in the weight that it answers with."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(dim=1))


class Reads(nn.Module):
    """Uses the weight of a layer without running the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x), self.second.weight)


def test_a_layer_that_never_runs_is_measured_by_running_and_not_predicted() -> None:
    torch.manual_seed(0)
    model, x = Reads(), torch.randn(8, 4)
    two = {"two": LayerScheme(TensorScheme(bits=2))}

    report = measure_sensitivity(model, x, options=two)
    response = LogitResponse.measure(model, x, options=two)

    assert [layer.name for layer in report.layers] == ["first", "second"]
    assert min(layer.nmse for layer in report.layers) > 0.001
    assert response.layers == ("first",)
    reason = dict(response.report.skipped)["second"]
    assert reason.endswith("so nothing can be said about it")


def test_a_tied_weight_counts_once_under_every_option() -> None:
    torch.manual_seed(0)
    words = torch.randint(7, (8, 3))
    report = measure_sensitivity(Tied(), words, options={"rounded": ROUNDED, "plain": PLAIN})
    both = {reference.option: reference for reference in report.references}

    quantized = quantize_model(Tied(), None, Recipe(WEIGHT, activation=None))
    assert quantized.words.quantized_weight is quantized.head.quantized_weight
    codes = quantized.head.quantized_weight.numel() + 4  # a byte a code, and one scale
    assert both["plain"].quantized_bytes == codes
    # Rounded inputs have a scale (4 bytes) and a zero point (1 byte).
    assert both["rounded"].quantized_bytes == codes + 5


def test_no_range_is_chosen_for_an_input_that_finds_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a range that nobody uses")

    torch.manual_seed(0)
    x = torch.randn(8, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    dynamic = {"dynamic": LayerScheme(WEIGHT, TensorScheme(is_dynamic=True))}
    monkeypatch.setattr(conversion, "choose_input_qparams", fail)

    assert LogitResponse.measure(model, x, options=dynamic).options == ("dynamic",)
    assert len(measure_sensitivity(model, x, options=dynamic).layers) == 2
