"""Input channels whose weights are lost are counted for layers that have input channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quant_engine import Recipe, TensorScheme, analyze
from tests.quant_engine.layer_cases import fill, seeded


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(6, 4), (8, 6), 2),
        (nn.Conv2d(6, 4, 3), (8, 6, 5, 5), 2),
        (nn.ConvTranspose2d(6, 4, 3), (8, 6, 5, 5), 2),
        (nn.Conv2d(6, 6, 3, groups=6), (8, 6, 5, 5), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_columns_far_below_a_step_are_lost(
    layer: nn.Module, shape: tuple[int, ...], expected: int | None, granularity: str
) -> None:
    layer = fill(layer)
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    with torch.no_grad():
        weight = layer.get_parameter("weight")
        if expected is not None:
            columns = weight if is_transposed else weight.movedim(1, 0)
            columns[1] *= 1e-4
            columns[3] *= 1e-4
            columns[5] = 0.0  # what was nothing is not lost

    report = analyze(
        layer, seeded(shape), Recipe(TensorScheme(granularity=granularity)), measure_time=False
    )

    channels = report.layers[0].weight.channels  # type: ignore[union-attr]
    assert channels is not None
    assert channels.lost_inputs == expected
