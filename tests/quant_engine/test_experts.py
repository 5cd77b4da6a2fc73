"""Experts that get no rows: of the calibration data, of the evaluation data, or of both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    PRESETS,
    LogitResponse,
    analyze,
    measure_sensitivity,
    quantize_model,
    verify_configurations,
)
from quant_engine.execution.convert import convert_execution
from tests.quant_engine.layer_cases import fill, seeded


class Experts(nn.Module):
    """Sends rows with a positive first value to one expert and the others to another one."""

    def __init__(self, is_called_without_rows: bool) -> None:
        super().__init__()
        self.is_called_without_rows = is_called_without_rows
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for expert, is_mine in zip(self.experts, (x[:, 0] > 0, x[:, 0] <= 0), strict=True):
            if is_mine.any() or self.is_called_without_rows:
                y = y.index_add(0, is_mine.nonzero()[:, 0], expert(x[is_mine]))
        return y


def rows(*signs: int) -> list[Tensor]:
    """Return one batch for each sign: 1 goes to the first expert, -1 to the second, 0 to both."""
    batches = []
    for number, sign in enumerate(signs):
        x = seeded((20, 4), seed=number)
        if sign:
            x[:, 0] = sign * x[:, 0].abs()
        batches.append(x)
    return batches


@pytest.mark.parametrize("preset", ["int8_per_channel", "int8_dynamic", "int8_weights_only"])
@pytest.mark.parametrize("is_called", [False, True], ids=["not called", "called with no rows"])
@pytest.mark.parametrize(
    ("calibration", "evaluation"),
    [(rows(1, 1), rows(1)), (rows(1), rows(-1)), (rows(0), rows(1)), (rows(0), rows(-1, 1))],
    ids=["never", "only in evaluation", "only in calibration", "in one batch"],
)
def test_every_front_door_goes_on(
    preset: str, is_called: bool, calibration: list[Tensor], evaluation: list[Tensor]
) -> None:
    recipe, model = PRESETS[preset], fill(Experts(is_called)).eval()
    seen = "ran but saw no rows" if is_called else "never ran"
    is_idle = calibration[0][:, 0].min() > 0

    quantized = quantize_model(model, calibration, recipe)
    report = analyze(model, calibration, recipe, evaluation_data=evaluation, measure_time=False)
    sensitivity = measure_sensitivity(model, calibration, recipe, evaluation_data=evaluation)
    response = LogitResponse.measure(
        model, calibration, recipe, evaluation_data=evaluation, agreement_configurations=2
    )
    configuration = response.uniform(response.options[0])
    verify_configurations(model, calibration, response, [configuration], evaluation_data=evaluation)

    idle = report.layer("experts.1.0")
    if is_idle and preset == "int8_per_channel":
        assert (idle.status, seen in idle.reason) == ("unsupported", True)
        assert "experts.1.0" not in {layer.name for layer in sensitivity.layers}
    if is_idle:
        assert seen in dict(response.report.skipped)["experts.1.0"]
    assert report.layer("experts.0.0").is_quantized
    with torch.no_grad():
        integer = convert_execution(quantized, "integer")
        for x in evaluation:
            torch.testing.assert_close(integer(x), quantized(x), rtol=1e-3, atol=1e-3)
