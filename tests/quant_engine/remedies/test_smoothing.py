"""Smoothing divides loud channels as the paper says, and leaves the float function as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import analyze
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import Recipe, SmoothQuant, TensorScheme
from sample_models import get_model_info
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import accuracy_and_divergence, chain, chains, images

RECIPE = Recipe(TensorScheme(granularity="per_channel"), TensorScheme(symmetric=False))


def smoothed(
    model: nn.Module, x: Tensor, remedy: SmoothQuant, recipe: Recipe = RECIPE
) -> tuple[nn.Module, dict[tuple[str, ...], Treatment]]:
    prepared, data, _ = prepare_for(model, x)
    treated = treat_float_model(prepared, replace(recipe, remedies=(remedy,)), data)
    return treated.model, {found.layers: found for found in treated.treatments}


class Scaled(nn.Module):
    """A root mean square normalization written by hand, with a weight of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


SOURCES = {
    "layer_norm": lambda: nn.LayerNorm(8),
    "layer_norm_without_bias": lambda: nn.LayerNorm(8, bias=False),
    "rms_norm": lambda: nn.RMSNorm(8),
    "by_hand": lambda: Scaled(8),
    "linear": lambda: nn.Linear(8, 8),
    "linear_relu": lambda: nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU()),
}


class Branched(nn.Module):
    """Three layers that read one tensor, one of them through a transposition of other axes."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source
        self.q, self.k, self.v = nn.Linear(8, 4), nn.Linear(8, 4, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.source(x)
        return self.q(y) + self.k(y) * self.v(y.transpose(0, 1)).transpose(0, 1)


def loud(shape: tuple[int, ...] = (3, 5, 8)) -> Tensor:
    """Inputs of which two channels are far larger than the others."""
    x = seeded(shape)
    x[..., [1, 6]] *= 60.0
    return x


@settings(max_examples=20)
@given(st.sampled_from(list(SOURCES)), st.floats(0, 1), st.integers(0, 3))
def test_the_float_output_stays_as_it_is_and_readers_share_the_factors(
    source: str, alpha: float, seed: int
) -> None:
    model, x = fill(Branched(SOURCES[source]()), seed), loud()
    treated, found = smoothed(model, x, SmoothQuant(alpha=alpha))

    change = (treated(x) - model(x)).abs().max() / model(x).abs().max()
    assert change < 1e-5
    assert found["q", "k", "v"].is_applied
    scales = torch.tensor(found["q", "k", "v"].scales)
    for name in ("q", "k", "v"):
        expected = model.get_submodule(name).weight * scales
        torch.testing.assert_close(treated.get_submodule(name).weight, expected)


@settings(max_examples=15)
@given(chains, st.floats(0, 1))
def test_the_float_output_stays_as_it_is_on_random_chains(
    steps: list[tuple[str, bool, str]], alpha: float
) -> None:
    model, x = chain(steps), images()

    treated, found = smoothed(model, x, SmoothQuant(alpha=alpha))

    change = (treated(x) - model(x)).abs().max() / model(x).abs().max()
    assert change < 1e-5
    assert sum(treatment.is_applied for treatment in found.values()) == len(steps) + 1


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_factors_are_those_of_the_paper(alpha: float) -> None:
    model, x = fill(Branched(nn.LayerNorm(8))), loud()
    inputs = np.abs(model.source(x).detach().double().numpy()).reshape(-1, 8).max(axis=0)
    weights = [np.abs(model.get_submodule(n).weight.detach().numpy()).max(0) for n in "qkv"]
    expected = inputs**alpha / np.max(weights, axis=0) ** (1 - alpha)

    treated, found = smoothed(model, [x[:2], x[2:]], SmoothQuant(alpha=alpha))

    np.testing.assert_allclose(found["q", "k", "v"].scales, expected, rtol=1e-6)
    assert found["q", "k", "v"].folded_into == "source"
    for key in ("weight", "bias"):
        before, after = (m.source._parameters[key].detach().numpy() for m in (model, treated))
        np.testing.assert_allclose(after, before / expected, rtol=1e-5)


def test_auto_takes_the_alpha_with_the_smallest_output_error() -> None:
    model, x = fill(Branched(nn.LayerNorm(8))), loud()
    with torch.no_grad():
        model.source.weight[3] = 40.0

    _, found = smoothed(model, x, SmoothQuant())

    chosen = found["q", "k", "v"]
    assert chosen.is_applied
    assert chosen.error_after < 0.6 * chosen.error_before
    for alpha in (0.25, 0.4, 0.5, 0.65, 0.8):
        _, fixed = smoothed(model, x, SmoothQuant(alpha=alpha))
        assert fixed["q", "k", "v"].error_before == chosen.error_before
        assert fixed["q", "k", "v"].error_after >= chosen.error_after
        assert (fixed["q", "k", "v"].error_after == chosen.error_after) == (alpha == chosen.alpha)


def test_auto_leaves_alone_what_no_alpha_makes_better() -> None:
    model = fill(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4, 8) + torch.eye(4, 8).flip(1))
        model[0].weight.copy_(torch.arange(8) + 1.0)
    x = seeded((64, 8))
    recipe = Recipe(TensorScheme(bits=2), TensorScheme())

    treated, found = smoothed(model, x, SmoothQuant(), recipe)
    _, forced = smoothed(model, x, SmoothQuant(alpha=0.8), recipe)

    assert not found["1",].is_applied
    assert "no α makes the output error smaller" in found["1",].reason
    assert torch.equal(treated[0].weight, model[0].weight)
    assert forced["1",].is_applied
    assert forced["1",].error_after > forced["1",].error_before


class Odd(nn.Module):
    """A normalization and a layer behind it, joined in a way of the test's."""

    def __init__(self, join: Any) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.plain = nn.LayerNorm(8, elementwise_affine=False)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.join(self, x)
        return result


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (lambda m, x: m.a(x), "its input comes from the model's input"),
        (lambda m, x: m.a(nn.functional.gelu(m.norm(x))), "its input comes from GELU"),
        (lambda m, x: m.a(m.plain(x)), "its input comes from layer_norm"),
        (lambda m, x: m.a(y := m.norm(x)) + y, "comes from 'norm': an addition reads it"),
        (lambda m, x: m.a(m.norm(x)) + m.norm(x), "its input comes from layer_norm"),
        (lambda m, x: m.a(m.norm(x) * m.norm.weight), "its input comes from a multiplication"),
        (lambda m, x: m.a(y := m.norm(x)) + m.b(y), "'b' reads the same tensor"),
        (lambda m, x: m.a(m.norm(x)) @ m.a.weight, "the weight of 'a' is computed or shared"),
    ],
)
def test_what_cannot_be_smoothed_is_named(join: Any, words: str) -> None:
    model, x = fill(Odd(join)), seeded((4, 8))

    treated, found = smoothed(model, x, SmoothQuant(layers=("a",)))

    (reason,) = {t.reason for names, t in found.items() if "a" in names}
    assert words in reason
    assert not any(treatment.is_applied for treatment in found.values())
    assert torch.equal(treated(x), model(x))


