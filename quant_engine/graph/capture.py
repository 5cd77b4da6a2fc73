"""Capturing a model's forward as one functional graph, by `torch.export`.

The model runs once on fake tensors, which have shapes and no values, so whatever can run can be
captured, whatever Python does between the operations. Where a forward decides on values, the
capture fails with an ordinary exception.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_tensors
from quant_engine.model.nesting import nested_tensors

# Capturing switches modes of the whole process, so captures take turns.
_TURN = threading.Lock()


def capture_graph(model: nn.Module, batch: Batch, *, is_functional: bool = True) -> fx.GraphModule:
    """Capture what a model computes on a batch.

    The graph consists of ATen operations. Convolutions, linear layers and attention are single
    operations; parameters and buffers are attributes under the names that they have in the model,
    behind "model.".

    Args:
        model: A model in eval mode. It is not changed: a copy of it that shares its tensors runs,
            and is thrown away with whatever forward set in it.
        batch: What to run it on. The shapes are those of the batch.
        is_functional: Whether to replace operations that change tensors in place by ones that make
            new tensors, and let who reads later read those. This takes longer than the capture,
            and splits a BatchNorm in eval mode from its statistics.

    Returns:
        The graph, whose output is the tuple of the tensors that the model returns.

    Raises:
        UnsupportedLayerError: If the forward cannot be captured; the message says why.
    """
    holder = _Holder(share_tensors(model))
    with (
        _TURN,
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                holder, tuple(batch.args), dict(batch.kwargs), strict=False
            )
            if is_functional:
                program = program.run_decompositions({})
            graph = program.module(check_guards=False)
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            raise UnsupportedLayerError(
                f"The forward could not be captured: {type(error).__name__}: {reason}"
            ) from error
    assert isinstance(graph, fx.GraphModule)
    return graph


class _Holder(nn.Module):
    """Calls a model and returns the tensors in its output, in whatever they are held."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(output_tensors(self.model(*args, **kwargs)))


def output_tensors(output: Any) -> list[Tensor]:
    """Return the tensors in what a model returns: tensors, tuples, mappings and objects of them."""
    if isinstance(output, Tensor | tuple | list | Mapping):
        return list(nested_tensors(output))
    return list(nested_tensors(vars(output))) if hasattr(output, "__dict__") else []
