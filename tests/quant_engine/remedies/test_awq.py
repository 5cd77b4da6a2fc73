"""AWQ chooses what trying everything by hand chooses, and leaves the float function as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from quant_engine import analyze
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.report import Treatment
from quant_engine.scheme import Awq, BiasCorrection, Gptq, Recipe, TensorScheme
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import chain, chains, images
from tests.quant_engine.remedies.test_output_ranges import Array, relative, rounded

GROUPS = TensorScheme(3, granularity="per_group", group_size=5)
RECIPE = Recipe(GROUPS, remedies=(Awq(),))


def scaled(model: nn.Module, x: Tensor) -> tuple[nn.Module, dict[tuple[str, ...], Treatment]]:
    prepared, data, _ = prepare_for(model, x)
    treated = treat_float_model(prepared, RECIPE, data)
    return treated.model, {found.layers: found for found in treated.treatments}


@pytest.mark.parametrize(("seed", "form"), [(0, "inputs"), (5, "weights")])
def test_the_factors_are_the_best_of_the_grid_by_hand(seed: int, form: str) -> None:
    model = fill(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 6)), seed)
    with torch.no_grad():
        model[0].weight.mul_(torch.tensor([1.0, 9.0, 1, 1, 0.1, 1, 1, 20.0, 1, 1, 1, 0.0]))
        model[0].bias[11] = 0.0  # a channel that says nothing
    x = seeded((20, 12))
    inputs = model[0](x).detach().double().numpy()
    weight = model[1].weight.detach().double().numpy()
    mean = np.abs(inputs).mean(axis=0)

    treated, found = scaled(model, x)

    grid = np.concatenate(
        [
            np.abs(part).max(axis=1, keepdims=True).repeat(part.shape[1], axis=1)
            for part in np.split(weight, (5, 10), axis=1)
        ],
        axis=1,
    )
    use = (np.abs(weight) / grid).mean(axis=0)

    def factors(alpha: float, form: str) -> Array:
        raised = np.where(mean > 0, mean, np.nan) ** alpha
        raised /= use ** (1 - alpha) if form == "weights" else 1
        return np.nan_to_num(raised / np.sqrt(np.nanmin(raised) * np.nanmax(raised)), nan=1.0)

    def error(s: Array) -> float:
        stand_in = rounded((weight * s).astype(np.float32).astype(np.float64), GROUPS)
        output = inputs @ weight.T + model[1].bias.detach().double().numpy()
        return relative((inputs / s) @ stand_in.T - inputs @ weight.T, output)

    grid_of = [(alpha / 20, form) for form in ("inputs", "weights") for alpha in range(20)]
    errors = {key: error(factors(*key)) for key in grid_of}
    best = min(errors, key=lambda key: errors[key])
    done = found["1",]
    assert done.is_applied
    assert best[1] == form
    assert done.alpha == best[0]
    np.testing.assert_allclose(done.scales, factors(*best), rtol=1e-6)
    assert done.error_before == pytest.approx(errors[0.0, "inputs"], rel=1e-4)
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


def test_it_comes_before_rounding_and_bias_and_leaves_other_layers_alone() -> None:
    model, x = fill(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 6), nn.ReLU())), seeded((60, 12))
    chain_of = (BiasCorrection(), Gptq(), Awq())
    recipe = Recipe(replace(GROUPS, bits=4), remedies=chain_of)

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
