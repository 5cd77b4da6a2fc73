"""Codes of at most 4 bits, two to a byte, laid out to be unpacked fast.

`packing` is the layout of files: dense at every width, and slow to read. Here a byte holds code j
of a row in its low half and code j + ⌈columns / 2⌉ in its high half, so that both halves are
written as one run each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_engine.errors import DataError

MAX_NIBBLE_BITS = 4
_HALF = 8


def pack_nibbles(codes: Tensor) -> Tensor:
    """Pack a matrix of codes.

    Args:
        codes: int8, (rows, columns), each in [-8, 7].

    Returns:
        uint8, (rows, ⌈columns / 2⌉).

    Raises:
        DataError: If a code does not fit.

    Example:
        >>> pack_nibbles(torch.tensor([[-8, 7, 1]], dtype=torch.int8)).tolist()
        [[144, 15]]
    """
    if codes.numel() and not (int(codes.min()) >= -_HALF and int(codes.max()) < _HALF):
        raise DataError(f"Codes lie in [{int(codes.min())}, {int(codes.max())}]; 4 bits hold less.")
    columns = codes.shape[1]
    shifted = (codes + _HALF).to(torch.uint8)
    middle = -(-columns // 2)
    packed = shifted[:, :middle].clone()
    packed[:, : columns - middle] |= shifted[:, middle:] << 4
    return packed


def unpack_nibbles(packed: Tensor, columns: int, dtype: torch.dtype = torch.int8) -> Tensor:
    """Read what `pack_nibbles` wrote: (rows, columns), of any type that holds -8 to 15.

    Example:
        >>> unpack_nibbles(torch.tensor([[144, 15]], dtype=torch.uint8), 3).tolist()
        [[-8, 7, 1]]
    """
    middle = packed.shape[1]
    codes = torch.empty(len(packed), columns, dtype=dtype, device=packed.device)
    codes[:, :middle] = packed & 15
    codes[:, middle:] = packed[:, : columns - middle] >> 4
    return codes.sub_(_HALF)
