"""Ranges by output error are those that trying all shares by hand gives, and never lose more."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant_engine import analyze, quantize_model
from quant_engine.report import ModelReport
from quant_engine.scheme import Awq, Gptq, OutputMse, Recipe, TensorScheme
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.test_gptq import KINDS

Array = npt.NDArray[np.float64]


def grid(part: Array, scheme: TensorScheme) -> tuple[Array, Array]:
    """The scale and zero point of each row, from its smallest to its largest weight."""
    if scheme.symmetric:
        scale = np.abs(part).max(axis=1, keepdims=True) / scheme.qmax
        return np.float32(scale).astype(np.float64), np.zeros_like(scale)
    lo, hi = (np.minimum(part.min(1), 0.0), np.maximum(part.max(1), 0.0))
    exact = ((hi - lo) / (scheme.qmax - scheme.qmin))[:, None]
    zero = np.clip(np.round(scheme.qmin - lo[:, None] / exact), scheme.qmin, scheme.qmax)
    return np.float32(exact).astype(np.float64), zero


def on_grid(part: Array, scheme: TensorScheme, scale: Array, zero: Array, share: float) -> Array:
    scale = np.float32(scale * share).astype(np.float64)
    codes = np.clip(np.round(part / scale) + zero, scheme.qmin, scheme.qmax)
    return (codes - zero) * scale


def rounded(weight: Array, scheme: TensorScheme) -> Array:
    """Weights on grids of their groups, from the smallest to the largest weight of each."""
    size = scheme.group_size or weight.shape[1]
    parts = [weight[:, start : start + size] for start in range(0, weight.shape[1], size)]
    return np.concatenate([on_grid(p, scheme, *grid(p, scheme), 1.0) for p in parts], axis=1)


def relative(error: Array, signal: Array) -> float:
    return float(np.sqrt((error**2).sum() / (signal**2).sum()))


def by_hand(weight: Array, inputs: Array, scheme: TensorScheme) -> Array:
    """Each range on the best share of 0.05 to 1, given the errors of the others, in order."""
    best = rounded(weight, scheme)
    size = scheme.group_size or weight.shape[1]
    outputs = [slice(None)] if scheme.has_one_scale else [slice(r, r + 1) for r in range(len(best))]
    for start in range(0, weight.shape[1], size):
        columns = slice(start, start + size)
        for rows in outputs:
            part = weight[rows, columns]
            if scheme.has_one_scale:
                edges = [edge.reshape(1, 1) for edge in grid(part.reshape(1, -1), scheme)]
                best[rows] = on_grid(part, scheme, *edges, 1.0)
            else:
                edges = list(grid(part, scheme))
            tried = []
            for number in range(20):
                other = best.copy()
                other[rows, columns] = on_grid(part, scheme, *edges, 1 - number / 20)
                tried.append(other)
            noise = [(((other - weight)[rows] @ inputs.T) ** 2).sum() for other in tried]
            best = tried[int(np.argmin(noise))]
    return best


@settings(max_examples=12)
@given(
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["per_tensor", "per_channel", 5, 64]),
    st.integers(0, 9),
)
def test_ranges_are_the_best_of_all_shares_by_hand(
    bits: int, symmetric: bool, kind: str | int, seed: int
) -> None:
    scheme = (
        TensorScheme(bits, symmetric, kind)
        if isinstance(kind, str)
        else TensorScheme(bits, symmetric, "per_group", group_size=kind)
    )
    module = fill(nn.Linear(12, 4), seed)
    x = seeded((40, 12), seed + 1) * torch.linspace(0.1, 3.0, 12)
    model, recipe = nn.Sequential(module), Recipe(scheme)

    treated = quantize_model(model, x, recipe.with_remedy(OutputMse()))[0]
    plain = quantize_model(model, x, recipe)[0]

    weight, inputs = module.weight.detach().double().numpy(), x.double().numpy()
    expected = by_hand(weight, inputs, scheme)
    found = treated.weight.detach().double().numpy()
    errors = [((stand_in - weight) @ inputs.T) for stand_in in (expected, found)]
    # A weight on a tie may go either way, and with it a later range.
    assert np.isclose(found, expected, rtol=1e-5, atol=1e-7).mean() > 0.9
    assert relative(errors[1], errors[0]) == pytest.approx(1.0, abs=0.02)
    assert (treated.weight_qparams.scale <= plain.weight_qparams.scale).all()
    assert torch.equal(treated.weight_qparams.zero_point, plain.weight_qparams.zero_point)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 3])
@torch.no_grad()
def test_every_kind_of_layer_is_narrowed_and_loses_less(kind: str, size: int | None) -> None:
    module, shape = KINDS[kind]
    model, x = nn.Sequential(fill(module)), seeded(shape)
    granularity = "per_channel" if size is None else "per_group"
    recipe = Recipe(TensorScheme(3, False, granularity, group_size=size))
    treated_recipe = recipe.with_remedy(OutputMse())

    plain, treated = (quantize_model(model, x, r)(x).double() for r in (recipe, treated_recipe))
    report = analyze(model, [x], treated_recipe, measure_time=False)

    (done,) = report.treatments
    assert done.is_applied
    assert done.step == ""
    assert "ranges narrowed, one of them to" in done.reason
    expected = model(x).double()
    before, after = ((y - expected).square().sum() for y in (plain, treated))
    assert after < before
    if module.bias is None:
        signal = expected.square().sum()
        assert done.error_before == pytest.approx(float((before / signal) ** 0.5), rel=1e-4)
        assert done.error_after == pytest.approx(float((after / signal) ** 0.5), rel=1e-4)
    assert ModelReport.from_json(report.to_json()) == report


def test_it_comes_behind_awq_and_before_rounding() -> None:
    model, x = fill(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 6), nn.ReLU())), seeded((30, 12))
    scheme = TensorScheme(3, granularity="per_group", group_size=5)

    report = analyze(
        model, [x], Recipe(scheme, remedies=(Gptq(), OutputMse(), Awq())), measure_time=False
    )

    assert [(done.remedy, done.step) for done in report.treatments] == [
        ("awq", "factors"),
        ("awq", "ranges"),
        ("output_mse", ""),
        ("gptq", ""),
    ]
    awq, own = report.treatments[1:3]
    assert awq.is_applied
    if own.is_applied:  # the ranges of Awq, narrowed once more
        assert own.error_before == pytest.approx(awq.error_after, rel=1e-6)


def test_inputs_that_are_always_zero_leave_a_range_as_it_is() -> None:
    model = fill(nn.Sequential(nn.Linear(16, 4)))
    scheme = TensorScheme(3, granularity="per_group", group_size=8)
    x = seeded((20, 16))
    x[:, 8:] = 0.0

    plain = quantize_model(model, x, Recipe(scheme))[0].weight_qparams.scale
    treated = quantize_model(model, x, Recipe(scheme, remedies=(OutputMse(),)))[0].weight_qparams

    assert torch.equal(treated.scale[:, 1], plain[:, 1])
    assert (treated.scale[:, 0] < plain[:, 0]).any()
