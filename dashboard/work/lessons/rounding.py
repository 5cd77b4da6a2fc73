"""The lesson “Rounding up can be right”: one layer, rounded to the nearest mark and by GPTQ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

import quant_engine
import sample_models
from dashboard.data.settings import Settings
from dashboard.work import service
from quant_engine.layers import QuantizedLayer
from quant_engine.scheme import PRESETS, Gptq, Recipe, TensorScheme

MODEL, LAYER = "mlp", "network.0"
"""Its inputs are the pixels themselves, so that no other layer has to run."""


@dataclass(frozen=True, slots=True)
class RoundedLayer:
    """A layer with rounded weights, on the test digits.

    Attributes:
        weight_error: Σ(ŵ-w)² / Σw².
        output_error: Σ(ŷ-y)² / Σy² of its output.
        moves: By how much each weight moved, in steps of its grid.
        images: Test digits that were asked.
        calibration_images: Digits that GPTQ looked at; none of them is a test digit.
    """

    weight_error: float
    output_error: float
    moves: tuple[float, ...]
    images: int
    calibration_images: int

    @property
    def beyond_nearest(self) -> float:
        """Share of the weights that did not go to their nearest mark."""
        return sum(abs(move) > 0.5 + 1e-3 for move in self.moves) / len(self.moves)


@lru_cache(maxsize=16)
def round_layer(bits: int, is_gptq: bool) -> RoundedLayer:
    """Round the weights of the layer, one scale for each output channel; inputs stay float."""
    layer = sample_models.load_model(MODEL).eval().get_submodule(LAYER)
    scheme = TensorScheme(bits=bits, granularity="per_channel")
    recipe = Recipe(scheme, None, remedies=(Gptq(),) if is_gptq else ())
    settings = Settings(MODEL, PRESETS["int8_per_channel"])
    seen = [images.flatten(1) for images, _ in service.calibration_batches(settings)]
    asked = torch.cat([images.flatten(1) for images, _ in service.evaluation_batches(MODEL)])
    rounded = quant_engine.quantize_model(layer, seen, recipe)
    assert isinstance(rounded, QuantizedLayer)
    before = layer.get_parameter("weight").detach()
    after = rounded.dequantized_weight().detach()
    with torch.inference_mode():
        wanted, found = layer(asked), rounded(asked)
    moves = (after - before) / rounded.weight_qparams.scale.reshape(-1, 1)
    return RoundedLayer(
        float((after - before).square().sum() / before.square().sum()),
        float((found - wanted).square().sum() / wanted.square().sum()),
        tuple(moves.flatten().tolist()),
        len(asked),
        sum(map(len, seen)),
    )
