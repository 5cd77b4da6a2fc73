"""Activation codes as the kernels exchange them: unsigned bytes, 128 above the int8 code.

oneDNN's kernels want unsigned activations, and a byte with its top bit turned over is the int8 code
again, so nothing is lost or copied on the way between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quant_engine.tensors.affine import QParams

SHIFT = 128
LOWEST, HIGHEST = 0, 255

_PIECE = 1 << 18
ROUNDER = float(3 << 22)


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one activation tensor, as plain numbers over unsigned codes.

    Attributes:
        scale: Step between two codes.
        zero_point: Unsigned code of 0.0, 0 to 255.
        lowest: Smallest unsigned code.
        highest: Largest unsigned code.
    """

    scale: float
    zero_point: int
    lowest: int
    highest: int

    @classmethod
    def of(cls, qparams: QParams) -> Grid:
        """Return the grid of an activation, which has one scale."""
        return cls(
            float(qparams.scale),
            int(qparams.zero_point) + SHIFT,
            qparams.qmin + SHIFT,
            qparams.qmax + SHIFT,
        )


def to_codes(x: Tensor, qparams: QParams, grid: Grid | None = None) -> Tensor:
    """Round a float tensor to a grid with one scale; unsigned codes, uint8, shape of `x`.

    Args:
        x: The tensor.
        qparams: The grid.
        grid: The same as plain numbers, where they are at hand: reading them takes as long as
            rounding a small tensor.

    Example:
        >>> grid = QParams(torch.tensor(0.5), torch.tensor(-128), -128, 127)
        >>> to_codes(torch.tensor([0.0, 1.0, 999.0]), grid).tolist()
        [0, 2, 255]
    """
    grid = grid or Grid.of(qparams)
    if x.requires_grad:
        x = x.detach()
    if x.numel() <= _PIECE or x.dtype != torch.float32 or not _is_dense(x):
        return _rounded(torch.div(x.float(), qparams.scale), grid)
    # Piece by piece, in a buffer that stays in the processor's cache.
    result = torch.empty_like(x, dtype=torch.uint8)
    values, flat = (t.as_strided((x.numel(),), (1,)) for t in (x, result))
    buffer = torch.empty(_PIECE, dtype=torch.float32, device=x.device)
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE]
        steps = torch.div(piece, qparams.scale, out=buffer[: len(piece)])
        flat[start : start + _PIECE] = _rounded(steps, grid)
    return result


def _rounded(steps: Tensor, grid: Grid) -> Tensor:
    """Round x / scale to unsigned codes; float32, overwritten.

    A float32 between 2**23 and 2**24 is an integer with its lowest digits last, so adding one
    rounds the sum, half to even, and leaves the code in the lowest byte: cheaper than rounding and
    converting. The number added is even, lest ties go the other way.
    """
    is_odd = grid.zero_point % 2
    steps.clamp_(grid.lowest - grid.zero_point, grid.highest - grid.zero_point)
    steps.add_(ROUNDER + grid.zero_point - is_odd)
    codes = steps.view(torch.int32).to(torch.uint8)
    return codes.add_(1) if is_odd else codes


def _is_dense(x: Tensor) -> bool:
    """Whether the tensor fills its memory without gaps, in whatever order."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def to_codes_of(x: Tensor, grid: Grid) -> Tensor:
    """Round a float32 tensor, which may be overwritten, to a grid; unsigned codes, uint8."""
    return _rounded(x.div_(torch.tensor(grid.scale, device=x.device)), grid)


def from_codes(codes: Tensor, grid: Grid) -> Tensor:
    """Return the float32 values that unsigned codes stand for."""
    return (codes.float() - grid.zero_point).mul_(torch.tensor(grid.scale, device=codes.device))


def as_signed(codes: Tensor) -> Tensor:
    """Return unsigned codes as the int8 codes they stand for."""
    return codes.bitwise_xor(SHIFT).view(torch.int8)
