"""The lesson “Two loud channels”: difficulty moved between inputs and weights, by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

import quant_engine
import sample_models
from dashboard.data.runs import now
from dashboard.data.settings import Settings
from dashboard.work import service
from dashboard.work.lessons.numbers import LessonNumbers
from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.scheme import PRESETS, Recipe, SmoothQuant

LAYER = "blocks.0.fc1"
"""A layer that reads the loud channels."""

NOTHING = "nothing"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOVES = (NOTHING, *map(str, ALPHAS))
"""What is done: nothing, or SmoothQuant with one alpha."""

LOUD, PLAIN = "loud, 8 bits", "plain, 4 bits"
CASES: Mapping[str, tuple[str, int]] = {LOUD: ("vit_outlier_channels", 8), PLAIN: ("vit", 4)}
"""A model and the bits of its weights; inputs have 8."""


def case_settings(case: str, move: str) -> Settings:
    """Return the settings of a run of one case after one move."""
    model, bits = CASES[case]
    base = PRESETS["int8_per_channel"]
    remedies = () if move == NOTHING else (SmoothQuant(alpha=float(move)),)
    return Settings(
        model, Recipe(replace(base.weight, bits=bits), base.activation, remedies=remedies)
    )


def logits_of(settings: Settings) -> Tensor:
    """Return the logits of the quantized model for the test digits."""
    model = quant_engine.quantize_model(
        sample_models.load_model(settings.model_name),
        service.calibration_batches(settings),
        settings.recipe,
    )
    batches = service.evaluation_batches(settings.model_name)
    with torch.inference_mode():
        return torch.cat([model(images) for images, _ in batches])


def measure() -> LessonNumbers:
    """Quantize both models after every move, and ask them the test digits; takes a minute."""
    cases, images = {}, 0
    for case, (name, bits) in CASES.items():
        batches = service.evaluation_batches(name)
        labels = torch.cat([wanted for _, wanted in batches])
        with torch.inference_mode():
            before = torch.cat([sample_models.load_model(name).eval()(x) for x, _ in batches])
        images = len(labels)
        found, moves = {}, {}
        for move in MOVES:
            settings = case_settings(case, move)
            logits = logits_of(settings)
            found[move] = _divergences(before, logits)
            moves[move] = {
                "right": int((logits.argmax(1) == labels).sum()),
                "kl": _short(float(found[move].mean())),
                "kl_change": [_short(end) for end in _interval(found[move] - found[NOTHING])],
                **_channels(settings),
            }
        right = int((before.argmax(1) == labels).sum())
        cases[case] = {"model": name, "bits": bits, "float_right": right, "moves": moves}
    values = {"test_images": images, "layer": LAYER, "cases": cases}
    return LessonNumbers(now(), service.processor(), values)


def _divergences(before: Tensor, after: Tensor) -> Tensor:
    """KL(float || quantized) of each digit, in nats."""
    p, q = before.double().log_softmax(1), after.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def _interval(differences: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, by the normal distribution."""
    mean = float(differences.mean())
    half = NormalDist().inv_cdf(0.975) * float(differences.std()) / len(differences) ** 0.5
    return mean - half, mean + half


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _channels(settings: Settings) -> dict[str, Any]:
    """Largest input and largest weight of every input channel of the layer, after the move."""
    batches = service.calibration_batches(settings)
    prepared = prepare_for(sample_models.load_model(settings.model_name), batches)[0]
    model = treat_float_model(prepared, settings.recipe, batches).model
    layer = model.get_submodule(LAYER)
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().abs().flatten(0, -2).amax(0))
    )
    with torch.inference_mode():
        for images, _ in batches:
            model(images)
    hook.remove()
    inputs = torch.stack(seen).amax(0)
    weights = layer.get_parameter("weight").detach().abs().amax(0)
    return {
        "inputs": [_short(value) for value in inputs.tolist()],
        "weights": [_short(value) for value in weights.tolist()],
    }
