"""Switching a quantized model between simulated and integer execution, and saying what runs how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from quant_engine.errors import QuantizationError, UnsupportedLayerError, require_choice
from quant_engine.execution.integer import KernelForm, why_not_integer
from quant_engine.execution.kernels.dispatch import AUTO, require_kernel
from quant_engine.execution.lowering.lower import LoweredModel, lower_model, lowered_steps
from quant_engine.layers import (
    PackedTensor,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedEmbedding,
    QuantizedEmbeddingBag,
    QuantizedLayer,
)
from quant_engine.layers.functional_weight import QuantizedFunctionalWeight
from quant_engine.model.batches import Batch, first_samples, iterate_batches, map_tensors
from quant_engine.model.copying import share_parameters, share_tensors
from quant_engine.model.forward import run_in_place
from quant_engine.model.modules import names_that_share
from quant_engine.report import LayerExecution

SIMULATED = "simulated"
INTEGER = "integer"
EXECUTIONS = (SIMULATED, INTEGER)

WEIGHTS_ONLY = "weights_only"
LOOKUP = "lookup"

_NOTES = "execution_notes"
_INPUTS = "lowering_example"


def convert_execution(
    model: nn.Module,
    execution: str = INTEGER,
    *,
    kernel: str = AUTO,
    lowered: bool = False,
    example: Any = None,
) -> nn.Module:
    """Return a quantized model that computes in another way; nothing is calibrated again.

    Args:
        model: A model from `quantize_model` or `load_quantized_model`; it is not changed.
        execution: "integer": products of int8 codes are summed in int32, as a device would do it.
            "simulated": codes are dequantized and summed in float32. Both give the same numbers
            but for the rounding of float32, and but for NaN, for which there is no code.
        kernel: What sums: "onednn" (fused; x86-64), "portable", or "auto" for the fastest that is
            exact on this machine. Kernels that are not exact are never used.
        lowered: Whether activations stay int8 between layers where the model's graph allows it;
            see `lower_model`. Residuals added to a convolution are then rounded once more, so the
            numbers are not quite those of the simulation. A model whose forward cannot be captured
            keeps float32 between layers, and `execution_notes` says why. A model that is lowered
            already stays so. It computes in float32.
        example: A batch, of which shapes and types matter, to lower the model for, or to see
            whether it takes images in channels_last. By default such as the model was calibrated
            with, where that is known; or else it is lowered when it first runs, and images stay as
            they come. Batches of other kinds lower it again.

    Returns:
        A copy that shares weights and codes with `model`, but for codes of at most 4 bits in groups
        where inputs stay float: on integers these lie two to a byte. On integers, convolutions lay
        out their results in channels_last, which their kernels write, so that images are turned
        round once and not at every layer; results with four axes leave the model so too. Where a
        pass over two zero samples of the example fails on that layout, as `view` may, every layer
        keeps the layout of its input. Layers that cannot run on integers stay
        simulated; `list_executions` says which and why. The next call sees what was changed since,
        in place too. Only what torch does not count needs the result to be converted again: on
        integers a change by way of `.data` or inside `torch.inference_mode`, and lowered another
        parameter in the place of a float layer's.

    Raises:
        SchemeError: If the execution or the kernel is unknown, or not to be had here.
        UnsupportedLayerError: If the model holds no quantized layer.
        DataError: If the example is no batch.
    """
    require_choice("execution", execution, EXECUTIONS)
    require_kernel(kernel)
    if not _quantized_layers(model):
        raise UnsupportedLayerError(
            f"The {type(model).__name__} holds no quantized layer. Give the result of "
            "quantize_model."
        )
    notes: tuple[str, ...] = vars(model).get(_NOTES, ())
    if lowered and not isinstance(model, LoweredModel):
        try:
            result: nn.Module = lower_model(model, _example_of(model, example))
        except UnsupportedLayerError as error:
            notes = (f"Activations are float32 between layers. {error}",)
            result = share_tensors(model)
    else:
        result = share_tensors(model)
    vars(result)[_NOTES] = notes
    if isinstance(result, LoweredModel):
        result.is_integer = execution == INTEGER
    layers = _quantized_layers(result)
    for layer in layers:
        can_run = execution == INTEGER and not why_not_integer(layer)
        layer.integer_form = KernelForm(kernel) if can_run else None
    if execution == INTEGER:
        _pack_weights(result)
    if not isinstance(result, LoweredModel):
        has_images_last = _takes_images_last(result, _example_of(model, example))
        for form in (layer.integer_form for layer in layers):
            if isinstance(form, KernelForm):
                form.has_images_last = has_images_last
    return result


def _pack_weights(model: nn.Module) -> None:
    """Hold codes of at most 4 bits in groups two to a byte where inputs stay float, in place.

    Weights that several layers hold stay as they are, since others may read single rows of them.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    shared = names_that_share({name: layer.stored_weight for name, layer in layers.items()})
    for name, layer in layers.items():
        stored = layer.stored_weight
        if (
            stored is not None
            and layer.integer_form is not None
            and not layer.rounds_input
            and name not in shared
            and not isinstance(stored, PackedTensor)
            and PackedTensor.can_hold(stored)
        ):
            layer.stored_weight = PackedTensor(stored)


