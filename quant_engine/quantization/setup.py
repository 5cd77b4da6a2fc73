"""The first steps of every front door: the recipe, the data, a prepared model, and its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar, cast

from torch import Tensor, nn

from quant_engine.errors import SchemeError, suggest
from quant_engine.judging.describe import describe_judged
from quant_engine.judging.judged import Judged, MetricFunction
from quant_engine.judging.output import OutputChoice
from quant_engine.model.batches import Data, count_batches, is_rereadable
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import Calibration, calibrate_prepared, recipe_or_default
from quant_engine.remedies import treat_float_model
from quant_engine.scheme import Recipe, Remedy

C = TypeVar("C")


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """A model and its data, ready to be calibrated and run.

    Attributes:
        prepared: The model, prepared for the data.
        judged: What of its answer is judged.
        recipe: How to quantize it.
        calibration_data: Where ranges come from: data still to be read, or a calibration.
        evaluation_data: What to run the model on.
    """

    prepared: PreparedModel
    judged: Judged
    recipe: Recipe
    calibration_data: Data | Calibration
    evaluation_data: Data

    @property
    def calibration_batches(self) -> int:
        """Batches that calibrating will read; 0 where that is not known, or nothing is read."""
        data = self.calibration_data
        return 0 if isinstance(data, Calibration) else count_batches(data) or 0

    @property
    def evaluation_batches(self) -> int:
        """Batches of the evaluation data; 0 where that is not known."""
        return count_batches(self.evaluation_data) or 0

    def calibrate(self, meter: ProgressMeter) -> Calibration:
        """Return the calibration that was given, or calibrate on the data."""
        if isinstance(self.calibration_data, Calibration):
            return self.calibration_data
        return calibrate_prepared(self.prepared, self.calibration_data, meter)


def set_up(
    model: nn.Module,
    calibration_data: Data | Calibration,
    recipe: Recipe | None,
    evaluation_data: Data | None,
    *,
    output: OutputChoice = None,
    metric: str | MetricFunction | None = None,
    remedies: Sequence[Remedy] = (),
    reads_often: bool = False,
    is_sent: bool = False,
) -> Setup:
    """Check what a front door was given, and prepare the model for it.

    Args:
        model: The float model; it is not changed.
        calibration_data: A tensor or an iterable of batches, or the result of `calibrate`.
        recipe: `Recipe.default()` if None.
        evaluation_data: What to run on. If None, the calibration data, which is kept in memory if
            it can be read only once.
        output: What of the model's answer is judged; see `Output`. If None, a few samples decide.
        metric: Which number is about it; None takes the usual one of its kind.
        remedies: What will be applied besides the recipe's remedies, and reads calibration data.
        reads_often: Whether the evaluation data is read more than once, so that it is kept in
            memory too if it can be read only once.
        is_sent: Whether what is judged is sent to other processes.

    Raises:
        SchemeError: If `recipe` is no Recipe, or names layers that the model does not have; if
            output or metric is not allowed, or cannot be sent; or if there is no data to run the
            model on, or to apply remedies with.
        DataError: If the answer has no such output, or the metric needs what is not there.
        UnsupportedLayerError: If the model is not a module or cannot be copied.
    """
    recipe = recipe_or_default(recipe)
    calibration_data = kept_for_remedies((*recipe.remedies, *remedies), calibration_data)
    if evaluation_data is None:
        if isinstance(calibration_data, Calibration):
            raise SchemeError(
                "calibration_data is a Calibration, which holds no data to run the model on. "
                "Give evaluation_data."
            )
        if not is_rereadable(calibration_data):
            calibration_data = list(calibration_data)
        evaluation_data = calibration_data
    if reads_often and not is_rereadable(evaluation_data):
        evaluation_data = list(evaluation_data)
    prepared, calibration_data, batches = prepare_for(model, calibration_data, evaluation_data)
    check_layer_names(recipe, [layer.name for layer in list_layers(prepared.model)])
    prepared = treat_float_model(prepared, recipe, calibration_data)
    judged = describe_judged(prepared, output, metric)
    if is_sent:
        judged.check_sendable()
    return Setup(prepared, judged, recipe, calibration_data, batches)


def kept_for_remedies(remedies: Sequence[Remedy], calibration_data: C) -> C:
    """Return calibration data that remedies can read often and always alike.

    Raises:
        SchemeError: If there are remedies, and no data.
    """
    if not remedies or isinstance(calibration_data, Tensor):
        return calibration_data
    if calibration_data is None or isinstance(calibration_data, Calibration):
        given = "a Calibration" if calibration_data is not None else "None"
        kinds = ", ".join(dict.fromkeys(type(remedy).__name__ for remedy in remedies))
        raise SchemeError(
            f"calibration_data is {given}, but there are remedies ({kinds}), which run the model "
            "on data. Give the data."
        )
    return cast(C, list(calibration_data))  # type: ignore[call-overload]


def check_layer_names(recipe: Recipe, names: Sequence[str]) -> None:
    """Check that every name and wildcard of the recipe fits at least one layer.

    Raises:
        SchemeError: If one fits none; the message names the likely one.
    """
    for field, patterns in (
        ("exclude_layers", recipe.exclude_layers),
        ("overrides", tuple(recipe.overrides)),
        *((f"layers of {type(remedy).__name__}", remedy.layers) for remedy in recipe.remedies),
    ):
        for pattern in patterns:
            if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
                raise SchemeError(
                    f"{field} names {pattern!r}, which is not a layer of this model. "
                    f"{suggest(pattern, names)}"
                )
