"""Ranges of weights by the error of a layer's output, not of the weights themselves.

    Σ(y - ŷ)² = Σ_rows (w - ŵ) XXᵀ (w - ŵ)ᵀ

How coarsely a weight may be rounded depends on what it is multiplied with, so the range of smallest
weight error need not be that of smallest output error. Every range is narrowed to the share that
gives the smallest; ranges of one output (groups) one after the other, each with the errors that the
others make. AIMET calls a search like this sequential MSE; AWQ ends with one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_engine.remedies.codes import OutputRows, by_outputs, improved
from quant_engine.report import Treatment
from quant_engine.scheme import Remedy

SHARES = tuple(1 - number / 20 for number in range(1, 20))
"""Shares that a range is narrowed to, besides the whole of it."""


def narrow_layer(name: str, rows: OutputRows, remedy: Remedy) -> Treatment:
    """Narrow each range of a layer that makes its output error smaller by that."""
    grid, owner = rows.grid, owners(rows)
    shares = best_shares(rows, owner)
    narrowed = int((shares < 1).sum())
    if not narrowed:
        reason = "no narrower range makes its output error smaller"
        return Treatment.refused(remedy, name, reason=reason)
    scale = _narrowed(grid.scale.flatten().double(), shares)
    codes = _codes(rows, rows.weight, scale[owner], rows.points)
    before, after = rows.output_error(rows.codes), rows.output_error(codes, scale[owner])
    rows.write(codes)
    grid.scale.copy_(scale.view(grid.scale.shape))
    how = (
        f"{narrowed} of {len(shares)} ranges narrowed, one of them to "
        f"{100 * shares.min().item():.0f} % of its width"
    )
    return improved(remedy, name, before, after, how)


def owners(rows: OutputRows) -> Tensor:
    """Return the number of the range that each weight is in, of the shape of `rows.weight`."""
    scale = rows.grid.scale
    numbers = torch.arange(scale.numel(), device=scale.device).view(scale.shape)
    return by_outputs(rows.layer, rows.grid.aligned(numbers, rows.layer.weight.shape)).long()


def best_shares(rows: OutputRows, owner: Tensor) -> Tensor:
    """Return the share that each range is narrowed to, float64, (ranges,); 1 is the whole.

    Args:
        rows: The weights of a layer, rounded to the nearest codes.
        owner: What `owners` returns.
    """
    scale = rows.grid.scale
    shares = torch.ones(scale.numel(), dtype=torch.float64, device=scale.device)
    error = rows.weight - (rows.codes - rows.points) * rows.scale
    product = error @ rows.hessian
    # Ranges of different outputs do not touch each other: the first of all outputs, then the next.
    in_a_row = 1 if rows.grid.group_size is None else scale.shape[1]
    for number in range(in_a_row):
        place = owner % in_a_row == number
        columns = place.any(dim=1).any(dim=0).nonzero().squeeze(1)
        place, ranges = place[:, :, columns], owner[:, :, columns]
        weight, points, steps = (
            values[:, :, columns] for values in (rows.weight, rows.points, rows.scale)
        )
        hessian = rows.hessian[:, columns][:, :, columns]
        best = error[:, :, columns] * place
        others = product[:, :, columns] - best @ hessian
        least = _noise(best, hessian, others, ranges, shares)
        for share in SHARES:
            narrower = _narrowed(steps, share)
            codes = _codes(rows, weight, narrower, points)
            tried = (weight - (codes - points) * narrower) * place
            noise = _noise(tried, hessian, others, ranges, shares)
            is_better = noise < least
            least, shares = (
                torch.where(is_better, noise, least),
                torch.where(is_better, share, shares),
            )
            best = torch.where(is_better[ranges], tried, best)
        change = best - error[:, :, columns] * place
        error[:, :, columns] += change
        product += change @ rows.hessian[:, columns]
    return shares


def _noise(error: Tensor, hessian: Tensor, others: Tensor, ranges: Tensor, like: Tensor) -> Tensor:
    """Return what the errors of each range add to Σ(y - ŷ)², beside the errors of other ranges.

    Args:
        error: Errors of weights, (groups, outputs, columns).
        hessian: XXᵀ of these columns.
        others: The errors of all other weights times XXᵀ, in these columns.
        ranges: Number of each weight's range.
        like: Has an entry for each range.
    """
    noise = (error @ hessian + 2 * others) * error
    return torch.zeros_like(like).index_add_(0, ranges.flatten(), noise.flatten())


def _narrowed(scale: Tensor, share: Tensor | float) -> Tensor:
    """Return scales of narrower ranges, as float32 can hold them."""
    return (scale * share).clamp(min=torch.finfo(torch.float32).tiny).float().double()


def _codes(rows: OutputRows, weight: Tensor, scale: Tensor, points: Tensor) -> Tensor:
    """Round weights to the layer's codes with other scales."""
    return (torch.round(weight / scale) + points).clamp(rows.grid.qmin, rows.grid.qmax)
