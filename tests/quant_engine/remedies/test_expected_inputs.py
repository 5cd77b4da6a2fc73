"""Means of inputs by BatchNorm: of clipped normals in closed form, and of data that are normal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.errors import SchemeError
from quant_engine.graph.capture import capture_graph
from quant_engine.graph.layer_calls import LayerCalls
from quant_engine.graph.nodes import module_path
from quant_engine.model.batches import iterate_batches
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.remedies.expected_inputs import expected_input, known_statistics
from quant_engine.report import ModelReport, Treatment
from quant_engine.scheme import (
    BATCH_NORM,
    BiasCorrection,
    CrossLayerEqualization,
    Recipe,
    SmoothQuant,
    TensorScheme,
)
from tests.quant_engine.layer_cases import fill, seeded

WEIGHTS = Recipe(TensorScheme(3, granularity="per_channel"))
BY_BATCH_NORM = BiasCorrection(means=BATCH_NORM)


def above(mean: float, deviation: float, edge: float) -> float:
    """E[max(0, x - edge)] of a normal, in closed form."""
    z = (mean - edge) / deviation
    share = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    return deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + (mean - edge) * share


CLOSED = {
    "nothing": (nn.Identity(), lambda m, s: m),
    "relu": (nn.ReLU(), lambda m, s: above(m, s, 0)),
    "relu6": (nn.ReLU6(), lambda m, s: above(m, s, 0) - above(m, s, 6)),
    "hardtanh": (nn.Hardtanh(-1, 2), lambda m, s: above(m, s, -1) - above(m, s, 2) - 1),
    "leaky": (nn.LeakyReLU(0.1), lambda m, s: 0.9 * above(m, s, 0) + 0.1 * m),
}


def model_with(activation: nn.Module, *, rest: nn.Module | None = None) -> nn.Sequential:
    """A convolution and a BatchNorm with statistics of many kinds, an activation, and a reader."""
    model = nn.Sequential(
        nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5), activation, rest or nn.Conv2d(5, 3, 3, padding=1)
    )
    model = fill(model)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -0.5, 2.0, 3.0, 1e-3]))
        model[1].bias.copy_(torch.tensor([0.0, 1.0, -3.0, 5.0, 0.2]))
        model[1].running_mean.copy_(torch.linspace(-1, 1, 5))
        model[1].running_var.copy_(torch.linspace(0.5, 2, 5))
    return model.eval()


def told(model: nn.Module, x: Tensor) -> Tensor:
    """What BatchNorm tells of the last layer's input."""
    prepared, data, _ = prepare_for(model, x)
    graph = capture_graph(prepared.model, next(iterate_batches(data)))
    node = [n for n in graph.graph.nodes if module_path(n) == "3" and n.op == "call_function"][-1]
    calls = LayerCalls(prepared.model, graph)
    return expected_input(node, calls, known_statistics(prepared))


@pytest.mark.parametrize("kind", CLOSED)
def test_means_are_those_of_clipped_normals(kind: str) -> None:
    activation, mean_of = CLOSED[kind]
    model, x = model_with(activation), seeded((2, 2, 6, 6))

    found = told(model, x)

    assert found.shape == (1, 5, 6, 6)
    norm = model[1]
    ratio = (norm.running_var / (norm.running_var + norm.eps)).sqrt()
    for channel in range(5):
        deviation = (norm.weight.abs() * ratio)[channel].item()
        expected = mean_of(norm.bias[channel].item(), deviation)
        assert found[0, channel, 3, 2].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Sigmoid()])
def test_means_of_other_activations_are_those_of_many_samples(activation: nn.Module) -> None:
    model, x = model_with(activation), seeded((2, 2, 6, 6))

    found = told(model, x)[0, :, 0, 0]

    noise = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(1))
    samples = activation(model[1].bias + model[1].weight.abs() * noise)
    torch.testing.assert_close(found.float(), samples.mean(dim=0), rtol=0.01, atol=0.02)


