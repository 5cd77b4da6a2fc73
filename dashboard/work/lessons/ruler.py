"""The lesson “One ruler for all channels?”: one model, one scale per weight, several repairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

import quant_engine
import sample_models
from dashboard.data.runs import now
from dashboard.data.settings import Settings
from dashboard.work import service
from dashboard.work.lessons.numbers import LessonNumbers
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.report import LayerReport
from quant_engine.scheme import PRESETS, BiasCorrection, CrossLayerEqualization, Gptq

MODEL = "mobilenet_unequal_channels"
LAYER = "blocks.0.depthwise"
"""A layer with few enough channels to see each of them."""

NOTHING = "nothing"
MORE_IMAGES = "more images"
SMARTER_RANGE = "smarter range"
BIAS_CORRECTION = "bias correction"
GPTQ = "GPTQ"
EQUALIZE = "equalize"
OWN_SCALES = "a scale each"


_PLAIN = PRESETS["int8_per_tensor"]
_MSE = replace(_PLAIN, weight=replace(_PLAIN.weight, observer="mse"), name="")
SETTINGS: Mapping[str, Settings] = {
    NOTHING: Settings(MODEL, _PLAIN),
    MORE_IMAGES: Settings(MODEL, _PLAIN),
    SMARTER_RANGE: Settings(MODEL, _MSE),
    BIAS_CORRECTION: Settings(MODEL, _PLAIN.with_remedy(BiasCorrection())),
    GPTQ: Settings(MODEL, _PLAIN.with_remedy(Gptq())),
    EQUALIZE: Settings(MODEL, _PLAIN.with_remedy(CrossLayerEqualization())),
    OWN_SCALES: Settings(MODEL, PRESETS["int8_per_channel"]),
}
"""What is done about the unequal channels, and the run that does it.

"more images" calibrates on the whole training split; the settings of a run know the calibration
split alone.
"""


def measure() -> LessonNumbers:
    """Run the model under every treatment on the test digits; takes seconds."""
    treatments, cpu, float_accuracy = {}, "", None
    for name, settings in SETTINGS.items():
        report = quant_engine.analyze(
            sample_models.load_model(MODEL),
            _calibration(name),
            settings.recipe,
            evaluation_data=service.evaluation_batches(MODEL),
            measure_time=False,
        )
        output = report.output
        assert output is not None
        treatments[name] = {
            "accuracy": output.accuracy_quantized,
            "calibration_images": report.calibration_samples,
            **_channels(report.layer(LAYER)),
        }
        float_accuracy = output.accuracy_float
        cpu = report.environment.cpu
    values = {
        "test_images": report.evaluation_samples,
        "float_accuracy": float_accuracy,
        "float_change": float_change(),
        "treatments": treatments,
    }
    return LessonNumbers(now(), cpu, values)


def _calibration(treatment: str) -> service.Batches:
    if treatment == MORE_IMAGES:
        inputs, labels = service.model_info(MODEL).load_inputs("train")
        size = service.BATCH_SIZE
        return list(zip(inputs.split(size), labels.split(size), strict=True))
    return service.calibration_batches(SETTINGS[treatment])


def _channels(layer: LayerReport) -> dict[str, Any]:
    """Largest weight and half a step of every channel, and how many weights became 0."""
    weight = layer.weight
    assert weight is not None
    assert weight.channels is not None
    ranges = weight.channels
    count = len(ranges.lo)
    scales = weight.scale if len(weight.scale) == count else weight.scale * count
    largest = [max(abs(lo), abs(hi)) for lo, hi in zip(ranges.lo, ranges.hi, strict=True)]
    return {
        "largest": [float(f"{value:.5g}") for value in largest],
        "half_step": [float(f"{scale / 2:.5g}") for scale in scales],
        "became_zero": sum(ranges.became_zero),
        "weights": count * ranges.channel_size,
    }


def float_change() -> float:
    """Return by how much equalization changes the float outputs, as a share of the largest."""
    model, batches = sample_models.load_model(MODEL), service.evaluation_batches(MODEL)
    settings = SETTINGS[EQUALIZE]
    prepared = prepare_for(model, batches)[0]
    treated = treat_float_model(prepared, settings.recipe, service.calibration_batches(settings))
    furthest, largest = 0.0, 0.0
    with torch.inference_mode():
        for images, _ in batches:
            before, after = prepared.model(images), treated.model(images)
            furthest = max(furthest, float((after - before).abs().max()))
            largest = max(largest, float(before.abs().max()))
    return furthest / largest
