"""The lesson “Do errors add up?”: layers at 4 bits one by one, and together, as they were run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from dashboard.data.prediction import Prediction
from dashboard.data.runs import now
from dashboard.work import prediction_service, service
from dashboard.work.lessons.numbers import LessonNumbers
from quant_engine.report import ConfigurationPoint
from quant_engine.variants import FLOAT_OPTION

MODEL = "resnet"
BITS = 4
COSTLIEST = 10
"""Pairs are sought among so many layers that cost most alone: others move too little."""

CANCEL, ADD, FOUR, ALL = "cancelling pair", "adding pair", "four worst", "all"
BY_SUMS, BY_ARROWS = "by sums", "by arrows"
"""How the bits of every layer are chosen in the bytes of all layers at `BITS`."""

_PRICES = (1e-12, 1.0)
"""In nats for a byte: at the first everything stays float, at the last nothing does."""
_HALVINGS = 60


class _Quiet:
    """Takes reports of progress that nobody waits for."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Note nothing."""

    def on_update(self, snapshot: Callable[[], object]) -> None:
        """Take nothing."""


def option_of(prediction: Prediction) -> str:
    """Return the name of the option that gives weights `BITS` bits."""
    return next(name for name, letter in prediction.letters.items() if letter == str(BITS))


def choose_sets(prediction: Prediction) -> dict[str, tuple[str, ...]]:
    """Return sets of layers, chosen by prediction: two pairs, the four worst, all."""
    option = option_of(prediction)
    alone = {layer: prediction.alone[layer, option] for layer in prediction.response.layers}
    worst = sorted(alone, key=lambda layer: -alone[layer])[:COSTLIEST]

    def ratio(layers: tuple[str, ...]) -> float:
        together = prediction.score(dict.fromkeys(layers, option)).degradation
        return together / sum(alone[layer] for layer in layers)

    pairs = sorted(combinations(worst, 2), key=ratio)
    return {CANCEL: pairs[0], ADD: pairs[-1], FOUR: tuple(worst[:4]), ALL: tuple(alone)}


def budget_of(prediction: Prediction) -> int:
    """Return the bytes of the model with all layers at `BITS`."""
    return prediction.response.size(prediction.uniform(option_of(prediction))).model_bytes


def plan_by_sums(prediction: Prediction) -> dict[str, str]:
    """Return the bits that cost least in these bytes if what layers cost alone could be added.

    Each layer takes the option with the least cost alone plus price times bytes; the lowest price
    that keeps to the budget is found by bisection (Shoham and Gersho 1988,
    doi.org/10.1109/29.90373).
    """
    budget, layers = budget_of(prediction), prediction.response.layers
    in_float = prediction.response.size({}).model_bytes
    choices = {
        (layer, option): (
            prediction.alone[layer, option],
            prediction.response.size({layer: option}).model_bytes - in_float,
        )
        for layer in layers
        for option in prediction.letters
        if option != FLOAT_OPTION
    } | {(layer, FLOAT_OPTION): (0.0, 0) for layer in layers}

    def plan(price: float) -> dict[str, str]:
        def cost(layer: str, option: str) -> float:
            alone, size = choices[layer, option]
            return alone + price * size

        best = {
            layer: min(prediction.letters, key=lambda option: cost(layer, option))
            for layer in layers
        }
        return {layer: option for layer, option in best.items() if option != FLOAT_OPTION}

    low, high = _PRICES
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if prediction.response.size(plan(middle)).model_bytes <= budget:
            high = middle
        else:
            low = middle
    return plan(high)


def plan_by_arrows(prediction: Prediction) -> dict[str, str]:
    """Return the bits that a search finds in these bytes, directions of errors counted."""
    return prediction_service.find_best(prediction, "bytes", budget_of(prediction))


def measure() -> LessonNumbers:
    """Run the model with every layer of the sets alone, and with every set; takes seconds."""
    run, prediction = service.example_run(MODEL), prediction_service.example_prediction(MODEL)
    if run is None or prediction is None:
        raise FileNotFoundError(f"the stored run and prediction of {MODEL} are needed")
    option, sets = option_of(prediction), choose_sets(prediction)
    plans = {BY_SUMS: plan_by_sums(prediction), BY_ARROWS: plan_by_arrows(prediction)}
    configurations: list[Mapping[str, str]] = [{layer: option} for layer in sets[ALL]]
    configurations += [dict.fromkeys(layers, option) for layers in sets.values()]
    configurations += plans.values()
    points = prediction_service.verify(run.settings, prediction, configurations, _Quiet())
    alone = dict(zip(sets[ALL], map(_numbers, points), strict=False))
    together = dict(zip(sets, map(_numbers, points[len(alone) : -len(plans)]), strict=True))
    values = {
        "test_images": run.report.evaluation_samples,
        "alone": alone,
        "sets": {name: {"layers": sets[name], **together[name]} for name in sets},
        "plans": {
            name: {"letters": prediction.to_text(plan), **_numbers(point)}
            for (name, plan), point in zip(plans.items(), points[-len(plans) :], strict=True)
        },
    }
    return LessonNumbers(now(), service.processor(), values)


def _numbers(point: ConfigurationPoint) -> dict[str, Any]:
    assert point.measured is not None
    low, high = point.measured.interval or (point.measured.degradation,) * 2
    found = (point.predicted.degradation, point.measured.degradation, low, high)
    predicted, measured, low, high = (float(f"{value:.5g}") for value in found)
    return {"predicted": predicted, "measured": measured, "interval": [low, high]}
