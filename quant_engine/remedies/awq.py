"""AWQ: weights that read large inputs are multiplied, then ranges of weights are narrowed.

    y = (X diag(s)⁻¹) (diag(s) W),    s_j = mean|X_j|^α  or  s_j = mean|X_j|^α / u_j^(1 - α)

A weight that is multiplied before it is rounded and divided afterwards is rounded finer, as long as
its group's range does not grow with it. So u_j, the part of their ranges that a channel's weights
use in the mean, has a say in the second form. The first is that of the paper (Lin et al., MLSys
2024), the second that of later implementations (`duo_scaling` in AutoAWQ, which NVIDIA's ModelOpt
shares). Form and α are those of a grid that give the smallest output error. Afterwards
`output_ranges` narrows ranges.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from quant_engine.remedies.passes import Passes
from quant_engine.remedies.readers import Reader, Readers, Tried, move_factors, rounded_layer
from quant_engine.report import Treatment
from quant_engine.scheme import Awq, Recipe

ALPHAS = tuple(number / 20 for number in range(1, 20))
"""What α is chosen from, besides no scaling at all; and 0 in the form with the weights' size."""

SMALLEST_USE = 1e-4
"""Of the largest; what a channel's weights use of their ranges counts as no less."""


def scale_by_inputs(
    passes: Passes, graph: fx.GraphModule, remedy: Awq, recipe: Recipe
) -> tuple[Treatment, ...]:
    """Scale the weights of all layers that a remedy names, in place.

    Args:
        passes: Over calibration data, of the model.
        graph: What it computes, captured from it.
        remedy: Which layers.
        recipe: How the layers will be quantized.

    Returns:
        One entry for each tensor that layers read; its errors are those of the outputs of all
        quantized layers that read it. Or the reason why it is left alone.
    """

    def choose(readers: Readers, rounded: Readers) -> Tried:
        sizes = [r.seen.mean.view(-1, r.times).mean(dim=1) for r in readers]
        mean = torch.stack(sizes).mean(dim=0)
        use = torch.stack([_range_use(reader) for reader in rounded]).mean(dim=0)
        tried = [(awq_factors(mean, alpha), alpha) for alpha in ALPHAS]
        return tried + [(awq_factors(mean, alpha, use), alpha) for alpha in (0.0, *ALPHAS)]

    done = move_factors(
        passes,
        graph,
        remedy,
        recipe,
        choose,
        is_judged=lambda reader: reader.scheme is not None,
        unjudged="the layers stay float",
    )
    return tuple(replace(entry, step="factors") for entry in done)


def _range_use(reader: Reader) -> Tensor:
    """Return the weights that read each channel in steps of their grids, mean magnitudes."""
    weight = reader.layer.weight
    grid = rounded_layer(reader, weight).weight_qparams
    steps = weight.abs() / grid.aligned(grid.scale, weight.shape)
    return reader.layer.blocks(steps).mean(dim=(1, 3)).view(-1, reader.times).mean(dim=1)


def awq_factors(mean: Tensor, alpha: float, use: Tensor | None = None) -> Tensor:
    """Return mean|X_j|^α / u_j^(1 - α) of each channel over the middle of all.

    The middle is that of the smallest and the largest factor, √(min · max), so that factors lie
    around 1. They are 1 where no input comes or no weight reads it.

    Args:
        mean: Mean magnitude of each input channel, (channels,).
        alpha: Between 0 and 1.
        use: What each channel's weights use of their ranges, in any unit; None leaves it out.

    Example:
        >>> awq_factors(torch.tensor([4.0, 0.25, 0.0]), 0.5).tolist()
        [2.0, 0.5, 1.0]
        >>> awq_factors(torch.tensor([4.0, 0.25]), 0.5, torch.tensor([1.0, 16.0])).tolist()
        [4.0, 0.25]
    """
    use = torch.ones_like(mean) if use is None else use
    is_alive = (mean > 0) & (use > 0)
    if not is_alive.any():
        return torch.ones_like(mean)
    size = use[is_alive].clamp(min=SMALLEST_USE * use.max().item())
    factors = mean[is_alive] ** alpha / size ** (1 - alpha)
    result = torch.ones_like(mean)
    result[is_alive] = factors / (factors.amin() * factors.amax()).sqrt()
    return result
