"""Running a model: without gradients, on inputs of its own, and with errors that say where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from quant_engine.errors import ModelForwardError, QuantizationError
from quant_engine.model.batches import Batch
from quant_engine.model.inputs import copy_inputs
from quant_engine.model.modules import visible_names
from quant_engine.model.nesting import nested_tensors

LayerHook: TypeAlias = Callable[[str, tuple[Any, ...], Mapping[str, Any], Any], Any]

_LOGITS = "logits"
_DECODED = "decoder_input_ids"  # of encoder-decoders of transformers
_SHIFTING = "prepare_decoder_input_ids_from_labels"


class PassEnded(BaseException):  # no model may catch it as an error
    """Raised by a hook to end a pass behind the layer that it is run for."""


def run_model(model: nn.Module, batch: Batch) -> Any:
    """Run the model on a copy of a batch, without gradients.

    Whatever the model does to its inputs in place, the batch stays as it is.

    Raises:
        ModelForwardError: If the model raises; the message names the batch, its shapes and the
            innermost module that was running.
    """
    return run_in_place(model, copy_inputs(batch))


def run_in_place(model: nn.Module, batch: Batch) -> Any:
    """Run the model on a batch that it may change, without gradients; see `run_model`."""
    try:
        with torch.inference_mode(False), torch.no_grad():
            return model(*batch.args, **batch.kwargs)
    except QuantizationError:
        raise
    except Exception as error:
        module = _innermost_module(model, error.__traceback__)
        raise ModelForwardError(
            f"The model failed on {batch.where} ({_describe(batch)}) in {module}: "
            f"{type(error).__name__}: {error}{_hint(model, batch, error)}"
        ) from error


def _hint(model: nn.Module, batch: Batch, error: Exception) -> str:
    if batch.labels is not None and hasattr(model, _SHIFTING) and _DECODED not in batch.kwargs:
        return (
            ". The labels are kept back for accuracy, so the decoder has no input: give "
            f"{_DECODED} too, made by model.{_SHIFTING}(labels)."
        )
    is_short_of_inputs = isinstance(error, TypeError) and "missing" in str(error)
    if batch.labels is None or not is_short_of_inputs:
        return ""
    return (
        ". The second part of the batch was read as labels. Give several inputs as a mapping of "
        "keyword arguments, or as ((x1, x2), labels)."
    )


def _describe(batch: Batch) -> str:
    values = [*enumerate(batch.args), *batch.kwargs.items()]
    return ", ".join(
        f"input {key}: {tuple(value.shape)} {value.dtype}".replace("torch.", "")
        for key, value in values
        if isinstance(value, Tensor)
    )


def _innermost_module(model: nn.Module, traceback: TracebackType | None) -> str:
    names = visible_names(model)
    found = "the model itself"
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, nn.Module):
            name = names[id(owner)]
            found = f"layer {name!r} ({type(owner).__name__})" if name else "the model itself"
        traceback = traceback.tb_next
    return found


def primary_output(output: Any) -> Tensor | None:
    """Return the tensor an output is judged by, or None where there is none.

    The output itself; of a mapping the entry "logits", else its first float tensor; of a tuple its
    first float tensor; of another object (a dataclass) its attribute `logits`.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        logits = output.get(_LOGITS)
        return logits if isinstance(logits, Tensor) else primary_output(tuple(output.values()))
    if isinstance(output, tuple | list):
        for item in output:
            tensor = primary_output(item)
            if tensor is not None and tensor.is_floating_point():
                return tensor
        return None
    logits = getattr(output, _LOGITS, None)
    return logits if isinstance(logits, Tensor) else None


def output_tensors(output: Any) -> list[Tensor]:
    """Return the tensors within an output; where none is found, the one it is judged by."""
    tensors = list(nested_tensors(output))
    primary = primary_output(output)
    return tensors if tensors or primary is None else [primary]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def watched_layers(layers: Mapping[str, nn.Module], hook: LayerHook) -> Iterator[None]:
    """Call `hook(name, args, kwargs, output)` after each of `layers` ran, inside the context.

    It sees what the layer itself reads and answers: hooks of the caller's that change the input
    have been run, those that change the output have not. What it returns, if not None, takes the
    place of the output. Layers compiled by TorchScript take no
    hooks and are passed over.
    """
    with ExitStack() as hooks:
        for name, layer in layers.items():
            if isinstance(layer, torch.jit.ScriptModule):
                continue

            def call(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> Any:
                return hook(name, args, kwargs, output)

            handle = layer.register_forward_hook(call, with_kwargs=True, prepend=True)
            hooks.enter_context(handle)
        yield


@contextmanager
def added_zeros(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Add a zero to every float output of `layers`, inside the context, to follow gradients to it.

    Yields:
        Name of each layer that ran -> its zeros, one for each call that returned a float tensor.
    """
    zeros: dict[str, list[Tensor]] = {}

    def add(name: str, _args: Any, _kwargs: Any, output: Any) -> Any:
        found = zeros.setdefault(name, [])
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        zero = torch.zeros((), dtype=output.dtype, device=output.device, requires_grad=True)
        found.append(zero)
        return output + zero

    with watched_layers(layers, add):
        yield zeros


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the first tensor a layer was called with."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    return None


def is_finite(x: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor Inf; twice as fast as asking each value."""
    if x.numel() == 0:
        return True
    lo, hi = torch.aminmax(x)
    return math.isfinite(lo) and math.isfinite(hi)
