"""AdaRound finds good roundings of the published objective, for every kind of layer and grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.remedies import adaround
from quant_engine.remedies.adaround import Aim, Objective, learn_codes
from quant_engine.remedies.codes import OutputRows, SeenInputs, input_rows
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import AdaRound, Gptq, Recipe, TensorScheme
from sample_models import get_model_info
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.remedies.test_gptq import KINDS, Odd, quantized

FAST = AdaRound(steps=150, learning_rate=0.05)
SCHEMES = {
    "per_tensor": TensorScheme(3),
    "per_channel": TensorScheme(4, symmetric=False, granularity="per_channel"),
    "per_group": TensorScheme(2, granularity="per_group", group_size=5),
}
every_kind = pytest.mark.parametrize(
    ("kind", "scales"), list(zip(KINDS, itertools.cycle(SCHEMES), strict=False))
)


def treated(
    model: nn.Module, x: Tensor, recipe: Recipe, remedy: AdaRound = FAST
) -> tuple[nn.Module, tuple[Treatment, ...]]:
    """The quantized model, and what AdaRound says it did."""
    recipe = recipe.with_remedy(remedy)
    report = analyze(model, [x], recipe, measure_time=False)
    found = tuple(t for t in report.treatments if t.remedy == "adaround")
    return quantize_model(model, [x], recipe), found


def aim_of(module: nn.Module, scheme: TensorScheme, x: Tensor, x_hat: Tensor) -> Aim:
    layer = quantized(module, scheme)
    x, x_hat = input_rows(layer, x.double()), input_rows(layer, x_hat.double())
    rows = OutputRows.of(layer, module, SeenInputs.of(x_hat))
    y = rows.weight @ x
    return Aim(rows, y @ x_hat.transpose(1, 2), y.square().sum().item())


@every_kind
@pytest.mark.parametrize("beta", [None, 20.0, 3.0])
def test_the_gradient_is_that_of_the_published_objective(
    kind: str, scales: str, beta: float | None
) -> None:
    module, shape = KINDS[kind]
    module, x = fill(module), seeded(shape) + 0.2
    x_hat = x + 0.1 * seeded(shape, 1)
    aim, weight = aim_of(module, SCHEMES[scales], x, x_hat), 0.7
    rows, objective = aim.rows, Objective.of(aim)
    inputs, outputs = (input_rows(rows.layer, z.double()) for z in (x_hat, x))
    v = (3 * seeded(tuple(rows.weight.shape), 2)).double().requires_grad_()

    h = (1.2 * v.sigmoid() - 0.1).clamp(0, 1)
    steps = (rows.weight / rows.scale).floor() + h
    low, high = (edge - rows.points for edge in (rows.grid.qmin, rows.grid.qmax))
    ŵ = rows.scale * steps.maximum(low).minimum(high)
    moves = ((rows.weight / rows.scale).floor() >= low) & (
        (rows.weight / rows.scale).floor() < high
    )
    alone = ((moves * rows.scale) ** 2 * inputs.square().sum(2)[:, None]).mean(2)
    loss = ((rows.weight @ outputs - ŵ @ inputs).square().sum(2) / alone).sum()
    if beta is not None:
        loss = loss + weight * (1 - (2 * h - 1).abs() ** beta).sum()
    loss.backward()

    found = objective.gradient(v.detach().float(), weight, beta)
    assert v.grad is not None
    torch.testing.assert_close(found.double(), v.grad, rtol=1e-3, atol=1e-4)
    expected = rows.weight / rows.scale - (rows.weight / rows.scale).floor()
    start = (1.2 * objective.start().sigmoid() - 0.1).clamp(0, 1)
    torch.testing.assert_close(start.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_tiny_layer_is_rounded_about_as_well_as_it_can_be(seed: int) -> None:
    module = fill(nn.Linear(9, 4), seed)
    mix = seeded((9, 9), seed + 10) + 2 * torch.eye(9)
    x = seeded((30, 9), seed) @ mix  # inputs that depend on each other
    aim = aim_of(module, TensorScheme(3, granularity="per_channel"), x, x)
    rows, lower = aim.rows, Objective.of(aim).lower
    ups = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9))).double()
    best = 0.0
    for row in range(4):
        steps = (lower[0, row] + ups).clamp(rows.grid.qmin, rows.grid.qmax)
        error = rows.weight[0, row] - steps * rows.scale[0, row]
        best += ((error @ rows.hessian[0]) * error).sum(1).min().item()
    best = (best / aim.energy) ** 0.5

    codes, _ = learn_codes(aim, replace(FAST, steps=600, learning_rate=0.02), lambda _: None)

    assert best <= aim.error(codes) <= 1.25 * best
    assert aim.error(codes) < 0.95 * aim.error(rows.codes)


@every_kind
def test_codes_are_next_to_their_weights_and_errors_are_those_of_the_layer(
    kind: str, scales: str
) -> None:
    module, shape = KINDS[kind]
    module, x = fill(module), seeded(shape) + 0.2
    recipe = Recipe(SCHEMES[scales])

    plain = quantize_model(nn.Sequential(module), [x], recipe)
    model, (found,) = treated(nn.Sequential(module), x, recipe)

    layer, nearest = model[0], plain[0]
    grid = layer.weight_qparams
    scale, points = (grid.aligned(z, module.weight.shape) for z in (grid.scale, grid.zero_point))
    steps = module.weight.detach().double() / scale.double() + points
    codes = layer.quantized_weight.double()
    is_inside = (steps >= grid.qmin) & (steps <= grid.qmax)
    assert ((codes - steps).abs() < 1)[is_inside].all()
    assert grid.qmin <= codes.min() <= codes.max() <= grid.qmax
    assert torch.equal(grid.scale, nearest.weight_qparams.scale)
    assert found.is_applied
    assert not torch.equal(codes, nearest.quantized_weight.double())
    offset = 0.0 if module.bias is None else module(torch.zeros_like(x)).detach()
    with torch.no_grad():
        y = module(x) - offset
        errors = [
            ((form(x) - module(x)).square().sum() / y.square().sum()).sqrt().item()
            for form in (nearest, layer)
        ]
    assert [found.error_before, found.error_after] == pytest.approx(errors, rel=1e-3)
    assert errors[1] < errors[0]
    by_gptq = analyze(nn.Sequential(module), [x], recipe.with_remedy(Gptq()), measure_time=False)
    gptq = by_gptq.treatments[0]
    if gptq.is_applied:
        assert found.error_by_gptq == pytest.approx(gptq.error_after)


class Twice(nn.Module):
    """A layer that runs twice in a pass, behind another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        result: Tensor = self.again(torch.relu(hidden)) + self.again(torch.tanh(hidden))
        return result


