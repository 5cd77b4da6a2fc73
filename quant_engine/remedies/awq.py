"""AWQ: weights that read large inputs are multiplied, then ranges of weights are narrowed.

    y = (X diag(s)⁻¹) (diag(s) W),    s_j = mean|X_j|^α

A weight that is multiplied before it is rounded and divided afterwards is rounded finer, as long as
its group's range does not grow with it. α is the one of a grid that gives the smallest output
error. Afterwards `output_ranges` narrows ranges. Lin et al., MLSys 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from quant_engine.graph import LayerCalls
from quant_engine.model.batches import Batch
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.remedies.readers import (
    Reader,
    Seen,
    Source,
    find_groups,
    move_best,
    refusal,
    watch_inputs,
)
from quant_engine.report import Treatment
from quant_engine.scheme import Awq, Recipe

ALPHAS = tuple(number / 20 for number in range(1, 20))
"""What α is chosen from, besides no scaling at all."""


def scale_by_inputs(
    prepared: PreparedModel,
    graph: fx.GraphModule,
    remedy: Awq,
    recipe: Recipe,
    batches: Sequence[Batch],
) -> tuple[Treatment, ...]:
    """Scale the weights of all layers that a remedy names, in place.

    Args:
        prepared: The model.
        graph: What it computes, captured from it.
        remedy: Which layers.
        recipe: How the layers will be quantized.
        batches: Data on which inputs and errors are measured.

    Returns:
        One entry for each tensor that layers read; its errors are those of the outputs of all
        quantized layers that read it. Or the reason why it is left alone.
    """
    calls = LayerCalls(prepared.model, graph)
    groups, left_alone = find_groups(calls, graph, remedy, recipe)
    seen = watch_inputs(prepared, [reader for _, readers in groups for reader in readers], batches)
    done = [_scale_group(remedy, source, readers, seen) for source, readers in groups]
    return tuple(replace(entry, step="factors") for entry in (*done, *left_alone))


def _scale_group(
    remedy: Awq, source: Source, readers: Sequence[Reader], seen: Mapping[str, Seen]
) -> Treatment:
    rounded = [reader for reader in readers if reader.scheme is not None]
    found = refusal(remedy.kind, readers, seen, "" if rounded else "the layers stay float")
    if found is not None:
        return found
    sizes = [seen[r.layer.name].mean.view(-1, r.times).mean(dim=1) for r in readers]
    mean = torch.stack(sizes).mean(dim=0)
    tried = [(awq_factors(mean, alpha), alpha) for alpha in ALPHAS]
    return move_best(remedy.kind, source, readers, rounded, seen, tried)


def awq_factors(mean: Tensor, alpha: float) -> Tensor:
    """Return mean|X_j|^α of each channel over the middle of all; 1 where nothing comes.

    The middle is that of the smallest and the largest factor, √(min · max), so that factors lie
    around 1.

    Example:
        >>> awq_factors(torch.tensor([4.0, 0.25, 0.0]), 0.5).tolist()
        [2.0, 0.5, 1.0]
    """
    is_alive = mean > 0
    if not is_alive.any():
        return torch.ones_like(mean)
    factors = mean[is_alive] ** alpha
    result = torch.ones_like(mean)
    result[is_alive] = factors / (factors.amin() * factors.amax()).sqrt()
    return result