@settings(max_examples=10)
@given(st.integers(0, 100))
def test_what_remedies_moved_between_layers_is_in_them(seed: int) -> None:
    """The statistics of treated layers are those of the treated layers' outputs."""
    model = model_with(nn.ReLU())
    x = seeded((64, 2, 6, 6), seed)
    with torch.no_grad():  # statistics of this very data
        y = model[0](x)
        model[1].running_mean.copy_(y.mean((0, 2, 3)))
        model[1].running_var.copy_(y.var((0, 2, 3), unbiased=False))
        model[1].bias[3] = 60.0  # an offset that is absorbed where padding allows it
        model[3].padding = (0, 0)
    recipe = replace(WEIGHTS, remedies=(CrossLayerEqualization(), SmoothQuant(alpha=0.5)))
    recipe = replace(recipe, activation=TensorScheme(symmetric=False))
    prepared, data, _ = prepare_for(model, x)
    treated = treat_float_model(prepared, recipe, data)

    mean, deviation = known_statistics(treated)["0"]

    assert any(done.shift for done in treated.treatments)
    output = treated.model[0](x).double()  # type: ignore[index, operator]
    torch.testing.assert_close(output.mean((0, 2, 3)), mean, rtol=1e-3, atol=1e-3)
    spread = output.var((0, 2, 3), unbiased=False).sqrt()
    torch.testing.assert_close(spread, deviation, rtol=1e-3, atol=1e-4)


class Pool(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head = kind, nn.Linear(5 if kind != "flat" else 180, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            x = F.max_pool2d(x, 6)
        if self.kind == "add":
            x = x + x.roll(1, 1)
        if self.kind == "late":
            x = F.relu(x.mean((2, 3)))
        if self.kind in ("add", "mean"):
            x = F.adaptive_avg_pool2d(x, 1)
        result: Tensor = self.head(torch.flatten(x, 1))
        return result


def treated_by(model: nn.Module, x: Tensor, recipe: Recipe) -> dict[str, Treatment]:
    report = analyze(model, x, recipe.with_remedy(BY_BATCH_NORM), measure_time=False)
    assert ModelReport.from_json(report.to_json()) == report
    return {done.layers[0]: done for done in report.treatments}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("max", "max_pool2d, whose mean BatchNorm does not tell"),
        ("add", "an addition, whose mean BatchNorm does not tell"),
        ("late", "relu reads averages of a BatchNorm"),
        ("flat", "it reads single positions of channels"),
    ],
)
def test_what_batchnorm_does_not_tell_is_said(kind: str, reason: str) -> None:
    model, x = model_with(nn.ReLU(), rest=Pool(kind)), seeded((8, 2, 6, 6))

    done = treated_by(model, x, WEIGHTS)

    assert not done["3.head"].is_applied
    assert reason in done["3.head"].reason
    assert "the model's input, whose mean" in done["0"].reason


def test_a_layer_behind_no_batchnorm_is_refused() -> None:
    done = treated_by(
        fill(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))), seeded((9, 4)), WEIGHTS
    )

    assert "no BatchNorm was folded into '0'" in done["2"].reason


def test_on_normal_data_it_corrects_what_measuring_corrects() -> None:
    model = model_with(nn.ReLU(), rest=nn.Conv2d(5, 3, 3, padding=1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(seeded((5, 2, 1, 1)))
        model[0].bias.zero_()
    x = torch.randn(400, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model[0](x).detach()
    model[1].running_mean.copy_(y.mean((0, 2, 3)))
    model[1].running_var.copy_(y.var((0, 2, 3), unbiased=False))
    recipe = replace(WEIGHTS, exclude_layers=("0",))

    done = treated_by(model, x, recipe)["3"]
    measured = quantize_model(model, x, recipe.with_remedy(BiasCorrection()))
    computed = quantize_model(model, x, recipe.with_remedy(BY_BATCH_NORM))

    assert done.is_applied
    assert done.error_after < 0.05 * done.error_before
    torch.testing.assert_close(computed[3].bias, measured[3].bias, rtol=0.02, atol=0.01)


def test_means_are_one_of_two_and_told_apart_in_a_recipe() -> None:
    with pytest.raises(SchemeError, match="means of BiasCorrection"):
        BiasCorrection(means="moments")
    with pytest.raises(SchemeError, match="Leave one of the two out"):
        BiasCorrection(is_sequential=False, means=BATCH_NORM)
    assert "means" not in BiasCorrection().to_dict()
    for remedy in (BiasCorrection(), BY_BATCH_NORM):
        assert BiasCorrection.from_dict(remedy.to_dict()) == remedy
