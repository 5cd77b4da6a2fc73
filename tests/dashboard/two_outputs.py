"""A small detector with boxes as values and scores as probabilities, as the dashboard stores runs.

Its float weights are seeded, and everything else is really computed by the engine.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from quant_engine import (
    LogitResponse,
    analyze,
    measure_sensitivity,
    pareto_frontier,
    verify_configurations,
)
from quant_engine.report import ConfigurationPoint
from quant_engine.response import as_pairs
from quant_engine.scheme import PRESETS

SETTINGS = Settings("mlp", PRESETS["int8_per_tensor"])
OTHER = Settings("mlp", PRESETS["int8_mse"])
LINK = {"run": "mlp int8_per_tensor"}
PAIR = {"a": "mlp int8_per_tensor", "b": "mlp int8_mse"}
JUDGED = "2 outputs, `boxes` as values by NMSE, `scores` as probabilities by KL"


class Detector(nn.Module):
    """A trunk, four box values and probabilities of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.box, self.score = nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.trunk(x))
        return {"boxes": self.box(h), "scores": (3.0 * self.score(h)).softmax(1)}


@cache
def detector() -> tuple[Detector, list[tuple[Tensor, dict[str, Tensor]]]]:
    """Return the model, and batches with a class for each sample."""
    generator = torch.Generator().manual_seed(0)
    model = Detector().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
        x = torch.randn(60, 4, generator=generator)
        labels = model(x)["scores"].argmax(1)
    labels[:6] = (labels[:6] + 1) % 3
    return model, [(x, {"scores": labels})]


@cache
def make_run(settings: Settings = SETTINGS) -> Run:
    """Return a run with its single-layer sensitivity."""
    model, data = detector()
    report = analyze(model, data, settings.recipe, evaluation_data=data, measure_time=False)
    measured = measure_sensitivity(model, data, settings.recipe)
    return Run(settings, report, (measured,))


@cache
def make_prediction() -> Prediction:
    """Return a prediction, with 4 bits for all layers run for real."""
    model, data = detector()
    response = LogitResponse.measure(model, data, SETTINGS.recipe, agreement_configurations=8)
    four = response.uniform(next(o for o in response.options if o.startswith("int4")))
    (measured,) = verify_configurations(model, data, response, [four])
    point = ConfigurationPoint(as_pairs(four), response.score(four), measured)
    return Prediction(response, pareto_frontier(response, points=5), (point,))
