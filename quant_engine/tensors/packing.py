"""Integer codes at their true width: 2 to 8 bits each, without gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.scheme import MAX_BITS, MIN_BITS

_GROUP = 8  # eight codes of b bits fill b bytes, and fit into one int64


def packed_length(count: int, bits: int) -> int:
    """Return the bytes that `count` codes of `bits` bits take, rounded up."""
    return -(-count * bits // 8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Write codes one after the other into bytes, lowest bit first.

    Code i, shifted up by 2^(bits-1) so that it is not negative, takes bits [i·bits, (i+1)·bits) of
    the result.

    Args:
        codes: int8 of any shape, each in [-2^(bits-1), 2^(bits-1)-1].
        bits: Width of a code, 2 to 8.

    Returns:
        uint8, shape (packed_length(number of codes, bits),).

    Raises:
        DataError: If a code does not fit, or bits is outside 2..8.

    Example:
        >>> pack_codes(torch.tensor([-2, 1, 0, -1], dtype=torch.int8), bits=2).tolist()
        [108]
    """
    half = _half(bits)
    flat = codes.detach().reshape(-1)
    if flat.numel() and not (-half <= int(flat.min()) and int(flat.max()) < half):
        raise DataError(
            f"Codes lie in [{int(flat.min())}, {int(flat.max())}]; {bits} bits hold "
            f"[{-half}, {half - 1}]."
        )
    groups = -(-flat.numel() // _GROUP)
    padded = flat.new_full((groups * _GROUP,), -half)
    padded[: flat.numel()] = flat
    columns = padded.view(groups, _GROUP)
    words = torch.zeros(groups, dtype=torch.int64, device=codes.device)
    for index in range(_GROUP):
        words |= (columns[:, index].long() + half) << (bits * index)
    packed = torch.empty(groups, bits, dtype=torch.uint8, device=codes.device)
    for index in range(bits):
        packed[:, index] = ((words >> (8 * index)) & 0xFF).to(torch.uint8)
    return packed.view(-1)[: packed_length(flat.numel(), bits)].clone()


def unpack_codes(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Read what `pack_codes` wrote.

    Args:
        packed: uint8, one axis.
        bits: Width of a code, 2 to 8.
        shape: Shape of the codes.

    Returns:
        int8, of that shape.

    Raises:
        DataError: If the number of bytes does not fit, or bits is outside 2..8.
    """
    half = _half(bits)
    count = math.prod(shape)
    if packed.shape != (packed_length(count, bits),):
        raise DataError(
            f"{count} codes of {bits} bits take {packed_length(count, bits)} bytes, got a tensor "
            f"of shape {tuple(packed.shape)}."
        )
    groups = -(-count // _GROUP)
    padded = packed.new_zeros(groups * bits)
    padded[: packed.numel()] = packed
    columns = padded.view(groups, bits)
    words = torch.zeros(groups, dtype=torch.int64, device=packed.device)
    for index in range(bits):
        words |= columns[:, index].long() << (8 * index)
    codes = torch.empty(groups, _GROUP, dtype=torch.int8, device=packed.device)
    for index in range(_GROUP):
        codes[:, index] = (((words >> (bits * index)) & (2 * half - 1)) - half).to(torch.int8)
    return codes.view(-1)[:count].clone().view(tuple(shape))


def _half(bits: int) -> int:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise DataError(f"bits is {bits}. It must be {MIN_BITS} to {MAX_BITS}.")
    return int(2 ** (bits - 1))
