"""Runs of models that do not answer with logits: embeddings, masks, values by a caller's function.

Their float weights are seeded, and everything else is really computed by the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from quant_engine import (
    LogitResponse,
    Output,
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


class Embedder(nn.Module):
    """Unit vectors of 6 values."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(5, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(torch.relu(self.trunk(x))), dim=1)


class Segmenter(nn.Module):
    """Four classes for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.trunk(x)))
        return found


def farthest(expected: Tensor, changed: Tensor) -> Tensor:
    """The largest error of each sample."""
    return (expected - changed).abs().flatten(1).amax(dim=1)


@dataclass(frozen=True, slots=True)
class Case:
    """A model, how it is judged, and the shape of its inputs."""

    build: Callable[[], nn.Module]
    output: Output
    shape: tuple[int, ...]
    metric: Callable[[Tensor, Tensor], Tensor] | None = None


CASES = {
    "embedding": Case(Embedder, Output(kind="embeddings"), (40, 5)),
    "mask": Case(Segmenter, Output(kind="mask", class_axis=1), (16, 3, 6, 6)),
    "function": Case(Embedder, Output(kind="values"), (40, 5), farthest),
}


@cache
def model_of(name: str) -> tuple[nn.Module, list[Tensor] | list[tuple[Tensor, Tensor]]]:
    """Return a model and its data; a mask has a label for every pixel."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(0)
    model = case.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        x = torch.randn(case.shape, generator=generator)
        if name == "mask":
            return model, [(x, model(x).argmax(1))]
    return model, [x]


@cache
def make_run(name: str, settings: Settings = SETTINGS) -> Run:
    """Return a run with its single-layer sensitivity."""
    (model, data), case = model_of(name), CASES[name]
    report = analyze(
        *(model, data, settings.recipe),
        output=case.output,
        metric=case.metric,
        evaluation_data=data,
        measure_time=False,
    )
    measured = measure_sensitivity(
        model, data, settings.recipe, output=case.output, metric=case.metric
    )
    return Run(settings, report, (measured,))


@cache
def make_prediction(name: str) -> Prediction:
    """Return a prediction, with 4 bits for all layers run for real."""
    (model, data), case = model_of(name), CASES[name]
    response = LogitResponse.measure(
        model, data, SETTINGS.recipe, output=case.output, agreement_configurations=8
    )
    four = response.uniform(next(o for o in response.options if o.startswith("int4")))
    (measured,) = verify_configurations(model, data, response, [four])
    point = ConfigurationPoint(as_pairs(four), response.score(four), measured)
    return Prediction(response, pareto_frontier(response, points=5), (point,))
