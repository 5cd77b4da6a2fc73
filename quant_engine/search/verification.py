"""Running configurations for real, to stand beside what was predicted for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from quant_engine.errors import DataError, require_at_least
from quant_engine.judging.judged import Judged
from quant_engine.judging.output import Output, OutputChoice
from quant_engine.metrics.bootstrap import Resampling, percentile_interval
from quant_engine.metrics.catalogue import KL_DIVERGENCE, NMSE, SQNR_DB, TOP1_AGREEMENT, value_of
from quant_engine.model.batches import Data, iterate_batches
from quant_engine.progress import Progress, ProgressMeter, in_part
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.setup import set_up
from quant_engine.report import ConfigurationPoint, ConfigurationScore, FrontierReport
from quant_engine.report.response import score_outputs
from quant_engine.response.logit_response import LogitResponse
from quant_engine.response.outputs import predicted_metric
from quant_engine.scheme import Candidate
from quant_engine.search.search import find_best
from quant_engine.variants.layers import Configuration, as_variant, build_forms
from quant_engine.variants.options import remedies_of
from quant_engine.variants.outcomes import Outcome, join_outcomes
from quant_engine.variants.runner import VariantRunner

_SEARCH_SHARE = 0.3  # of the work of `search_measured`, as its progress counts it


def verify_configurations(
    model: nn.Module,
    calibration_data: Data | Calibration,
    response: LogitResponse,
    configurations: Sequence[Configuration],
    *,
    evaluation_data: Data | None = None,
    output: OutputChoice = None,
    progress: Progress | None = None,
) -> tuple[ConfigurationScore, ...]:
    """Run a model under configurations of its response.

    Args:
        model: The float model that the response was measured on; it is not changed.
        calibration_data: The data, or the calibration, that the response was measured with.
        response: Knows the options.
        configurations: Layer name -> option name; layers left out stay float.
        evaluation_data: What to run on. If None, the calibration data; needed if that
            is a Calibration. Options with remedies need the calibration data itself.
        output: What is judged. If None, what the response is about; needed if a function selects
            it.
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
    chosen = _outputs_of(response) if output is None else output
    options = _options_for(response, configurations)
    setup = set_up(
        model,
        calibration_data,
        recipe,
        evaluation_data,
        output=chosen,
        remedies=tuple(remedies_of(recipe, options).values()),
    )
    prepared = setup.prepared
    runs = (setup.evaluation_batches or 1) * len(configurations)
    meter = ProgressMeter(progress, setup.calibration_batches + len(response.layers) + runs)
    calibration = setup.calibrate(meter)
    forms = build_forms(
        model,
        prepared,
        recipe,
        options,
        calibration,
        meter,
        seen_only=True,
        data=setup.calibration_data,
    ).modules
    if list(forms) != list(response.layers):
        raise DataError(
            "The response was measured on another model: its layers are not this model's. "
            "Measure it again."
        )
    judged = _read_like(response, setup.judged)
    runner = VariantRunner(prepared.model, forms, state=prepared.state, judged=judged)
    variants = [as_variant(configuration) for configuration in configurations]
    parts: list[list[Outcome]] = [[] for _ in configurations]
    batches = iterate_batches(setup.evaluation_data, "evaluation_data")
    for count, batch in enumerate(batches, start=1):

        def after(_finished: int, count: int = count) -> None:
            meter.step(f"run the chosen models: batch {count}")

        outcome = runner.run(batch, variants, on_variant=after)
        for known, found in zip(parts, outcome.variants, strict=True):
            known.append(found)
    return tuple(
        _score(response, judged, configuration, join_outcomes(found))
        for configuration, found in zip(configurations, parts, strict=True)
    )


def search_measured(
    model: nn.Module,
    calibration_data: Data | Calibration,
    response: LogitResponse,
    *,
    model_bytes: int | None = None,
    effective_bits: float | None = None,
    weight_bits: float | None = None,
    float_layers: int | None = None,
    candidates: int = 4,
    evaluation_data: Data | None = None,
    output: OutputChoice = None,
    progress: Progress | None = None,
) -> tuple[ConfigurationPoint, ...]:
    """Search within budgets, and run the configurations predicted best; the best measured is first.

    The prediction of what a search found is too good, as the search looks for what the prediction
    gets wrong. Of several that are run, the best is known for what it is. Where it is chosen and
    measured on the same samples, its own figure is a little too good in turn: by the choice among
    a few, whose intervals say how much that can be.

    Of several outputs, the same bits for all layers are run too, if they keep to the budgets.
    What was measured to be worse than these in any output comes after all that was not.

    Args:
        model: The float model that the response was measured on; it is not changed.
        calibration_data: The data, or the calibration, that the response was measured with.
        response: What predicts.
        model_bytes: As in `search_configuration`.
        effective_bits: As in `search_configuration`.
        weight_bits: As in `search_configuration`.
        float_layers: As in `search_configuration`.
        candidates: Most configurations to run.
        evaluation_data: As in `verify_configurations`.
        output: As in `verify_configurations`.
        progress: Called often; may raise to cancel.

    Returns:
        What was run, each with both scores, in the order of what was measured. The first says of
        how many it is the best (`candidates`).

    Raises:
        SchemeError: As in `search_configuration`, or if candidates is below 1.
        BudgetError: If no configuration keeps to one of the budgets.
        DataError: As in `verify_configurations`.
    """
    require_at_least(1, "candidates", candidates)
    budgets = (model_bytes, effective_bits, weight_bits, float_layers)
    searching = in_part(progress, 0.0, _SEARCH_SHARE)
    found, alike = find_best(response, budgets, count=candidates, progress=searching)
    scores = verify_configurations(
        model,
        calibration_data,
        response,
        [point.as_dict() for point in found],
        evaluation_data=evaluation_data,
        output=output,
        progress=in_part(progress, _SEARCH_SHARE, 1.0),
    )
    run = [replace(point, measured=score) for point, score in zip(found, scores, strict=True)]
    worse = [alike is not None and _is_worse(score, scores[alike]) for score in scores]
    order = sorted(range(len(run)), key=lambda n: (worse[n], scores[n].degradation))
    best, *others = (run[number] for number in order)
    return replace(best, candidates=len(run)), *others


