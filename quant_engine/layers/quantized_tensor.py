"""Codes and grids as a quantized layer stores them: modules of small buffers.

Codes of at most 4 bits in groups can lie two to a byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import QParams, dequantize, quantize_in_pieces
from quant_engine.tensors.nibbles import MAX_NIBBLE_BITS, pack_nibbles, unpack_nibbles
from quant_engine.tensors.observers import choose_weight_qparams


class StoredGrid(nn.Module):
    """A grid in two buffers.

    Args:
        qparams: The grid.
        scheme: What chose it. A symmetric one needs no zero points, so none are stored.

    Attributes:
        scale: float32, shape (), (channels,) or (channels, groups); it stays float32 when the model
            is converted.
        zero_point: int8, shape of `scale`; None for a symmetric scheme.
        axis: Axis of the tensor that the channels lie on; None for a single scale.
    """

    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, qparams: QParams, scheme: TensorScheme) -> None:
        super().__init__()
        self.scheme, self.axis = scheme, qparams.axis
        self.register_buffer("scale", qparams.scale)
        points = None if scheme.symmetric else qparams.zero_point.to(torch.int8)
        self.register_buffer("zero_point", points)

    @property
    def qparams(self) -> QParams:
        """The grid; without stored zero points they are all 0."""
        scale, points, scheme = self.scale, self.zero_point, self.scheme
        points = torch.zeros_like(scale, dtype=torch.int32) if points is None else points.int()
        return QParams(scale, points, scheme.qmin, scheme.qmax, self.axis, scheme.group_size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert, as `.to()` and `.half()` do; the scale stays in float32."""
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.scale.device)
        return self


class QuantizedTensor(StoredGrid):
    """The integer codes of a tensor, and their grid.

    Args:
        codes: int8.
        qparams: Their grid.
        scheme: What chose it.
        dtype: Type of the float tensor they stand for.

    Attributes:
        codes: int8, shape of the tensor.
        dtype: Type of the float tensor; it follows `.half()` and the like.
    """

    codes: Tensor

    def __init__(
        self, codes: Tensor, qparams: QParams, scheme: TensorScheme, dtype: torch.dtype
    ) -> None:
        super().__init__(qparams, scheme)
        self.register_buffer("codes", codes)
        self.dtype = dtype

    @classmethod
    def of(cls, values: Tensor, scheme: TensorScheme, channel_axis: int) -> Self:
        """Quantize a float tensor.

        Args:
            values: The tensor.
            scheme: How.
            channel_axis: Axis that channels lie on, for a scheme with more than one scale.

        Raises:
            DataError: If it holds NaN or Inf.
        """
        values = values.detach()
        qparams = choose_weight_qparams(values, scheme, channel_axis)
        return cls(quantize_in_pieces(values, qparams), qparams, scheme, values.dtype)

    @classmethod
    def empty(cls, values: Tensor, scheme: TensorScheme, channel_axis: int) -> Self:
        """Return codes 0 and scales 1 of the shapes that a tensor would have, to be filled."""
        axis = None if scheme.has_one_scale else channel_axis
        shape: tuple[int, ...] = () if axis is None else (values.shape[axis],)
        if scheme.group_size is not None:
            columns = values.numel() // values.shape[channel_axis]
            shape += (-(-columns // scheme.group_size),)
        scale = torch.ones(shape, dtype=torch.float32, device=values.device)
        qparams = QParams(scale, torch.zeros_like(scale).int(), scheme.qmin, scheme.qmax, axis)
        codes = torch.zeros_like(values, dtype=torch.int8, requires_grad=False)
        return cls(codes, qparams, scheme, values.dtype)

    def dequantize(self) -> Tensor:
        """Return the float32 values that the codes stand for."""
        return dequantize(self.codes, self.qparams)

    def dequantize_rows(self, rows: Tensor) -> Tensor:
        """Return the values of rows of a matrix, whose channels lie on the first axis.

        Args:
            rows: Indices, shape (n,).

        Returns:
            float32, shape (n, columns).

        Raises:
            IndexError: If there is no such row.
        """
        codes, grid = F.embedding(rows, self.codes), self.qparams
        if grid.axis is not None:
            grid = replace(grid, scale=grid.scale[rows], zero_point=grid.zero_point[rows])
        return dequantize(codes, grid)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert, as `.to()` and `.half()` do; the scale stays in float32."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)


class PackedTensor(QuantizedTensor):
    """What a `QuantizedTensor` of at most 4 bits in groups holds, in half the memory.

    `codes` is unpacked whenever it is read; the `state_dict` holds codes as every other does.

    Args:
        stored: The tensor; scales and zero points are shared with it.

    Attributes:
        nibbles: uint8, (size of the first axis, half of all others, rounded up).
        shape: Shape of the tensor.
    """

    nibbles: Tensor

    def __init__(self, stored: QuantizedTensor) -> None:
        StoredGrid.__init__(self, stored.qparams, stored.scheme)
        self.scale, self.zero_point = stored.scale, stored.zero_point
        self.dtype, self.shape = stored.dtype, stored.codes.shape
        self.register_buffer("nibbles", pack_nibbles(stored.codes.reshape(self.shape[0], -1)))

    @staticmethod
    def can_hold(stored: QuantizedTensor) -> bool:
        """Whether a tensor has groups, and codes that fit into half a byte."""
        scheme = stored.scheme
        return scheme.group_size is not None and scheme.bits <= MAX_NIBBLE_BITS

    @property
    def columns(self) -> int:
        """Codes in a row."""
        return math.prod(self.shape[1:])

    @property
    def codes(self) -> Tensor:  # type: ignore[override]
        """The codes, int8, unpacked."""
        return unpack_nibbles(self.nibbles, self.columns).view(self.shape)

    def weight_pieces(self, most: int) -> Iterator[Tensor]:
        """Yield the float32 values of rows, (rows, columns), at most so many values at a time.

        One row at least. The channels must lie on the first axis.
        """
        rows = max(1, most // self.columns)
        for start in range(0, self.shape[0], rows):
            piece = slice(start, start + rows)
            values = unpack_nibbles(self.nibbles[piece], self.columns, torch.float32)
            if self.zero_point is not None:
                self._combine(values, self.zero_point, piece, Tensor.sub_)
            self._combine(values, self.scale, piece, Tensor.mul_)
            yield values

    def _combine(
        self, values: Tensor, of_grid: Tensor, rows: slice, operation: Callable[..., Tensor]
    ) -> None:
        """Apply an operation to values of rows and what the grid has for each, in place."""
        size = self.scheme.group_size
        assert size is not None
        if self.columns % size == 0:
            operation(values.view(len(values), -1, size), of_grid[rows, :, None])
        else:
            wide = of_grid[rows].repeat_interleave(size, dim=1)[:, : self.columns]
            operation(values, wide)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}nibbles"]
        destination[f"{prefix}codes"] = self.codes
