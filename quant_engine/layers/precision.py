"""Computing in the precision of the numbers at hand, whatever `torch.autocast` says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_AS_IT_IS: AbstractContextManager[None] = nullcontext()


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of `x`, inside the context.

    Sums of codes, and of the values they stand for, need all digits of float32: in bfloat16 the
    two would differ.
    """
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return _AS_IT_IS
    return torch.autocast(kind, enabled=False)
