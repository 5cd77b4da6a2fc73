"""GPTQ chooses the codes of the published algorithm, for every kind of layer and grid."""

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
from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.remedies import codes as codes_of_layers
from quant_engine.remedies import gptq
from quant_engine.remedies.codes import input_rows
from quant_engine.remedies.gptq import BLOCK, gptq_codes
from quant_engine.report import ModelReport
from quant_engine.scheme import BiasCorrection, Gptq, LayerScheme, Recipe, TensorScheme
from quant_engine.tensors.affine import QParams
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.cases import accuracy_and_divergence

Array = npt.NDArray[np.float64]

KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(7, 5), (6, 3, 7)),
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 1, 2, 2), (3, 4, 11)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2), (1, 2)), (2, 3, 8, 7)),
    "same": (nn.Conv2d(3, 4, (3, 5), padding="same"), (2, 3, 6, 5)),
    "circular": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 6, 5)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 6)),
    "depthwise": (nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False), (2, 5, 6, 6)),
    "without_a_batch": (nn.Conv2d(3, 4, 3), (3, 8, 7)),
    "transposed": (nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2)), (2, 4, 5, 4)),
    "transposed_groups": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, dilation=2), (2, 4, 5, 4)),
}


def quantized(module: nn.Module, scheme: TensorScheme) -> QuantizedLayer:
    return get_quantized_type(module).from_float(module, LayerScheme(scheme))


def blocks(module: nn.Module, weight: Tensor) -> Tensor:
    """Weights as (groups, outputs, inputs · taps), channel by channel."""
    groups = getattr(module, "groups", 1)
    if isinstance(module, nn.ConvTranspose2d):
        parts = [part.transpose(0, 1) for part in weight.chunk(groups)]
    else:
        parts = list(weight.chunk(groups))
    return torch.stack([part.flatten(1) for part in parts])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_weights_are_multiplied_with(kind: str) -> None:
    module, shape = KINDS[kind]
    module, x = fill(module).double(), seeded(shape).double()
    layer = quantized(module, TensorScheme())
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    axis = {"linear": -1, "without_a_batch": 0}.get(kind, 1)
    expected = module(x).movedim(axis, 0)

    found = blocks(module, module.weight) @ input_rows(layer, x)

    torch.testing.assert_close(found.flatten(0, 1), expected.flatten(1))


def reference(
    rows: Array, h: Array, scale: Array, points: Array, grid: QParams, damp: float
) -> Array:
    """GPTQ of one group as it is published: one column after the other, by the inverse of H."""
    h = h.copy()
    dead = np.diag(h) == 0
    mean = np.diag(h)[~dead].mean()
    h[dead, dead] = 1.0
    order = np.argsort(-np.diag(h), kind="stable")
    rows, h = rows[:, order].copy(), h[order][:, order]
    inverse = np.linalg.inv(h + damp * mean * np.eye(len(h)))
    codes = np.zeros_like(rows)
    for j in range(len(h)):
        step, point = scale[:, order[j]], points[:, order[j]]
        code = np.clip(np.round(rows[:, j] / step) + point, grid.qmin, grid.qmax)
        error = (rows[:, j] - (code - point) * step) / inverse[j, j]
        codes[:, j] = code
        rows[:, j:] -= np.outer(error, inverse[j, j:])
        # Take j out of the problem: eliminate it from the inverse.
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    result = np.zeros_like(codes)
    result[:, order] = codes
    return result


@settings(max_examples=40)
@given(
    st.sampled_from(list(KINDS)),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([None, 0, 2, 5]),
    st.integers(0, 5),
)
def test_codes_are_those_of_the_published_algorithm_and_no_worse_than_rounding(
    kind: str, bits: int, symmetric: bool, group_size: int | None, seed: int
) -> None:
    module, shape = KINDS[kind]
    module, x = fill(module, seed), seeded(shape, seed) + 0.2
    granularity = {None: "per_tensor", 0: "per_channel"}.get(group_size, "per_group")
    recipe = Recipe(TensorScheme(bits, symmetric, granularity, group_size=group_size or None))
    model = nn.Sequential(module)

    plain = quantize_model(model, x, recipe)[0]
    treated = quantize_model(model, x, recipe.with_remedy(Gptq()))[0]
    report = analyze(model, [x], recipe.with_remedy(Gptq()), measure_time=False)

    rows = blocks(module, module.weight.detach().double()).numpy()
    inputs = input_rows(plain, x.double())
    hessian = (inputs @ inputs.transpose(1, 2)).numpy()
    found = blocks(module, treated.quantized_weight.double()).numpy()
    before = blocks(module, plain.quantized_weight.double()).numpy()
    scale, points = (grid_by_weight(x, module, plain) for x in vars_of(plain.weight_qparams))
    (treatment,) = report.treatments
    if treatment.is_applied:
        for g in range(len(rows)):
            expected = reference(
                rows[g], hessian[g], scale[g], points[g], plain.weight_qparams, 0.01
            )
            # Ties and float64 rounding may go either way once in a while.
            assert (found[g] == expected).mean() > 0.97
    else:
        assert "would be larger" in treatment.reason
        assert np.array_equal(found, before)
    errors = [
        sum(
            np.sum(((rows[g] - (c[g] - points[g]) * scale[g]) @ inputs[g].numpy()) ** 2)
            for g in range(len(rows))
        )
        for c in (before, found)
    ]
    assert errors[1] <= errors[0] * (1 + 1e-9)
    assert torch.equal(treated.weight_qparams.scale, plain.weight_qparams.scale)
    assert plain.scheme.weight.qmin <= found.min() <= found.max() <= plain.scheme.weight.qmax


