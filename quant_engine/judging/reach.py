"""Which layers reach the judged output at all: by gradient, and where there is none by trying.

A difference of zero does not tell: rounding may have hit every value, or no sample was sensitive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.errors import QuantizationError
from quant_engine.judging.judged import Answer, Judged
from quant_engine.model.batches import Batch
from quant_engine.model.forward import added_zeros, run_model, watched_layers
from quant_engine.model.inputs import copy_inputs
from quant_engine.preparation.prepared_model import PreparedModel

NO_PATH = "does not reach the judged output"
_FACTOR = -3.0


def find_unreached(prepared: PreparedModel, judged: Judged, names: Sequence[str]) -> frozenset[str]:
    """Return the layers whose answer changes no judged output, whatever it is.

    Where a gradient arrives, there is a path. Where none does, as behind `detach` or `argmax` too,
    the layer's answer is changed grossly, and the output looked at. A layer that does not run on
    the samples is not among them.

    Args:
        prepared: The float model, in its initial state, with the samples it was prepared with.
        judged: What of the model's answer is judged.
        names: The layers to look at.
    """
    model, batch = prepared.model, prepared.samples
    if batch is None:
        return frozenset()
    layers = {name: model.get_submodule(name) for name in names}
    with prepared.state.leaving_no_trace(model), torch.inference_mode(False):
        called, arrived = _gradients(model, judged, batch, layers)
    doubtful = [name for name in names if name in called and name not in arrived]
    if not doubtful:
        return frozenset()
    expected = _changed_output(prepared, judged, batch, {})
    return frozenset(
        name
        for name in doubtful
        if expected is not None
        and (found := _changed_output(prepared, judged, batch, {name: layers[name]})) is not None
        and all(map(torch.equal, found, expected))
    )


def _gradients(
    model: nn.Module, judged: Judged, batch: Batch, layers: Mapping[str, nn.Module]
) -> tuple[set[str], set[str]]:
    """Return which layers ran, and to which of them a gradient comes from the output."""
    zeros: Mapping[str, Sequence[Tensor]] = {}
    inputs = copy_inputs(batch)
    try:
        with torch.enable_grad(), added_zeros(layers) as zeros:
            answer = judged.find(model(*inputs.args, **inputs.kwargs))
            total = torch.stack([x.double().sum() for x in answer if x.requires_grad]).sum()
            calls = [(name, zero) for name in zeros for zero in zeros[name]]
            gradients = torch.autograd.grad(total, [z for _, z in calls], allow_unused=True)
    except Exception:  # autograd cannot take every model; then all layers are tried
        return set(zeros) or set(layers), set()
    pairs = zip(calls, gradients, strict=True)
    return set(zeros), {name for (name, _), gradient in pairs if gradient is not None}


def _changed_output(
    prepared: PreparedModel, judged: Judged, batch: Batch, layers: Mapping[str, nn.Module]
) -> Answer | None:
    """Return the output where layers answer something else; None if the model fails on it."""

    def change(_name: str, _args: Any, _kwargs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        slope = torch.linspace(-1.0, 1.0, output.numel(), device=output.device)
        return _FACTOR * output + slope.to(output.dtype).reshape(output.shape)

    model = prepared.model
    try:
        with prepared.state.leaving_no_trace(model), watched_layers(layers, change):
            answer = judged.find(run_model(model, batch))
    except QuantizationError:
        return None
    return tuple(x.detach() for x in answer)
