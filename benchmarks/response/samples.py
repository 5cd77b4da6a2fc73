"""Data of the sample models, and what all tables of the response share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quant_engine import (
    Recipe,
)
from sample_models import get_model_info

RECIPE = Recipe.default()
OPTION_BITS = (8, 6, 4, 3, 2)
BATCH = 100


@dataclass(frozen=True)
class Samples:
    """Data of one model: ranges come from `calibration`, figures from `test`."""

    calibration: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]


def load_samples(model: str) -> Samples:
    info = get_model_info(model)

    def batches(split: str) -> list[tuple[Tensor, Tensor]]:
        inputs, labels = info.load_inputs(split)
        return list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))

    return Samples(batches("calibration"), batches("test"))
