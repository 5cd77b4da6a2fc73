"""Counting the bytes of the tensors that are alive, without looking at the process."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Sums up the memory of tensors made while it is active, and remembers the most.

    What an operation holds inside, and what NumPy holds, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_plain(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in filter(_is_plain, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._known:
                self._add(storage._cdata, storage)
        self.peak = max(self.peak, self.live)
        return result

    def _add(self, key: int, storage: Any) -> None:
        size = storage.nbytes()
        self.live += size

        def free(_: object) -> None:
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, free)


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"


def peak_bytes(work: Callable[[], object]) -> int:
    """Return how many bytes of tensors were alive at once, at most, beyond those before."""
    with LiveBytes() as counter:
        work()
    return counter.peak
