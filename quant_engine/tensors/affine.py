"""Affine quantization: the maths, as pure functions.

    code = clamp(round(x / scale) + zero_point, qmin, qmax)        x̂ = (code - zero_point) · scale

Rounding is half to even. The derivation, and where each rule comes from, is in `docs/math.md`;
the scheme is that of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quant_engine.errors import DataError, SchemeError
from quant_engine.scheme import TensorScheme

_FLOAT32 = torch.finfo(torch.float32)
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class QParams:
    """The grid a tensor is rounded to.

    Attributes:
        scale: Step between two codes, float32, shape (), (channels,) or, where weights of a channel
            have scales in groups, (channels, groups).
        zero_point: Code of 0.0, int32, shape of `scale`.
        qmin: Smallest code.
        qmax: Largest code.
        axis: Axis of the quantized tensor that the channels lie on; None for a single scale.
        group_size: Consecutive values of a channel that share a scale; None for all of them. The
            last group of a channel may be shorter.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    axis: int | None = None
    group_size: int | None = None

    def to(self, device: torch.device | str) -> QParams:
        """Return the same grid on another device."""
        return replace(self, scale=self.scale.to(device), zero_point=self.zero_point.to(device))

    def aligned(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Lay out scales or zero points so that they broadcast over a tensor of a shape.

        Args:
            values: Of the shape of `scale`.
            shape: Shape of the tensor.

        Example:
            >>> steps = torch.tensor([[1.0, 2.0]])
            >>> grid = QParams(steps, steps.int(), -7, 7, axis=0, group_size=2)
            >>> grid.aligned(steps, (1, 3))
            tensor([[1., 1., 2.]])
        """
        if self.axis is None:
            return values
        if self.group_size is None:
            one = [1] * len(shape)
            one[self.axis] = -1
            return values.view(one)
        rest = list(shape)
        channels = rest.pop(self.axis)
        columns = math.prod(rest)
        wide = values.repeat_interleave(min(self.group_size, columns), dim=1)[:, :columns]
        return wide.reshape(channels, *rest).movedim(0, self.axis)

    def lower(self) -> Tensor:
        """Smallest value on the grid, shape of `scale`."""
        return (self.qmin - self.zero_point) * self.scale

    def upper(self) -> Tensor:
        """Largest value on the grid, shape of `scale`."""
        return (self.qmax - self.zero_point) * self.scale


def choose_qparams(
    lo: Tensor, hi: Tensor, scheme: TensorScheme, axis: int | None = None
) -> QParams:
    """Choose scale and zero point for a value range.

    Symmetric: scale = max(|lo|, |hi|) / qmax. Asymmetric: the range is widened to contain 0, so
    that 0.0 is a code (padding and ReLU need it); scale = (hi - lo) / (qmax - qmin),
    zero_point = round(qmin - lo / scale). Computed in float64, stored in float32. A range of zeros
    gets scale 1; a range too small for a normal float32 scale gets the smallest one.

    Args:
        lo: Lower edge, shape (), (channels,) or, for a scheme with groups, (channels, groups).
        hi: Upper edge, same shape.
        scheme: Bits and symmetry.
        axis: Axis that the channels lie on, unless the shape is ().

    Returns:
        Parameters whose grid contains 0.0 exactly.

    Raises:
        DataError: If an edge is NaN or Inf, or lo > hi.
        SchemeError: If shapes and axis do not fit together.

    Example:
        >>> grid = choose_qparams(torch.tensor(-1.0), torch.tensor(1.0), TensorScheme(bits=8))
        >>> grid.zero_point.item(), round(1 / grid.scale.item())
        (0, 127)
    """
    axes = 0 if axis is None else 1 if scheme.group_size is None else 2
    if lo.shape != hi.shape or lo.dim() != axes:
        raise SchemeError(
            f"lo has shape {tuple(lo.shape)}, hi {tuple(hi.shape)}, axis is {axis}. Give two "
            "scalars and no axis, or two vectors of one entry per channel and their axis; for a "
            "scheme with groups, two matrices (channels, groups)."
        )
    lo, hi = lo.double(), hi.double()
    if not (torch.isfinite(lo).all() and torch.isfinite(hi).all()):
        raise DataError("The value range holds NaN or Inf. Remove such values from the data.")
    if (lo > hi).any():
        raise DataError("The value range has lo > hi. Swap the two edges.")
    scale, zero_point = scale_and_zero_point(lo, hi, scheme, torch)
    group_size = None if axis is None else scheme.group_size
    return QParams(
        scale.float(), zero_point.to(torch.int32), scheme.qmin, scheme.qmax, axis, group_size
    )


def scale_and_zero_point(lo: Any, hi: Any, scheme: TensorScheme, xp: ModuleType) -> tuple[Any, Any]:
    """Compute what `choose_qparams` returns, unchecked and in float64.

    Searches try thousands of ranges, a handful at a time: numpy does that ten times as fast.

    Args:
        lo: Lower edges, float64, of any shape.
        hi: Upper edges, same shape.
        scheme: Bits and symmetry.
        xp: `torch` for tensors, `numpy` for arrays.

    Returns:
        Scale, before it is rounded to float32, and zero point, a whole float64, of that shape.
    """
    qmin, qmax = scheme.qmin, scheme.qmax
    if not scheme.symmetric:
        lo, hi = lo.clip(max=0.0), hi.clip(min=0.0)
        scale = (hi - lo) / (qmax - qmin)
    else:
        scale = xp.maximum(abs(lo), abs(hi)) / qmax
    # (code - zero_point) * scale must neither overflow nor vanish in float32.
    scale = xp.where(scale == 0, 1.0, scale.clip(min=_FLOAT32.tiny))
    if scheme.symmetric:
        zero_point = xp.zeros_like(scale)
        steps = zero_point + qmax
    else:
        zero_point = (qmin - lo / scale).round().clip(qmin, qmax)
        steps = xp.maximum(zero_point - qmin, qmax - zero_point)
    return xp.minimum(scale, _FLOAT32.max / steps * (1 - _FLOAT32.eps)), zero_point


def choose_dynamic_qparams(x: Tensor, scheme: TensorScheme) -> QParams:
    """Choose the grid that spans the values of one tensor, for a scheme with `is_dynamic`.

    Args:
        x: Float tensor of any shape; an empty one gets the grid of zeros.
        scheme: Bits and symmetry.

    Raises:
        DataError: If the tensor holds NaN or Inf.

    Example:
        >>> choose_dynamic_qparams(torch.tensor([0.0, 51.0]), TensorScheme(symmetric=False)).scale
        tensor(0.2000)
    """
    if not x.numel():
        lo = hi = torch.zeros((), device=x.device)
    else:
        lo, hi = torch.aminmax(x.detach())
    return choose_qparams(lo, hi, scheme)


def _require_channels(x: Tensor, qparams: QParams) -> None:
    if qparams.axis is None:
        return
    channels = qparams.scale.shape[0]  # `len` would fix the length in a captured graph
    if not -x.dim() <= qparams.axis < x.dim() or x.shape[qparams.axis] != channels:
        raise DataError(
            f"The tensor has shape {tuple(x.shape)}, but the grid has {channels} channels on axis "
            f"{qparams.axis}. Use the axis and tensor that the grid was made for."
        )
    if qparams.group_size is None:
        return
    rest = list(x.shape)
    rest.pop(qparams.axis)
    groups, columns = qparams.scale.shape[1], math.prod(rest)
    if groups != -(-columns // qparams.group_size):
        raise DataError(
            f"The tensor has {columns} values in each channel, but the grid has {groups} groups of "
            f"{qparams.group_size}. Use the tensor that the grid was made for."
        )


def shifted_codes(x: Tensor, qparams: QParams) -> tuple[Tensor, Tensor]:
    """Return round(x / scale) limited to the grid, before the zero point, and the aligned scale.

    The codes are a float tensor of their own.
    """
    _require_channels(x, qparams)
    scale = qparams.aligned(qparams.scale, x.shape)
    codes = torch.div(x.float() if x.dtype != torch.float32 else x, scale).round_()
    if qparams.axis is None and not torch.compiler.is_exporting():  # an export reads no numbers
        zero_point = int(qparams.zero_point)
        return codes.clamp_(qparams.qmin - zero_point, qparams.qmax - zero_point), scale
    points = qparams.aligned(qparams.zero_point, x.shape).float()
    return codes.clamp_(qparams.qmin - points, qparams.qmax - points), scale


def split_columns(rows: Tensor, qparams: QParams, columns: int) -> Iterator[tuple[Tensor, QParams]]:
    """Cut a matrix with a row for each channel into pieces, each with its part of the grid.

    Args:
        rows: Shape (channels, values of a channel).
        qparams: The grid, along axis 0 or with a single scale.
        columns: Columns of a piece; with groups, rounded down to whole ones, but not to none.
    """
    size = qparams.group_size
    if size is None:
        yield from ((piece, qparams) for piece in torch.split(rows, columns, dim=1))
        return
    groups = max(1, columns // size)
    pieces = torch.split(rows, groups * size, dim=1)
    parts = (torch.split(grid, groups, dim=1) for grid in (qparams.scale, qparams.zero_point))
    for piece, scale, points in zip(pieces, *parts, strict=True):
        yield piece, replace(qparams, scale=scale, zero_point=points)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Round `x` to the grid and return the integer codes.

    Args:
        x: Float tensor of any shape.
        qparams: The grid.

    Returns:
        Codes, int8, shape of `x`.

    Raises:
        DataError: If the channels of grid and tensor differ.

    Example:
        >>> grid = choose_qparams(torch.tensor(-2.0), torch.tensor(2.0), TensorScheme(bits=2))
        >>> quantize(torch.tensor([-2.0, -0.9, 0.0, 1.1, 9.0]), grid).tolist()
        [-1, 0, 0, 1, 1]
    """
    codes, _ = shifted_codes(x, qparams)
    codes += qparams.aligned(qparams.zero_point, x.shape)
    return codes.to(torch.int8)


def quantize_in_pieces(x: Tensor, qparams: QParams) -> Tensor:
    """Return the codes of a large tensor as `quantize` does, a part of its first axis at a time.

    Besides the codes it holds a few float copies of a piece: of 262,144 values (1 MiB), or of one
    entry where that is larger.

    Raises:
        DataError: If the channels of grid and tensor differ.
    """
    if x.numel() <= _PIECE or x.dim() == 0:
        return quantize(x, qparams)
    _require_channels(x, qparams)
    has_channels = qparams.axis is not None and qparams.axis % x.dim() == 0
    if qparams.group_size is not None and not has_channels:
        return quantize(x, qparams)  # a part of the first axis would cut groups
    codes = torch.empty_like(x, dtype=torch.int8)
    rows = max(1, _PIECE * len(x) // x.numel())
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        grid = qparams
        if has_channels:
            scale, zero_point = qparams.scale[part], qparams.zero_point[part]
            grid = replace(qparams, scale=scale, zero_point=zero_point)
        codes[part] = quantize(x[part], grid)
    return codes


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Map integer codes back to the float values they stand for.

    Args:
        codes: Integer tensor.
        qparams: The grid.

    Returns:
        (codes - zero_point) · scale, float32, shape of `codes`.

    Raises:
        DataError: If the channels of grid and tensor differ.
    """
    _require_channels(codes, qparams)
    zero_point = qparams.aligned(qparams.zero_point, codes.shape)
    scale = qparams.aligned(qparams.scale, codes.shape)
    return codes.to(torch.float32, copy=True).sub_(zero_point).mul_(scale)


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Round `x` to the grid and return the float values of the codes.

    Bit-equal to `dequantize(quantize(x, qparams), qparams)`, with fewer passes over memory.

    Args:
        x: Float tensor of any shape.
        qparams: The grid.

    Returns:
        Tensor of the same shape, in float32.

    Raises:
        DataError: If the channels of grid and tensor differ.
    """
    codes, scale = shifted_codes(x, qparams)
    codes += 0.0  # -0.0 becomes 0.0, as it does on the way through an integer code
    return codes.mul_(scale)
