"""Whether a captured program computes what its model does, on the data at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.execution.lowering.build import build_plain
from quant_engine.graph.capture import Program
from quant_engine.graph.forms import take_apart
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_parameters
from quant_engine.model.inputs import copy_inputs
from quant_engine.model.randomness import SOURCE

_TOLERANCE = 1e-2  # a graph that leaves something out is off by far more, ties of codes by less


def computes_the_same(
    program: Program, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Run a program and its model, layers simulated, and compare what they return.

    Args:
        program: The program.
        model: The quantized model; a copy of it runs, as a forward may change buffers.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """
    batch = Batch(tuple(args), kwargs)
    expected = _run(_simulated(model), batch)
    plain, tensors = build_plain(program, _simulated(model)), take_apart((args, dict(kwargs)))[0]
    try:
        found = _run(plain, Batch(tuple(tensors)))
    except Exception:  # whatever it is, the model itself does not raise it
        return False
    return len(found) == len(expected) and all(map(_is_near, found, expected))


def _simulated(model: nn.Module) -> nn.Module:
    copied = share_parameters(model)
    for module in copied.modules():
        if isinstance(module, QuantizedLayer):
            module.integer_form = None
            module._forward_hooks.clear()  # what watches a layer sees real calls only
            module._forward_pre_hooks.clear()
    return copied


def _run(model: nn.Module, batch: Batch) -> list[Any]:
    batch = copy_inputs(batch)
    with SOURCE, torch.random.fork_rng(devices=[]), torch.no_grad():
        return take_apart(model(*batch.args, **batch.kwargs))[0]


def _is_near(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return bool(found == expected)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.is_floating_point():
        return torch.equal(found, expected)
    is_same = (found == expected) | (found.isnan() & expected.isnan())
    difference = torch.where(is_same, 0.0, found - expected).double().norm()
    return bool(difference <= _TOLERANCE * expected[expected.isfinite()].double().norm())
