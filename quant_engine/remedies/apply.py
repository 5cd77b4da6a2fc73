"""Applying the remedies of a recipe, in their fixed order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.graph.capture import capture_graph
from quant_engine.model.batches import Batch, iterate_batches
from quant_engine.model.copying import share_parameters, share_tensors
from quant_engine.preparation.folding_check import outputs_of
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.adaround import (
    STEPS_PER_LAYER,
    round_by_adaround,
    round_layer_alone,
    teller,
)
from quant_engine.remedies.awq import scale_by_inputs
from quant_engine.remedies.bias_correction import correct_biases, correct_layer
from quant_engine.remedies.codes import OutputRows, Step, TreatRows, find_layers, treat_forms
from quant_engine.remedies.equalization import equalize
from quant_engine.remedies.gptq import round_layer
from quant_engine.remedies.output_ranges import narrow_layer
from quant_engine.remedies.passes import Passes
from quant_engine.remedies.smoothing import smooth
from quant_engine.report import Treatment
from quant_engine.scheme import (
    LOCAL_REMEDIES,
    AdaRound,
    Awq,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    OutputMse,
    Recipe,
    Remedy,
    SmoothQuant,
)

LARGEST_CHANGE = 1e-5
"""Largest change of a float32 output that a remedy may make, as a share of its largest value."""

_MoveFactors: TypeAlias = Callable[[Passes, fx.GraphModule, Any, Recipe], tuple[Treatment, ...]]
_ChangeCodes: TypeAlias = Callable[[Passes, nn.Module, Any, ProgressMeter], tuple[Treatment, ...]]
_ON_FLOAT_MODEL: dict[type[Remedy], _MoveFactors] = {
    CrossLayerEqualization: equalize,
    SmoothQuant: smooth,
    Awq: scale_by_inputs,
}
_ON_ONE_LAYER: dict[type[Remedy], tuple[TreatRows, str]] = {
    Awq: (narrow_layer, "narrow the ranges of {}"),
    OutputMse: (narrow_layer, "narrow the ranges of {}"),
    Gptq: (round_layer, "round the weights of {} by GPTQ"),
    BiasCorrection: (correct_layer, "correct the bias of {}"),
}
"""What treats one layer by itself, and what progress says then."""


def treat_locally(
    passes: Passes,
    steps: Mapping[str, Sequence[Step]],
    shared: Collection[str],
    meter: ProgressMeter,
    *,
    marks: int = 0,
) -> dict[str, list[Treatment]]:
    """Treat quantized layers, each by itself and in several forms, in place; see `treat_forms`.

    Args:
        passes: Over calibration data, of the float model.
        steps: Layer name -> what to do to its forms, in this order; at least one step.
        shared: Layers that share their weight with another one, which are left alone.
        meter: Told after every step.
        marks: Steps of progress for each layer that AdaRound rounds.

    Returns:
        Layer name -> what each step did.
    """

    def treat(name: str, rows: OutputRows, remedy: Any) -> Treatment:
        if isinstance(remedy, AdaRound):
            text = f"round by AdaRound: {name}"
            return round_layer_alone(name, rows, remedy, teller(meter, text, marks, remedy.steps))
        treat_rows, text = _ON_ONE_LAYER[type(remedy)]
        done = treat_rows(name, rows, remedy)
        meter.say(text.format(name))
        return done

    return treat_forms(passes, steps, shared, treat)


def _treat_alone(
    passes: Passes, quantized: nn.Module, remedy: Remedy, meter: ProgressMeter
) -> tuple[Treatment, ...]:
    """Treat every quantized layer that a remedy names by itself; one entry for each."""
    layers, shared = find_layers(quantized, remedy)
    steps = {name: [(layer, remedy)] for name, layer in layers.items()}
    marks = STEPS_PER_LAYER if isinstance(remedy, AdaRound) else 0
    end = meter.done + marks * len(layers)
    found = treat_locally(passes, steps, shared, meter, marks=marks)
    if marks:
        meter.step("round by AdaRound", end - meter.done)
    step = "ranges" if isinstance(remedy, Awq) else ""
    return tuple(replace(entry, step=step) for name in layers for entry in found[name])


_ON_QUANTIZED_MODEL: dict[type[Remedy], _ChangeCodes] = {
    Awq: _treat_alone,
    OutputMse: _treat_alone,
    Gptq: _treat_alone,
    AdaRound: round_by_adaround,
    BiasCorrection: correct_biases,
}


def treat_float_model(prepared: PreparedModel, recipe: Recipe, data: Any) -> PreparedModel:
    """Apply the remedies that change float weights, and not what the float model computes.

    Args:
        prepared: The model; it is not changed.
        recipe: Its remedies, and how the layers will be quantized.
        data: Calibration data that can be read several times.

    Returns:
        The model with other weights, and with what was done to them in its `treatments`. Where the
        output on the first batch would change, a remedy is taken back, and its entry says so.
    """
    remedies = [remedy for remedy in recipe.remedies if type(remedy) in _ON_FLOAT_MODEL]
    batches = list(iterate_batches(data)) if remedies else []
    for remedy in remedies:
        treated = replace(prepared, model=share_tensors(prepared.model))
        try:
            graph = capture_graph(treated.model, batches[0])
        except UnsupportedLayerError as error:
            refusal = Treatment.refused(remedy, reason=str(error))
            prepared = replace(prepared, treatments=(*prepared.treatments, refusal))
            continue
        done = _ON_FLOAT_MODEL[type(remedy)](Passes(treated, batches), graph, remedy, recipe)
        change = output_change(treated.model, prepared.model, batches[0])
        if change > LARGEST_CHANGE:
            treated = prepared
            done = tuple(_taken_back(remedy, treatment, change) for treatment in done)
        prepared = replace(treated, treatments=(*prepared.treatments, *done))
    return prepared


def treat_quantized_model(
    prepared: PreparedModel, quantized: nn.Module, recipe: Recipe, data: Any, meter: ProgressMeter
) -> tuple[Treatment, ...]:
    """Apply the remedies that change codes and biases, in place.

    Args:
        prepared: The float model that the quantized one was made from.
        quantized: The quantized model.
        recipe: Its remedies.
        data: Calibration data that can be read several times.
        meter: Told what is going on.

    Returns:
        What was done, in order.
    """
    remedies = [remedy for remedy in recipe.remedies if type(remedy) in _ON_QUANTIZED_MODEL]
    passes = Passes(prepared, list(iterate_batches(data)) if remedies else [])
    done: tuple[Treatment, ...] = ()
    for remedy in remedies:
        treat = _treat_alone if remedy.is_local else _ON_QUANTIZED_MODEL[type(remedy)]
        done += treat(passes, quantized, remedy, meter)
    return done


def treatment_steps(recipe: Recipe, layers: Iterable[str]) -> int:
    """Return how many steps of progress the remedies of a recipe take, over its quantized layers.

    Only AdaRound, which may take minutes, counts any.

    Example:
        >>> treatment_steps(Recipe.default().with_remedy(AdaRound(layers=("a*",))), ("a1", "b"))
        100
    """
    remedy = recipe.remedy(AdaRound)
    if remedy is None:
        return 0
    treated = [name for name in layers if recipe.layer_scheme(name) and remedy.treats(name)]
    return STEPS_PER_LAYER * len(treated)


def remedies_left_out(recipe: Recipe, measured: Collection[str] = ()) -> tuple[str, ...]:
    """Say which remedies of a recipe are not in numbers about single layers; nothing if all are.

    Measuring and predicting what layers cost quantizes each layer by itself.

    Args:
        recipe: The recipe.
        measured: Kinds of remedies of single layers that are measured.

    Example:
        >>> remedies_left_out(Recipe.default().with_remedy(SmoothQuant()))
        ()
    """
    left_out = [
        "the narrower ranges of Awq" if isinstance(remedy, Awq) else type(remedy).__name__
        for remedy in recipe.remedies
        if type(remedy) in _ON_QUANTIZED_MODEL and not (remedy.is_local and remedy.kind in measured)
    ]
    if not left_out:
        return ()
    left_out[0] = left_out[0][:1].upper() + left_out[0][1:]
    is_one = len(left_out) == 1 and not recipe.remedy(Awq)
    names = " and ".join(type(LOCAL_REMEDIES[kind]).__name__ for kind in measured)
    how = f"of remedies, only {names} of single layers" if measured else "rounding is plain"
    return (
        f"{' and '.join(left_out)} of the recipe {'is' if is_one else 'are'} not part of these "
        f"figures: {how}. `analyze` applies {'it' if is_one else 'them'}.",
    )


def output_change(treated: nn.Module, model: nn.Module, batch: Batch) -> float:
    """Return by how much outputs differ at most, as a share of the largest value, in float32.

    Of a model in a coarser type the difference is that share of what the type can tell apart.
    """
    furthest = 0.0
    found, expected = (outputs_of(share_parameters(m), batch) for m in (treated, model))
    for y, x in zip(found, expected, strict=True):
        if x.numel():
            change = (y.double() - x.double()).abs().amax() / x.double().abs().amax().clamp(1e-30)
            coarser = torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps
            furthest = max(furthest, change.item() / max(coarser, 1.0))
    return furthest


def _taken_back(remedy: Remedy, treatment: Treatment, change: float) -> Treatment:
    if not treatment.is_applied:
        return treatment
    reason = f"the float output would change by {change:.1e} of its largest value"
    refusal = Treatment.refused(remedy, *treatment.layers, reason=reason)
    return replace(refusal, step=treatment.step)
