"""How much of the weights is on codes: every parameter once, wherever it is held."""

from __future__ import annotations

import torch
from torch import nn

from quant_engine import ModelReport, Recipe, analyze
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((4, 6))


class Mixed(nn.Module):
    """A Linear, a decoder tied to it, a bare matrix, positions that are added, and a norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.matrix = nn.Parameter(torch.zeros(6, 50))
        self.positions = nn.Parameter(torch.zeros(1, 6))
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight
        self.last = nn.Linear(50, 2)

    def forward(self, x):
        return self.last(self.tied(self.norm(self.first(x) + self.positions)) @ self.matrix)


def coverage_of(model, x=X, recipe=None):
    return analyze(fill(model), x, recipe, measure_time=False).coverage


def test_parameters_that_no_layer_reads_count():
    found = coverage_of(Mixed())

    assert found.weights == 36 + 300 + 100 + 6  # the tied matrix once; no biases, no norms
    assert found.on_codes == 436
    assert found.share == 436 / 442
    (group,) = found.left_out
    assert (group.weights, group.layers) == (6, ("",))
    assert "positions" in group.reason


def test_what_is_excluded_is_said_and_a_shared_weight_is_float_if_one_user_keeps_it():
    found = coverage_of(Mixed(), recipe=Recipe.default().with_excluded("tied", "last"))

    assert found.on_codes == 300
    assert [(group.weights, group.layers) for group in found.left_out] == [
        (100, ("last",)),
        (36, ("tied",)),
        (6, ("",)),
    ]


def test_a_model_all_of_whose_weights_are_quantized_is_covered():
    found = coverage_of(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    assert (found.weights, found.on_codes, found.left_out) == (40, 40, ())
    assert found.share == 1


def test_weights_of_recurrent_layers_count():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    found = coverage_of(Recurrent(), seeded((4, 5, 6)))
    assert (found.weights, found.on_codes) == (12 * 6 + 12 * 3 + 6, 12 * 6 + 12 * 3 + 6)


def test_coverage_survives_json():
    report = analyze(fill(Mixed()), X, measure_time=False)
    assert ModelReport.from_json(report.to_json()).coverage == report.coverage