def _takes_images_last(model: nn.Module, example: Batch | None) -> bool:
    """Whether a model on integers runs where convolutions lay out images in channels_last."""
    convolutions = (QuantizedConv2d, QuantizedConvTranspose2d)
    forms = [m.integer_form for m in model.modules() if isinstance(m, convolutions)]
    batch = None if example is None else first_samples(example, 2)
    if batch is None or not any(isinstance(form, KernelForm) for form in forms):
        return False
    trial = share_parameters(model)  # its buffers are its own: a pass may change them
    for module in trial.modules():
        if isinstance(module, QuantizedLayer) and isinstance(module.integer_form, KernelForm):
            module.integer_form.has_images_last = True
    try:
        with torch.random.fork_rng(devices=[]):
            run_in_place(trial, batch)
    except QuantizationError:
        return False
    return True


def remember_inputs(model: nn.Module, batch: Batch) -> None:
    """Keep the types and shapes of a batch with a model, to lower it for them."""
    blank = map_tensors(batch, lambda tensor: tensor.new_zeros(()).expand(tensor.shape))
    vars(model)[_INPUTS] = Batch(blank.args, blank.kwargs, samples=batch.samples)


def _example_of(model: nn.Module, example: Any) -> Batch | None:
    if isinstance(example, Batch):
        return example
    if example is not None:
        return next(iterate_batches([example], "example"))
    known: Batch | None = vars(model).get(_INPUTS)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    if known is None or device is None:
        return known
    return map_tensors(known, lambda tensor: tensor.to(device))


def execution_notes(model: nn.Module) -> tuple[str, ...]:
    """Return what `convert_execution` could not do for a model, in words."""
    notes: tuple[str, ...] = vars(model).get(_NOTES, ())
    if isinstance(model, LoweredModel):
        notes += tuple(
            f"For some inputs, values are float32 between layers. {note}" for note in model.notes
        )
    return notes


def list_executions(model: nn.Module) -> tuple[LayerExecution, ...]:
    """Say of every quantized layer of a model how it is computed.

    The kernel is the one of the last run; before the first it is empty.

    Example:
        >>> from quant_engine import quantize_model, Recipe, TensorScheme
        >>> model = quantize_model(nn.Linear(4, 4), None, Recipe(TensorScheme()))
        >>> list_executions(model)[0].execution
        'simulated'
    """
    steps = lowered_steps(model)
    inner = model.model if isinstance(model, LoweredModel) else model
    found = []
    for name, module in inner.named_modules():
        if isinstance(module, QuantizedLayer) and module.is_quantized:
            step = steps.get(name)
            entry = _execution_of(name, module)
            if step is not None:
                entry = replace(
                    entry,
                    has_code_input=step.takes_codes,
                    has_code_output=step.output_qparams is not None,
                )
            found.append(entry)
    return tuple(found)


def _quantized_layers(model: nn.Module) -> list[QuantizedLayer]:
    return [m for m in model.modules() if isinstance(m, QuantizedLayer) and m.is_quantized]


def _execution_of(name: str, layer: QuantizedLayer) -> LayerExecution:
    if isinstance(layer, QuantizedEmbedding | QuantizedEmbeddingBag):
        return LayerExecution(name, LOOKUP, reason="Rows are looked up; there are no products.")
    if isinstance(layer, QuantizedFunctionalWeight):
        reason = "Its module reads the dequantized weight; products are float."
        return LayerExecution(name, WEIGHTS_ONLY, reason=reason)
    reason = why_not_integer(layer)
    form = layer.integer_form
    if form is None:
        return LayerExecution(name, SIMULATED, reason=reason or "The model's execution.")
    if not layer.rounds_input:
        reason = "Its input stays float, so its products are float too."
        if isinstance(layer.stored_weight, PackedTensor):
            reason += " Its codes lie two to a byte in memory."
        return LayerExecution(name, WEIGHTS_ONLY, reason=reason)
    return LayerExecution(name, INTEGER, form.name if isinstance(form, KernelForm) else "")
