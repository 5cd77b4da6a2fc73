"""Layers of classes as libraries write them, found to be plain ones by what they compute."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    Recipe,
    analyze,
    load_quantized_model,
    quantize_model,
    save_quantized_model,
)
from quant_engine.execution.convert import convert_execution, list_executions
from quant_engine.scheme import TensorScheme
from tests.quant_engine.layer_cases import fill, seeded

WEIGHTS = Recipe(TensorScheme(granularity="per_channel"))


class CastingLinear(nn.Linear):
    """As timm's: a forward of its own that is the plain operation."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype), self.bias)


class NamedConv(nn.Conv2d):
    """A subclass that changes nothing."""


class Same(nn.Conv2d):
    """Pads by the size of the input, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        edges = []
        for axis in (1, 0):
            size, step = x.shape[axis - 2], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((math.ceil(size / step) - 1) * step + reach - size, 0)
            edges += [total // 2, total - total // 2]
        return super().forward(F.pad(x, edges))


class Standardized(nn.Conv2d):
    """Standardizes its weight in every pass, with a gain."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, self.gain.view(-1), training=True)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)


class Scaled(nn.Embedding):
    """Multiplies its rows by a constant."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * 2.5


class Transposed(nn.Module):
    """As GPT-2's: a Linear whose weight lies transposed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Functional(nn.Module):
    """A Linear written by hand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


IDS = torch.tensor([[0, 8, 3], [3, 3, 1]])
CASES = {
    "casting linear": (CastingLinear(6, 4), seeded((3, 6)), "Linear"),
    "square transposed": (Transposed(5, 5), seeded((2, 3, 5)), "Linear"),
    "transposed": (Transposed(6, 4), seeded((2, 3, 6)), "Linear"),
    "functional": (Functional(6, 4), seeded((3, 6)), "Linear"),
    "named convolution": (NamedConv(4, 6, 3, 2, 1), seeded((2, 4, 7, 8)), "Conv2d"),
    "same padding": (Same(4, 6, (3, 5), (2, 1)), seeded((2, 4, 9, 10)), "SameConv2d"),
    "same padding, dilated": (
        Same(4, 6, 3, 2, dilation=2, groups=2),
        seeded((2, 4, 8, 11)),
        "SameConv2d",
    ),
    "same padding, one sample": (Same(4, 6, 3, 2), seeded((4, 9, 10)), "SameConv2d"),
    "standardized": (Standardized(4, 6, 3, padding=1), seeded((2, 4, 7, 8)), "Conv2d"),
    "scaled embedding": (Scaled(9, 5), IDS, "ScaledEmbedding"),
}
each_case = pytest.mark.parametrize("name", CASES)


class Around(nn.Module):
    """A layer inside a model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)


def model_and_data(name: str) -> tuple[nn.Module, Tensor]:
    layer, x, _ = CASES[name]
    return fill(Around(layer)), x


@each_case
def test_a_layer_is_quantized_as_what_it_computes(name):
    model, x = model_and_data(name)
    report = analyze(model, [x], measure_time=False)
    layer = report.layer("layer")
    assert (layer.status, layer.kind) == ("quantized", CASES[name][2])
    assert report.output.error.nmse < 1e-3
    kind = type(CASES[name][0]).__name__
    assert any(f"layer ({kind}) computes what {CASES[name][2]} does" in n for n in report.notes)
    assert report.size.float_bytes == sum(p.numel() * 4 for p in model.parameters())


@each_case
@torch.no_grad()
def test_simulated_and_integer_execution_and_files_agree(name, tmp_path):
    model, x = model_and_data(name)
    quantized = quantize_model(model, [x])
    expected = quantized(x)
    # The float class itself on the dequantized weight and the rounded input, in float64.
    layer = quantized.layer
    plain = (
        layer.compute(
            layer.simulate_input(x).double(),
            layer.dequantized_weight().double(),
            None if layer.bias is None else layer.bias.double(),
        )
        if x.is_floating_point()
        else layer(x)
    )
    assert torch.allclose(expected.double(), plain.flatten(1).double(), rtol=1e-5, atol=1e-5)
    for kernel in ("auto", "portable"):
        integer = convert_execution(quantized, kernel=kernel)
        assert torch.allclose(integer(x), expected, rtol=1e-5, atol=1e-5)
        (found,) = list_executions(integer)
        assert found.execution == ("integer" if x.is_floating_point() else "lookup")
    save_quantized_model(quantized, tmp_path)
    for parameter in model.parameters():
        parameter.zero_()  # the file alone says what stands for which layer
    assert torch.equal(load_quantized_model(model, tmp_path)(x), expected)


@each_case
@torch.no_grad()
def test_without_data_layers_are_found_too_and_the_error_is_that_of_rounding(name):
    model, x = model_and_data(name)
    expected = model(x)
    quantized = quantize_model(model, None, WEIGHTS)
    assert quantized.layer.is_quantized
    error = (quantized(x) - expected).square().sum() / expected.square().sum()
    assert 0 < error < 1e-3


class Clamping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-20, 20))


class Halving(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.5 if x.shape[-1] % 2 else 1.0)


class Rounding(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight * 64).round() / 64 + 0 * x.sum(), self.bias)


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Sometimes(nn.Linear):
    """Plain on what is tried, and something else on the model's data."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return -y if x.shape[0] == 7 else y


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (Clamping(6, 4), seeded((3, 6))),
        (Halving(4, 6, 3), seeded((2, 4, 8, 8))),
        (Doubling(6, 6), seeded((3, 6))),
        (Sometimes(6, 4), seeded((7, 6))),
    ],
)
@torch.no_grad()
def test_what_computes_something_else_stays_float(layer, x):
    model = nn.Sequential(fill(layer), fill(nn.Linear(4 if layer.weight.shape[0] == 4 else 6, 3)))
    if x.dim() == 4:
        model = nn.Sequential(model[0], nn.Flatten(), fill(nn.Linear(6 * 36, 3)))
    report = analyze(model, [x], measure_time=False)
    assert report.layer("0").status == "unsupported"
    assert "subclass" in report.layer("0").reason
    if isinstance(layer, Sometimes):
        assert any("classes of their own stay as they are" in note for note in report.notes)


@torch.no_grad()
def test_a_weight_that_is_shared_is_neither_computed_nor_transposed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Transposed(5, 5), Transposed(5, 5)
            self.second.weight = self.first.weight
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.second(self.first(x)))

    report = analyze(fill(Tied()), [seeded((4, 5))], measure_time=False)
    assert report.layer("head").reason == ""
    for name in ("first", "second"):
        assert report.layer(name).status == "unsupported"  # its bias
        assert "weight-only" in report.layer(f"{name}.weight_only.weight").reason


@torch.no_grad()
def test_a_scaled_embedding_shares_its_codes_with_a_tied_head():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = Scaled(9, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids):
            return self.head(self.words(ids))

    quantized = quantize_model(fill(Language()), IDS)
    assert quantized.words.stored_weight is quantized.head.stored_weight
    assert quantized.words.scale == 2.5
