"""AWQ chooses what trying everything by hand chooses, and leaves the float function as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import Awq, BiasCorrection, Gptq, Recipe, TensorScheme
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import chain, chains, images
from tests.quant_engine.remedies.test_gptq import KINDS

Array = npt.NDArray[np.float64]

GROUPS = TensorScheme(3, granularity="per_group", group_size=5)
RECIPE = Recipe(GROUPS, remedies=(Awq(),))


def scaled(model: nn.Module, x: Tensor) -> tuple[nn.Module, dict[tuple[str, ...], Treatment]]:
    prepared, data, _ = prepare_for(model, x)
    treated = treat_float_model(prepared, RECIPE, data)
    return treated.model, {found.layers: found for found in treated.treatments}


def rounded(weight: Array, scheme: TensorScheme, share: float = 1.0) -> tuple[Array, Array]:
    """Weights on grids of their groups, each range narrowed to a share; and the scales."""
    size = scheme.group_size or weight.shape[1]
    result, scales = np.zeros_like(weight), []
    for start in range(0, weight.shape[1], size):
        part = weight[:, start : start + size]
        if scheme.symmetric:
            scale = np.float32(np.abs(part).max(axis=1, keepdims=True) / scheme.qmax)
            zero = 0.0
        else:
            lo, hi = (np.minimum(part.min(1), 0.0), np.maximum(part.max(1), 0.0))
            exact = ((hi - lo) / (scheme.qmax - scheme.qmin))[:, None]
            zero = np.clip(np.round(scheme.qmin - lo[:, None] / exact), scheme.qmin, scheme.qmax)
            scale = np.float32(exact)
        scale = np.float32(scale.astype(np.float64) * share).astype(np.float64)
        codes = np.clip(np.round(part / scale) + zero, scheme.qmin, scheme.qmax)
        result[:, start : start + size] = (codes - zero) * scale
        scales.append(scale)
    return result, np.concatenate(scales, axis=1)


def relative(error: Array, signal: Array) -> float:
    return float(np.sqrt((error**2).sum() / (signal**2).sum()))


def test_the_factors_are_the_best_of_the_grid_by_hand() -> None:
    model = fill(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 6)))
    with torch.no_grad():
        model[0].weight.mul_(torch.tensor([1.0, 9.0, 1, 1, 0.1, 1, 1, 20.0, 1, 1, 1, 0.0]))
        model[0].bias[11] = 0.0  # a channel that says nothing
    x = seeded((20, 12))
    inputs = model[0](x).detach().double().numpy()
    weight = model[1].weight.detach().double().numpy()
    mean = np.abs(inputs).mean(axis=0)

    treated, found = scaled(model, x)

    def factors(alpha: float) -> Array:
        raised = np.where(mean > 0, mean, np.nan) ** alpha
        return np.nan_to_num(raised / np.sqrt(np.nanmin(raised) * np.nanmax(raised)), nan=1.0)

    def error(s: Array) -> float:
        stand_in = rounded((weight * s).astype(np.float32).astype(np.float64), GROUPS)[0]
        output = inputs @ weight.T + model[1].bias.detach().double().numpy()
        return relative((inputs / s) @ stand_in.T - inputs @ weight.T, output)

    errors = {alpha / 20: error(factors(alpha / 20)) for alpha in range(20)}
    best = min(errors, key=lambda alpha: errors[alpha])
    done = found["1",]
    assert done.is_applied
    assert done.alpha == best
    assert best > 0
    np.testing.assert_allclose(done.scales, factors(best), rtol=1e-6)
    assert done.error_before == pytest.approx(errors[0.0], rel=1e-4)
    assert done.error_after == pytest.approx(errors[best], rel=1e-4)
    torch.testing.assert_close(treated[1].weight, model[1].weight * torch.tensor(done.scales))
    torch.testing.assert_close(treated(x), model(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=8)
@given(chains)
def test_the_float_output_stays_as_it_is_on_random_chains(
    steps: list[tuple[str, bool, str]],
) -> None:
    model, x = chain(steps), images()

    treated, found = scaled(model, x)

    change = (treated(x) - model(x)).abs().max() / model(x).abs().max()
    assert change < 1e-5
    assert not any("float output" in done.reason for done in found.values())
    for done in found.values():
        if done.alpha is not None:
            assert (done.error_after < done.error_before) == done.is_applied


@settings(max_examples=12)
@given(st.integers(2, 8), st.booleans(), st.sampled_from([None, 5, 64]), st.integers(0, 9))
def test_ranges_are_the_best_of_the_grid_by_hand(
    bits: int, symmetric: bool, size: int | None, seed: int
) -> None:
    kind = "per_channel" if size is None else "per_group"
    scheme = TensorScheme(bits, symmetric, kind, group_size=size)
    module = fill(nn.Linear(12, 4), seed)
    x = seeded((40, 12), seed + 1) * torch.linspace(0.1, 3.0, 12)
    model, recipe = nn.Sequential(module), Recipe(scheme)

    treated = quantize_model(model, x, recipe.with_remedy(Awq()))[0]
    plain = quantize_model(model, x, recipe)[0]

    weight, inputs = module.weight.detach().double().numpy(), x.double().numpy()
    shares = [1 - number / 20 for number in range(10)]
    tried = [rounded(weight, scheme, share) for share in shares]
    expected, step = np.zeros_like(weight), size or 12
    for start in range(0, 12, step):
        columns = slice(start, start + step)
        noise = [
            (((stand_in - weight)[:, columns] @ inputs[:, columns].T) ** 2).sum(axis=1)
            for stand_in, _ in tried
        ]
        best = np.argmin(np.array(noise) * (1 + 1e-9 * np.arange(10))[:, None], axis=0)
        for row in range(4):
            expected[row, columns] = tried[best[row]][0][row, columns]
    output = inputs @ weight.T
    errors = [
        relative((w - weight) @ inputs.T, output) for w in (rounded(weight, scheme)[0], expected)
    ]
    if errors[1] > errors[0] * (1 + 1e-9):
        expected = rounded(weight, scheme)[0]  # the ranges are better alone, and worse together
    found = treated.weight.detach().double().numpy()
    # A weight on a tie may go either way, and so may a range.
    assert np.isclose(found, expected, rtol=1e-5, atol=1e-7).mean() > 0.9
    assert relative((found - weight) @ inputs.T, output) <= errors[0] * (1 + 1e-5)
    assert (treated.weight_qparams.scale <= plain.weight_qparams.scale).all()
    assert torch.equal(treated.weight_qparams.zero_point, plain.weight_qparams.zero_point)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 3])
@torch.no_grad()
def test_every_kind_of_layer_is_narrowed_and_loses_less(kind: str, size: int | None) -> None:
    module, shape = KINDS[kind]
    model, x = nn.Sequential(fill(module.float())), seeded(shape)
    granularity = "per_channel" if size is None else "per_group"
    recipe = Recipe(TensorScheme(3, False, granularity, group_size=size))

    outputs = {
        name: quantize_model(model, x, r)(x).double()
        for name, r in (("plain", recipe), ("treated", recipe.with_remedy(Awq())))
    }
    report = analyze(model, [x], recipe.with_remedy(Awq()), measure_time=False)

    done = report.treatments[-1]
    assert done.is_applied
    assert "ranges narrowed, one of them to" in done.reason
    assert done.error_after < done.error_before
    expected = model(x).double()
    plain, treated = ((y - expected).square().sum() for y in outputs.values())
    assert treated < plain
    if module.bias is None:
        signal = expected.square().sum()
        assert done.error_before == pytest.approx(float((plain / signal) ** 0.5), rel=1e-4)
        assert done.error_after == pytest.approx(float((treated / signal) ** 0.5), rel=1e-4)
    assert ModelReport.from_json(report.to_json()) == report


def test_it_comes_before_rounding_and_bias_and_leaves_other_layers_alone() -> None:
    model, x = fill(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 6), nn.ReLU())), seeded((30, 12))
    chain_of = (BiasCorrection(), Gptq(), Awq())
    recipe = replace(RECIPE, remedies=chain_of)

    report = analyze(model, [x], recipe, measure_time=False)

    kinds = [done.remedy for done in report.treatments]
    assert kinds == ["awq", "awq", "gptq", "bias_correction"]
    assert [done.step for done in report.treatments] == ["factors", "ranges", "", ""]
    gptq = report.treatments[2]
    assert gptq.error_before == pytest.approx(report.treatments[1].error_after, rel=1e-6)
    with pytest.raises(ValueError, match="layers of Awq names 'head'"):
        analyze(model, [x], replace(RECIPE, remedies=(Awq(layers=("head",)),)))


def test_what_cannot_be_treated_is_named() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.table(x))
            return y

    report = analyze(fill(Lookup()), torch.arange(5)[None], RECIPE, measure_time=False)

    reasons = {done.layers: done.reason for done in report.treatments if not done.is_applied}
    assert "it looks rows up" in reasons["table",]
    assert "its input comes from" in reasons["head",]
