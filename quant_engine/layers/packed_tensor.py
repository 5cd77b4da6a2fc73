"""A tensor with a scale for each group, whose codes lie two to a byte in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from quant_engine.layers.quantized_tensor import QuantizedTensor, StoredGrid
from quant_engine.tensors.nibbles import MAX_NIBBLE_BITS, pack_nibbles, unpack_nibbles


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
