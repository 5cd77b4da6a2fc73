"""The lesson “Do errors add up?”: layers at 4 bits one by one, and together, as they were run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from dashboard.data.prediction import Prediction
from dashboard.data.runs import now
from dashboard.work import prediction_service, service
from dashboard.work.lesson_numbers import LessonNumbers
from quant_engine.report import ConfigurationPoint

MODEL = "resnet"
BITS = 4
MOST_HARMFUL = 10
"""Pairs are sought among so many layers that harm most alone: others move too little."""

CANCEL, ADD, FOUR, ALL = "cancelling pair", "adding pair", "four worst", "all"


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
    worst = sorted(alone, key=lambda layer: -alone[layer])[:MOST_HARMFUL]

    def ratio(layers: tuple[str, ...]) -> float:
        together = prediction.score(dict.fromkeys(layers, option)).degradation
        return together / sum(alone[layer] for layer in layers)

    pairs = sorted(combinations(worst, 2), key=ratio)
    return {CANCEL: pairs[0], ADD: pairs[-1], FOUR: tuple(worst[:4]), ALL: tuple(alone)}


def measure() -> LessonNumbers:
    """Run the model with every layer of the sets alone, and with every set; takes a minute."""
    run, prediction = (
        service.example_run(MODEL),
        prediction_service.example_prediction(MODEL),
    )
    if run is None or prediction is None:
        raise FileNotFoundError(f"the stored run and prediction of {MODEL} are needed")
    option, sets = option_of(prediction), choose_sets(prediction)
    configurations = [{layer: option} for layer in sets[ALL]]
    configurations += [dict.fromkeys(layers, option) for layers in sets.values()]
    points = prediction_service.verify(run.settings, prediction, configurations, _Quiet())
    alone = dict(zip(sets[ALL], map(_numbers, points), strict=False))
    together = dict(zip(sets, map(_numbers, points[len(alone) :]), strict=True))
    values = {
        "test_images": run.report.evaluation_samples,
        "alone": alone,
        "sets": {name: {"layers": sets[name], **together[name]} for name in sets},
    }
    return LessonNumbers(now(), service.processor(), values)


def _numbers(point: ConfigurationPoint) -> dict[str, Any]:
    assert point.measured is not None
    low, high = point.measured.harm_interval or (point.measured.degradation,) * 2
    found = (point.predicted.degradation, point.measured.degradation, low, high)
    predicted, measured, low, high = (float(f"{value:.5g}") for value in found)
    return {"predicted": predicted, "measured": measured, "interval": [low, high]}