def test_weights_with_one_scale_are_not_made_uneven() -> None:
    model = fill(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))

    _, found = smoothed(model, loud((9, 8)), SmoothQuant(), replace(RECIPE, weight=TensorScheme()))
    _, floats = smoothed(model, loud((9, 8)), SmoothQuant(), replace(RECIPE, activation=None))

    assert "weights have one scale; equalize the two layers instead" in found["2",].reason
    assert floats["2",].reason == "the inputs stay float"


def test_the_outlier_vit_is_repaired_and_the_plain_one_not_made_worse() -> None:
    plain = Recipe(TensorScheme(bits=4), TensorScheme(symmetric=False))
    _, before = accuracy_and_divergence("vit", plain)
    _, after = accuracy_and_divergence("vit", plain.with_remedy(SmoothQuant()))
    assert after < before

    plain = Recipe(TensorScheme(), TensorScheme(symmetric=False))
    accuracy, _ = accuracy_and_divergence("vit_outlier_channels", plain)
    assert accuracy < 0.87
    info = get_model_info("vit_outlier_channels")
    calibration, test = info.load_inputs("calibration")[0][:200], info.load_inputs("test")
    recipe = plain.with_remedy(SmoothQuant())
    report = analyze(info.load(), [calibration], recipe, evaluation_data=[test], measure_time=False)
    assert ModelReport.from_json(report.to_json()) == report
    assert report.output is not None
    assert report.output.accuracy_quantized >= 0.985