def _is_worse(score: ConfigurationScore, other: ConfigurationScore) -> bool:
    """Whether some output that enters is worse than under another configuration."""
    pairs = zip(score.outputs, other.outputs, strict=True)
    return any(a.degradation > b.degradation for a, b in pairs if a.ratio is not None)


def verify_frontier(
    model: nn.Module,
    calibration_data: Data | Calibration,
    response: LogitResponse,
    frontier: FrontierReport,
    *,
    evaluation_data: Data | None = None,
    output: OutputChoice = None,
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
        output=output,
        progress=progress,
    )
    points: tuple[ConfigurationPoint, ...] = tuple(
        replace(point, measured=score)
        for point, score in zip(frontier.points, measured, strict=True)
    )
    return replace(frontier, points=points)


def _options_for(
    response: LogitResponse, configurations: Sequence[Configuration]
) -> dict[str, Candidate]:
    """Return the options without those with remedies that none uses: these take time."""
    used = {option for configuration in configurations for option in configuration.values()}
    needed = {
        name: candidate
        for name, candidate in response.candidates.items()
        if not candidate.remedies or name in used
    }
    return needed or response.candidates


def _read_like(response: LogitResponse, judged: Judged) -> Judged:
    """Return what is judged with the metrics that the response was measured with."""
    outputs = response.report.outputs
    if len(outputs) != len(judged.outputs):
        raise DataError(
            f"The response is about {len(outputs)} outputs, {', '.join(o.name for o in outputs)}, "
            f"and output= names {len(judged.outputs)}. Give the same ones."
        )
    read = tuple(
        replace(found, metric=output.judged_by)
        for found, output in zip(judged.outputs, outputs, strict=True)
    )
    return Judged(read, judged.line)


def _outputs_of(response: LogitResponse) -> tuple[Output, ...]:
    """Return which outputs a response is about, as it was told or found them."""
    outputs = response.report.outputs
    if any(not output.key and output.index is None for output in outputs):
        raise DataError(
            "The response is about an output that a function selects, and does not hold functions. "
            "Give the same output= again."
        )
    return tuple(
        Output(o.key or o.index or 0, o.kind, o.class_axis, o.ignore_labels) for o in outputs
    )


def _score(
    response: LogitResponse, judged: Judged, configuration: Configuration, outcome: Outcome
) -> ConfigurationScore:
    """Return what running a configuration gave, with intervals by resampling whole samples."""
    totals = [counts.totals() for counts in outcome]
    first = totals[0]
    metrics = [predicted_metric(output) for output in judged.outputs]
    resampling = Resampling(outcome[0].samples)
    resampled = [
        metric.degradation({name: resampling.totals(counts[name]) for name in metric.columns})
        for metric, counts in zip(metrics, outcome, strict=True)
    ]
    found = [float(m.degradation(t)) for m, t in zip(metrics, totals, strict=True)]
    outputs = tuple(
        replace(score, interval=percentile_interval(drawn), value=value_of(output.metric, known))
        for score, drawn, output, known in zip(
            score_outputs(found, response.report.outputs),
            resampled,
            judged.outputs,
            totals,
            strict=True,
        )
    )
    accuracies = [
        t
        for t, output in zip(totals, judged.outputs, strict=True)
        if output.has_logits and "labelled" in t and float(t["labelled"])
    ]
    has_logits = judged.outputs[0].has_logits
    return ConfigurationScore(
        kl_divergence=value_of(KL_DIVERGENCE, first) if has_logits else None,
        nmse=value_of(NMSE, first),
        sqnr_db=value_of(SQNR_DB, first),
        top1_agreement=value_of(TOP1_AGREEMENT, first) if has_logits else None,
        accuracy=(
            float(accuracies[0]["correct"] / accuracies[0]["labelled"]) if accuracies else None
        ),
        size=response.size(configuration),
        interval=percentile_interval(response.joined(np.stack(resampled))),
        outputs=outputs,
    )
