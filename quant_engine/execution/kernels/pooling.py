"""Max pooling of codes: rounding keeps the order of values, so the largest code wins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_engine.execution.kernels.geometry import Pair


def max_pool_codes(
    codes: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Pool unsigned codes (N, C, H, W) or (C, H, W) as `F.max_pool2d` would pool their values.

    Args:
        codes: uint8.
        kernel: Size of the window, one number or two; likewise the others.
        stride: Step of the window; its size if there is none.
        padding: Rows and columns added on every side.
        dilation: Distance between the elements of a window.
        ceil_mode: Whether windows may begin inside and end outside.
    """
    arguments = (pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), ceil_mode)
    if codes.dim() == 4 and codes.numel() and codes.device.type == "cpu" and _has_byte_kernel():
        result: Tensor = torch.ops.quantized.max_pool2d(codes, *arguments)
        return result
    return _pool_as_int16(codes, *arguments)


def pair(value: Sequence[int]) -> Pair:
    """Return (vertical, horizontal) for one number or two."""
    return (value[0], value[-1])


def _pool_as_int16(codes: Tensor, *arguments: Any) -> Tensor:
    # torch's own max pooling of bytes counts positions in a byte too, and refuses larger images.
    wide: Tensor = F.max_pool2d(codes.to(torch.int16), *arguments)
    return wide.to(torch.uint8)


@lru_cache(maxsize=1)
def _has_byte_kernel() -> bool:
    """Whether torch has a pooling kernel for plain bytes that gives what ordinary pooling does."""
    codes = torch.arange(2 * 5 * 9 * 8).mul(37).remainder(256).to(torch.uint8).view(2, 5, 9, 8)
    try:
        for arguments in (((3, 2), (2, 1), (1, 1), (1, 1), False), ((2, 2),) * 2 + _REST):
            found = torch.ops.quantized.max_pool2d(codes, *arguments)
            if not torch.equal(found, _pool_as_int16(codes, *arguments)):
                return False
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return True


_REST = ((0, 0), (2, 1), True)
