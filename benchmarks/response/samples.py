"""Data of the sample models, and what all tables of the response share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from quant_engine import Recipe
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import calibrate_prepared
from quant_engine.variants.layers import LayerForms, build_forms
from quant_engine.variants.options import bit_options
from sample_models import get_model_info

RECIPE = Recipe.default()
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


def make_forms(model: nn.Module, samples: Samples) -> tuple[PreparedModel, LayerForms]:
    """Return the prepared model, and its layers at all widths."""
    prepared, meter = prepare_for(model, samples.calibration)[0], ProgressMeter(None, 0)
    calibration = calibrate_prepared(prepared, samples.calibration, meter)
    options = bit_options(RECIPE)
    return prepared, build_forms(
        model, prepared, RECIPE, options, calibration, meter, seen_only=True
    )