def test_a_layer_is_rounded_for_what_the_rounded_ones_before_it_give() -> None:
    model, x = fill(Twice()), seeded((50, 6))
    result, found = treated(model, x, Recipe(TensorScheme(3), TensorScheme(4, symmetric=False)))

    inputs: dict[nn.Module, list[Tensor]] = {}
    for layer in (model.again, result.again):
        layer.register_forward_pre_hook(
            lambda module, args: inputs.setdefault(module, []).append(args[0].detach().double())
        )
    model(x)
    result(x)
    weights = model.again.weight.double(), result.again.dequantized_weight().double()
    y, ŷ = (
        torch.cat([x @ w.T for x in inputs[layer]])
        for w, layer in zip(weights, (model.again, result.again), strict=True)
    )
    expected = (y - ŷ).norm() / y.norm()
    assert found[1].error_after == pytest.approx(expected.item(), rel=1e-5)


def test_a_layer_by_itself_is_rounded_for_float_inputs_whatever_else_is_rounded() -> None:
    model, x = fill(Twice()), seeded((50, 6))
    recipe = Recipe(TensorScheme(3), TensorScheme(4, symmetric=False))
    alone = replace(FAST, is_sequential=False)

    result, found = treated(model, x, recipe, alone)
    only, _ = treated(model, x, recipe, replace(alone, layers=("again",)))
    behind, _ = treated(model, x, recipe)

    assert torch.equal(result.again.quantized_weight, only.again.quantized_weight)
    assert not torch.equal(result.again.quantized_weight, behind.again.quantized_weight)
    inputs: list[Tensor] = []
    model.again.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach().double()))
    model(x)
    rows = torch.cat(inputs)
    weight, rounded = model.again.weight.double(), result.again.dequantized_weight().double()
    expected = (rows @ (weight - rounded).T).norm() / (rows @ weight.T).norm()
    assert found[1].error_after == pytest.approx(expected.item(), rel=1e-5)
    assert found[1].error_of == "layer outputs, from weights alone"


def test_where_gptq_rounds_too_the_codes_with_the_smaller_error_stay() -> None:
    model, x = fill(nn.Sequential(nn.Linear(12, 8))), seeded((40, 12))
    recipe = Recipe(TensorScheme(3)).with_remedy(Gptq())
    by_gptq = quantize_model(model, [x], recipe)[0].quantized_weight

    both, (found,) = treated(model, x, recipe, replace(FAST, steps=1))
    better, (learned,) = treated(model, x, recipe, FAST)

    assert not found.is_applied
    assert found.reason == "its output error would be larger than it is"
    assert torch.equal(both[0].quantized_weight, by_gptq)
    assert learned.error_before == learned.error_by_gptq or not learned.is_applied
    assert torch.equal(better[0].quantized_weight, by_gptq) != learned.is_applied


