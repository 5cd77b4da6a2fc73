"""Running configurations for real, to stand beside what was predicted for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from quant_engine.errors import DataError
from quant_engine.metrics.bootstrap import bootstrap_means, percentile_intervals
from quant_engine.metrics.functions import kl_divergences
from quant_engine.metrics.output import OutputStats
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.setup import set_up
from quant_engine.report import ConfigurationPoint, ConfigurationScore, FrontierReport
from quant_engine.report.response import LOGITS
from quant_engine.response.logit_response import LogitResponse
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.layers import Configuration, as_variant, build_forms
from quant_engine.variants.outcomes import by_sample
from quant_engine.variants.runner import VariantRunner


def verify_configurations(
    model: nn.Module,
    calibration_data: Data | Calibration,
    response: LogitResponse,
    configurations: Sequence[Configuration],
    *,
    evaluation_data: Data | None = None,
    progress: Progress | None = None,
) -> tuple[ConfigurationScore, ...]:
    """Run a model under configurations of its response.

    Args:
        model: The float model that the response was measured on; it is not changed.
        calibration_data: The data, or the calibration, that the response was measured with.
        response: Knows the options.
        configurations: Layer name -> option name; layers left out stay float.
        evaluation_data: What to run on. If None, the calibration data; needed if that
            is a Calibration.
        progress: Called after every run; may raise to cancel.

    Returns:
        One measured score for each configuration, in order, with the interval of its degradation.

    Raises:
        SchemeError: If a layer or an option does not exist.
        DataError: If the response is of another model, or data are malformed.
        ModelForwardError: If the model raises on the data.
    """
    for configuration in configurations:
        response.chosen(configuration)
    recipe = response.report.recipe
    setup = set_up(model, calibration_data, None, evaluation_data)
    prepared = setup.prepared
    meter = ProgressMeter(progress, setup.calibration_batches)
    calibration = setup.calibrate(meter)
    options = {option.name: option.scheme for option in response.report.options}
    forms = build_forms(
        model, prepared, recipe, options, calibration, meter, seen_only=True
    ).modules
    if list(forms) != list(response.layers):
        raise DataError(
            "The response was measured on another model: its layers are not this model's. "
            "Measure it again."
        )
    runner = VariantRunner(prepared.model, forms, state=prepared.state)
    variants = [as_variant(configuration) for configuration in configurations]
    stats = [_Measured(response.report.kind == LOGITS) for _ in configurations]
    meter.extend((setup.evaluation_batches or 1) * len(configurations))
    batches = iterate_batches(setup.evaluation_data, "evaluation_data")
    for count, batch in enumerate(batches, start=1):

        def compare(
            number: int, expected: Tensor, output: Tensor, batch: Batch = batch, count: int = count
        ) -> None:
            stats[number].update(expected, output, batch.labels)
            meter.step(f"run the chosen models: batch {count}")

        runner.run_each(batch, variants, compare)
    return tuple(
        measured.score(response, configuration)
        for measured, configuration in zip(stats, configurations, strict=True)
    )


def verify_frontier(
    model: nn.Module,
    calibration_data: Data | Calibration,
    response: LogitResponse,
    frontier: FrontierReport,
    *,
    evaluation_data: Data | None = None,
    progress: Progress | None = None,
) -> FrontierReport:
    """Return a frontier with measured scores beside the predicted ones.

    Arguments and errors as in `verify_configurations`.
    """
    measured = verify_configurations(
        model,
        calibration_data,
        response,
        [point.as_dict() for point in frontier.points],
        evaluation_data=evaluation_data,
        progress=progress,
    )
    points: tuple[ConfigurationPoint, ...] = tuple(
        replace(point, measured=score)
        for point, score in zip(frontier.points, measured, strict=True)
    )
    return replace(frontier, points=points)


class _Measured:
    """What one configuration answered, and the degradation of each sample."""

    def __init__(self, is_logits: bool) -> None:
        self._is_logits = is_logits
        self._stats = OutputStats(is_read=is_logits)
        self._degradations: list[FloatArray] = []
        self._weights: list[FloatArray] = []

    def update(self, expected: Tensor, output: Tensor, labels: Tensor | None) -> None:
        self._stats.update(expected, output, labels)
        if self._is_logits:
            degradations = by_sample(kl_divergences(expected, output))
            weights = degradations.new_ones(degradations.shape)
        else:
            weights = by_sample(expected.double().square())
            degradations = by_sample((output.double() - expected.double()).square())
        self._degradations.append(degradations.sum(dim=1).cpu().numpy())
        self._weights.append(weights.sum(dim=1).cpu().numpy())

    def score(self, response: LogitResponse, configuration: Configuration) -> ConfigurationScore:
        report = self._stats.report()
        return ConfigurationScore(
            kl_divergence=report.kl_divergence,
            nmse=report.error.nmse,
            sqnr_db=report.error.sqnr_db,
            top1_agreement=report.top1_agreement,
            accuracy=report.accuracy_quantized,
            size=response.size(configuration),
            harm_interval=self._interval(),
        )

    def _interval(self) -> tuple[float, float] | None:
        if not self._degradations:
            return None
        degradations, weights = np.concatenate(self._degradations), np.concatenate(self._weights)
        (interval,) = percentile_intervals(bootstrap_means(degradations[None], weights))
        return interval
