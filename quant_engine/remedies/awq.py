"""AWQ: weights that read large inputs are multiplied, then ranges of weights are narrowed.

    y = (X diag(s)⁻¹) (diag(s) W),    s_j = mean|X_j|^α

A weight that is multiplied before it is rounded and divided afterwards is rounded finer, as long as
its group's range does not grow with it. α is the one of a grid that gives the smallest output
error. Then each range of weights is narrowed to the share that gives the smallest error of what its
own weights add to the output. Lin et al., MLSys 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from quant_engine.graph import LayerCalls
from quant_engine.model.batches import Batch
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.codes import OutputRows, by_outputs, refused, treat_codes
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

SHARES = tuple(1 - number / 20 for number in range(1, 10))
"""Shares that a range is narrowed to, besides the whole of it."""


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


def narrow_ranges(
    prepared: PreparedModel,
    quantized: nn.Module,
    remedy: Awq,
    batches: Sequence[Batch],
    meter: ProgressMeter,
) -> tuple[Treatment, ...]:
    """Narrow the ranges of a quantized model's weights, in place; zero points stay.

    Args:
        prepared: The float model that it was made from.
        quantized: The quantized model.
        remedy: Which layers.
        batches: Calibration data.
        meter: Told after every layer.

    Returns:
        One entry for each quantized layer that the remedy names. Its errors are those of the
        layer's output on the calibration data, weights alone rounded.
    """

    def narrow(name: str, rows: OutputRows) -> Treatment:
        done = _narrow_layer(name, rows, remedy)
        meter.say(f"narrow the ranges of {name}")
        return done

    done = treat_codes(prepared, quantized, remedy, batches, narrow)
    return tuple(replace(entry, step="ranges") for entry in done)


def _narrow_layer(name: str, rows: OutputRows, remedy: Awq) -> Treatment:
    """Narrow each range of a layer, if its output error gets smaller by that."""
    grid = rows.grid
    numbers = torch.arange(grid.scale.numel(), device=grid.scale.device).view(grid.scale.shape)
    owner = by_outputs(rows.layer, grid.aligned(numbers, rows.layer.weight.shape)).long()
    shares = best_shares(rows, owner)
    narrowed = int((shares < 1).sum())
    if not narrowed:
        return refused(remedy, name, "no narrower range makes its output error smaller")
    scale = _narrowed(grid.scale.flatten().double(), shares)
    by_weight = scale[owner]
    codes = _codes(rows, by_weight)
    before, after = rows.output_error(rows.codes), rows.output_error(codes, by_weight)
    if after > before:
        return refused(remedy, name, "narrower ranges together would make its output error larger")
    rows.write(codes)
    grid.scale.copy_(scale.view(grid.scale.shape))
    return Treatment(
        remedy.kind,
        (name,),
        is_applied=True,
        reason=f"{narrowed} of {len(shares)} ranges narrowed, one of them to "
        f"{100 * shares.min().item():.0f} % of its width",
        error_before=before,
        error_after=after,
        error_of="layer outputs, from weights alone",
    )


def best_shares(rows: OutputRows, owner: Tensor) -> Tensor:
    """Return the share that each range is narrowed to, float64, (ranges,); 1 is the whole.

    Args:
        rows: The weights of a layer.
        owner: Number of the range that each weight is in, shape of the weights.
    """
    # What the weights of one range add to an output: inputs of other ranges do not count.
    is_together = owner[:, 0, :, None] == owner[:, 0, None, :]
    hessian = rows.hessian * is_together
    count = rows.grid.scale.numel()
    best = shares = torch.ones(count, dtype=torch.float64, device=owner.device)
    for share in (1.0, *SHARES):
        scale = _narrowed(rows.scale, share)
        error = rows.weight - (_codes(rows, scale) - rows.points) * scale
        noise = torch.zeros_like(shares)
        noise.index_add_(0, owner.flatten(), ((error @ hessian) * error).flatten())
        if share == 1.0:
            best = noise
            continue
        is_better = noise < best
        best, shares = torch.where(is_better, noise, best), torch.where(is_better, share, shares)
    return shares


def _narrowed(scale: Tensor, share: Tensor | float) -> Tensor:
    """Return scales of narrower ranges, as float32 can hold them."""
    return (scale * share).clamp(min=torch.finfo(torch.float32).tiny).float().double()


def _codes(rows: OutputRows, scale: Tensor) -> Tensor:
    """Round the weights to the layer's grid with another scale for each weight."""
    grid = rows.grid
    return (torch.round(rows.weight / scale) + rows.points).clamp(grid.qmin, grid.qmax)