def test_without_a_smaller_error_the_codes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 4))), seeded((40, 6))
    recipe = Recipe(TensorScheme(4))
    plain = quantize_model(model, [x], recipe)[0].quantized_weight
    monkeypatch.setattr(adaround, "learn_codes", lambda aim, *_: (-aim.rows.codes, 0))

    result, (found,) = treated(model, x, recipe)

    assert torch.equal(result[0].quantized_weight, plain)
    assert not found.is_applied


class Picky(nn.Module):
    """How much enters the second layer depends on the values of the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        result: Tensor = self.second(x[: 1 + int(1e4 * x.abs().sum()) % 31])
        return result.mean(0, keepdim=True)


def test_a_layer_whose_inputs_cannot_be_paired_is_named() -> None:
    _, found = treated(fill(Picky()), seeded((40, 4)), Recipe(TensorScheme(4)))

    assert found[0].is_applied
    assert found[1].reason == "its inputs have other shapes once the model is quantized"


def test_what_cannot_be_rounded_so_is_named() -> None:
    recipe = Recipe(TensorScheme(bits=4), remedies=(FAST,))

    report = analyze(fill(Odd()), [torch.arange(10).view(5, 2)], recipe, measure_time=False)

    assert {found.layers[0]: found.reason for found in report.treatments} == {
        "table": "it looks rows up, so its weights are not summed with those of other inputs",
        "a": "it shares its weight with another layer",
        "b": "it shares its weight with another layer",
        "idle": "nothing entered it on the calibration data",
    }
    assert ModelReport.from_json(report.to_json()) == report


def test_weights_that_had_not_settled_are_counted_and_rounded_to_the_nearer_code() -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 4))), seeded((40, 6))
    plain = quantize_model(model, [x], Recipe(TensorScheme(4)))[0].quantized_weight

    result, (found,) = treated(model, x, Recipe(TensorScheme(4)), AdaRound(steps=1))

    assert "of 24 weights had not settled" in found.reason
    assert torch.equal(result[0].quantized_weight, plain)


class StoppedError(Exception):
    """Somebody cancelled."""


Heard = list[tuple[int, int, str]]


def listen(stop_at: int | None = None) -> tuple[Callable[[int, int, str], None], Heard]:
    """What to give as progress, and what it heard of AdaRound: done, total and text."""
    heard: Heard = []

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("round by AdaRound"):
            heard.append((done, total, text))
            if len(heard) == stop_at:
                raise StoppedError

    return progress, heard


def test_progress_moves_within_layers_and_can_cancel_there() -> None:
    model, x = fill(nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4))), seeded((40, 6))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    recipe = Recipe(TensorScheme(4), remedies=(FAST,))
    progress, heard = listen()

    analyze(model, [x], recipe, measure_time=False, progress=progress)

    done = [entry[0] for entry in heard]
    assert len({entry[1] for entry in heard}) == 1  # the total is known from the beginning
    assert done == sorted(done)
    assert done[-1] - done[0] == 2 * adaround.STEPS_PER_LAYER
    first = [entry for entry in heard if entry[2] == "round by AdaRound: 0 (layer 1 of 2)"]
    assert len(first) == FAST.steps + 1  # after the inputs of the one batch, and every step
    assert len({entry[0] for entry in first}) > 90
    stopping, reached = listen(stop_at=20)
    with pytest.raises(StoppedError):
        quantize_model(model, [x], recipe, progress=stopping)
    assert len(reached) == 20
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_few_bits_lose_far_less_than_to_the_nearest_code_and_no_more_than_by_gptq() -> None:
    info = get_model_info("mlp")
    calibration, test = info.load_inputs("calibration")[0][:200], info.load_inputs("test")
    plain = Recipe(TensorScheme(3), TensorScheme(symmetric=False))
    lost = []
    for recipe in (
        plain,
        plain.with_remedy(Gptq()),
        plain.with_remedy(AdaRound(steps=250, learning_rate=0.03)),
    ):
        report = analyze(
            info.load(), [calibration], recipe, evaluation_data=[test], measure_time=False
        )
        assert report.output is not None
        lost.append(report.output.kl_divergence)

    assert lost[2] < lost[0] / 8
    assert lost[2] < lost[1]
