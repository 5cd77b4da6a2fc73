"""GPTQ: weights are rounded one input at a time, and the rest make up for each error.

With H = XXᵀ + λI over the inputs X of a layer, and U the upper Cholesky factor of H⁻¹, for column j
of the weight, in the order of falling H_jj:

    e = (w_j - Q(w_j)) / U_jj,    W_k → W_k - e U_jk  for all columns k behind j

Q rounds to the grid that is chosen already, so the order costs nothing ("static groups"). Frantar
et al., ICLR 2023; computed in float64, a group of a convolution at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_engine.remedies.codes import OutputRows, improved
from quant_engine.report import Treatment
from quant_engine.scheme import Gptq
from quant_engine.tensors.affine import QParams

MOST_DAMPINGS = 4
"""Dampings that are tried, each ten times the one before, until H can be factored."""

BLOCK = 128
"""Columns that are rounded before the rest of the weight is brought up to date."""


def round_layer(name: str, rows: OutputRows, remedy: Gptq) -> Treatment:
    """Round one layer, and keep what is better: GPTQ's codes or those of plain rounding."""
    codes, damping = gptq_codes(
        rows.weight, rows.hessian, rows.scale, rows.points, rows.grid, remedy.damping
    )
    if codes is None:
        reason = (
            f"XXᵀ of its inputs cannot be factored, damped by up to {damping:g} of its mean "
            "diagonal; its weights are rounded as usual"
        )
        return Treatment.refused(remedy, name, reason=reason)
    before, after = rows.output_error(rows.codes), rows.output_error(codes)
    if after > before:
        reason = "its output error would be larger than that of plain rounding"
        return Treatment.refused(remedy, name, reason=reason)
    rows.write(codes)
    raised = f"damping was raised to {damping:g}" if damping > remedy.damping else ""
    return improved(remedy, name, before, after, raised)


def gptq_codes(
    rows: Tensor, hessian: Tensor, scale: Tensor, points: Tensor, grid: QParams, damping: float
) -> tuple[Tensor | None, float]:
    """Return the codes that GPTQ chooses.

    Args:
        rows: Weights, float64, (groups, outputs, columns).
        hessian: XXᵀ, (groups, columns, columns).
        scale: Of each weight, shape of `rows`, or of each output, (groups, outputs, 1).
        points: Zero points, likewise.
        grid: Smallest and largest code.
        damping: λ as a share of the mean diagonal; raised tenfold while H cannot be factored.

    Returns:
        The codes, float64, shape of `rows`, or None where no damping helped; and the damping.
    """
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    is_dead = diagonal <= 0
    hessian = hessian + torch.diag_embed(is_dead.double())
    mean = diagonal.sum(dim=1, keepdim=True) / (~is_dead).sum(dim=1, keepdim=True).clamp(min=1)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    hessian = _take(_take(hessian, order, 2), order, 1)
    damping = max(damping, 1e-8)
    factor = None
    for attempt in range(MOST_DAMPINGS):
        damping *= 10 if attempt else 1
        damped = hessian + torch.diag_embed((damping * mean).expand_as(diagonal))
        factor = _factor(damped)
        if factor is not None:
            break
    if factor is None:
        return None, damping
    rows, scale, points = (_take(x.expand_as(rows), order, 2) for x in (rows, scale, points))
    codes = torch.empty_like(rows)
    lo, hi = grid.qmin - points, grid.qmax - points
    for start in range(0, rows.shape[2], BLOCK):
        end = min(start + BLOCK, rows.shape[2])
        errors = torch.empty_like(rows[:, :, start:end])
        for j in range(start, end):
            column = rows[:, :, j]
            steps = torch.round(column / scale[..., j]).clamp(lo[..., j], hi[..., j])
            codes[:, :, j] = steps + points[..., j]
            error = (column - steps * scale[..., j]) / factor[:, j, j, None]
            rows[:, :, j:end] -= error[..., None] * factor[:, None, j, j:end]
            errors[:, :, j - start] = error
        rows[:, :, end:] -= errors @ factor[:, start:end, end:]
    return torch.empty_like(codes).scatter_(2, order[:, None].expand_as(codes), codes), damping


def _take(values: Tensor, order: Tensor, axis: int) -> Tensor:
    """Reorder one axis of (groups, a, b), in each group in its own order."""
    index = order[:, None] if axis == 2 else order[:, :, None]
    return values.gather(axis, index.expand_as(values))


def _factor(hessian: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of each inverse, or None where there is none."""
    lower, info = torch.linalg.cholesky_ex(hessian)
    if info.any() or not torch.isfinite(lower).all():
        return None
    upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if info.any() or not torch.isfinite(upper).all() else upper