def vars_of(grid: QParams) -> tuple[Array, Array]:
    return grid.scale.double().numpy(), grid.zero_point.double().numpy()


def grid_by_weight(values: Array, module: nn.Module, layer: QuantizedLayer) -> Array:
    """The scale or zero point of each weight, as `blocks` lays the weights out."""
    by_channel = np.moveaxis(np.zeros(tuple(module.weight.shape)), layer.channel_axis, 0)
    for index in np.ndindex(by_channel.shape):
        column = np.ravel_multi_index(index[1:], by_channel.shape[1:])
        place = (index[0], column // (layer.scheme.weight.group_size or 1))[: values.ndim]
        by_channel[index] = values[place]
    whole = np.moveaxis(by_channel, 0, layer.channel_axis)
    return blocks(module, torch.from_numpy(np.ascontiguousarray(whole))).numpy()


def test_blocks_of_columns_give_what_single_columns_give(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 2 * BLOCK + 5
    rows, x = seeded((1, 6, columns)).double(), seeded((1, columns, 900), 1).double()
    hessian, scale = x @ x.transpose(1, 2), torch.full((1, 6, 1), 0.4).double()
    grid = QParams(torch.tensor(0.4), torch.tensor(0), -7, 7)

    blocked, _ = gptq_codes(rows, hessian, scale, torch.zeros_like(scale), grid, 0.01)
    monkeypatch.setattr(gptq, "BLOCK", 1)
    single, _ = gptq_codes(rows, hessian, scale, torch.zeros_like(scale), grid, 0.01)

    assert blocked is not None and single is not None  # noqa: PT018
    assert (blocked == single).double().mean() > 0.999


def test_inputs_that_are_always_zero_are_rounded_as_usual() -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 4))), seeded((40, 6))
    x[:, [1, 4]] = 0.0
    recipe = Recipe(TensorScheme(bits=3))

    plain, treated = (
        quantize_model(model, x, r)[0].quantized_weight
        for r in (recipe, recipe.with_remedy(Gptq()))
    )

    assert torch.equal(plain[:, [1, 4]], treated[:, [1, 4]])
    assert not torch.equal(plain, treated)


@pytest.mark.parametrize(("off", "damping"), [(0.5, 0.01), (1.05, 0.1), (1.5, 1.0), (9.0, 10.0)])
def test_damping_is_raised_until_the_hessian_can_be_factored(off: float, damping: float) -> None:
    hessian = torch.tensor([[[1.0, off], [off, 1.0]]]).double()
    grid = QParams(torch.tensor(1.0), torch.tensor(0), -7, 7)
    ones = torch.ones(1, 1, 1).double()

    codes, used = gptq_codes(torch.ones(1, 1, 2).double(), hessian, ones, 0 * ones, grid, 0.01)

    assert codes is not None
    assert used == pytest.approx(damping)


def test_where_no_damping_helps_weights_are_rounded_as_usual_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> dict[str, codes_of_layers.SeenInputs]:
        hessian = torch.tensor([[[1.0, 90.0], [90.0, 1.0]]]).double()
        return {"0": codes_of_layers.SeenInputs(hessian, torch.zeros(1, 2).double(), 9)}

    model, x = fill(nn.Sequential(nn.Linear(2, 3))), seeded((9, 2))
    recipe = Recipe(TensorScheme(bits=3))
    plain = quantize_model(model, x, recipe)[0].quantized_weight
    monkeypatch.setattr(codes_of_layers, "_see_inputs", broken)

    treated = quantize_model(model, x, recipe.with_remedy(Gptq()))[0].quantized_weight
    (found,) = analyze(model, [x], recipe.with_remedy(Gptq()), measure_time=False).treatments

    assert torch.equal(plain, treated)
    assert "cannot be factored, damped by up to 10" in found.reason
    assert not found.is_applied


class Odd(nn.Module):
    """A table, two layers with one weight, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.a, self.b, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.a(self.table(x)))
        return result


def test_what_cannot_be_rounded_so_is_named() -> None:
    recipe = Recipe(TensorScheme(bits=4), remedies=(Gptq(),))

    report = analyze(fill(Odd()), [torch.arange(10).view(5, 2)], recipe, measure_time=False)

    assert {found.layers[0]: found.reason for found in report.treatments} == {
        "table": "it looks rows up, so its weights are not summed with those of other inputs",
        "a": "it shares its weight with another layer",
        "b": "it shares its weight with another layer",
        "idle": "nothing entered it on the calibration data",
    }
    assert ModelReport.from_json(report.to_json()) == report


def test_hessians_that_do_not_fit_together_are_measured_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))), seeded((30, 6))
    recipe = Recipe(TensorScheme(bits=3), remedies=(Gptq(),))
    together = quantize_model(model, [x[:20], x[20:]], recipe)
    monkeypatch.setattr(codes_of_layers, "MOST_HESSIAN_VALUES", 1)

    alone = quantize_model(model, [x[:20], x[20:]], recipe)

    assert torch.equal(together[2].quantized_weight, alone[2].quantized_weight)


def test_three_bits_gain_what_the_prototype_gained() -> None:
    plain = Recipe(TensorScheme(bits=3, granularity="per_channel"))
    both = replace(plain, remedies=(Gptq(), BiasCorrection()))
    recipes = (plain, plain.with_remedy(Gptq()), both)
    accuracies, divergences = zip(
        *(accuracy_and_divergence("mobilenet", recipe) for recipe in recipes), strict=True
    )

    assert accuracies[0] == pytest.approx(0.902, abs=0.02)
    assert accuracies[1] >= 0.96
    assert divergences[2] < divergences[1] < divergences[0]
