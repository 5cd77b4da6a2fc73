"""Configurations that are run give what the quantized model gives, in whatever order they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import LogitResponse, calibrate, quantize_model, verify_configurations
from quant_engine.metrics.functions import kl_divergence
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import OPTIONS, measure


class Encoder(nn.Module):
    """Leaves what it found for a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.skip = torch.relu(self.layer(x))
        return self.skip * 1.0


class SkipConnection(nn.Module):
    """Adds what its encoder left."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle, self.head = Encoder(), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.middle(self.encoder(x)))
        result: Tensor = self.head(y + self.encoder.skip)
        return result


class Normalizing(nn.Module):
    """Normalizes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x *= 3
        result: Tensor = self.second(torch.relu(self.first(x)))
        return result


class TiedDecoder(nn.Module):
    """Reads the weight of its first layer to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.middle = nn.Linear(6, 8, bias=False), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.middle(self.encode(x))), self.encode.weight.t())


MODELS = (SkipConnection, Normalizing, TiedDecoder)


def divergence(
    model: nn.Module, x: Tensor, response: LogitResponse, configuration: Mapping[str, str]
) -> float:
    """Run a quantized copy plainly."""
    quantized = quantize_model(model, [x.clone()], response.recipe(configuration))
    with torch.no_grad():
        return kl_divergence(model(x.clone()), quantized(x.clone()))


@pytest.mark.parametrize("kind", MODELS)
def test_configurations_are_verified_as_quantized_copies_answer(kind: type[nn.Module]) -> None:
    model, x = fill(kind()), seeded((12, 6))
    response = measure(model, x.clone())
    calibration = calibrate(model, [x.clone()])
    configurations = [{name: option} for option in OPTIONS for name in response.layers]
    configurations.append(dict.fromkeys(response.layers, "four"))
    expected = [divergence(model, x, response, c) for c in configurations]

    for order in (1, -1):
        scores = verify_configurations(
            model, calibration, response, configurations[::order], evaluation_data=[x.clone()]
        )
        measured = [score.kl_divergence for score in scores]
        assert measured == pytest.approx(expected[::order], rel=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_the_agreement_of_a_response_is_with_quantized_copies(kind: type[nn.Module]) -> None:
    model, x = fill(kind()), seeded((12, 6))
    response = measure(model, x.clone())

    points = (*response.agreement.single_points, *response.agreement.random_points)
    for point in points:
        expected = divergence(model, x, response, dict(point.configuration))
        assert point.measured == pytest.approx(expected, rel=1e-9)


def test_the_response_of_a_layer_whose_weight_is_read_is_measured_by_running() -> None:
    model, x = fill(TiedDecoder()), seeded((12, 6))
    response = measure(model, x)

    methods = {layer.name: layer.method for layer in response.report.layers}
    assert methods == {"encode": "run", "middle": "gradient"}
    assert "read" in response.report.layers[0].reason
    for option in OPTIONS:
        with torch.no_grad():
            changed = quantize_model(model, [x], response.recipe({"encode": option}))(x)
        predicted = response.predict({"encode": option})
        np.testing.assert_allclose(predicted, changed, rtol=1e-4, atol=1e-4)
