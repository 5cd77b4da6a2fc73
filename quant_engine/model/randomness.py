"""The same random numbers in every pass on a batch, whatever other threads draw at the same time.

All threads of a process draw from one source. Passes of a model that draws hold it: one at a time,
and each from the same state on. A model that draws nothing takes no part in that, so its passes
run side by side. Which of the two it is cannot be told from the state of the source, which any
thread may change, but from the operations that the pass itself calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")

SOURCE = threading.RLock()
"""Held by whoever changes the sources of random numbers for a while, in any thread."""

_DROPOUT = ("dropout_p", "dropout", "train", "training")


class RandomNumbers:
    """What every pass on a batch draws: the numbers that come after one state of the source.

    Example:
        >>> numbers = RandomNumbers()
        >>> torch.equal(numbers.run(lambda: torch.rand(3)), numbers.run(lambda: torch.rand(3)))
        True
        >>> numbers.are_drawn
        True

    Attributes:
        are_drawn: Whether a pass was seen to draw.
    """

    def __init__(self, state: Tensor | None = None) -> None:
        """Start where the source is now, or at a state that `current_state` gave."""
        self._state = current_state() if state is None else state
        self.are_drawn = False

    def run(self, forward: Callable[[], T], *, is_watched: bool = True) -> T:
        """Run a pass with these numbers.

        Args:
            forward: The pass. It runs again if it turns out to draw, which is found out at the
                first number, so it must be one that can be repeated.
            is_watched: False for a pass like one that was watched and drew nothing, which is not
                slowed down. If the source changes nevertheless, it is repeated and watched.
        """
        if not self.are_drawn and not is_watched:
            before = torch.random.get_rng_state()
            result = forward()
            if torch.equal(before, torch.random.get_rng_state()):
                return result
        if not self.are_drawn:
            before = current_state()
            try:
                with _RefuseToDraw():  # type: ignore[no-untyped-call]
                    return forward()
            except _DrawnError:
                self.are_drawn = True
                with SOURCE:  # the pass may have seeded the source before it drew
                    torch.random.set_rng_state(before)
        with self.again():
            return forward()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw these numbers in the block if any were drawn before; else nothing is done."""
        if not self.are_drawn:
            yield
            return
        with SOURCE:
            before = torch.random.get_rng_state()
            torch.random.set_rng_state(self._state)
            try:
                yield
            finally:
                torch.random.set_rng_state(before)


def current_state() -> Tensor:
    """Return the state of the source, after the pass that holds it, if there is one."""
    with SOURCE:
        return torch.random.get_rng_state()


class _DrawnError(BaseException):
    """A pass was about to draw; no model catches it, and it never leaves this module."""


class _RefuseToDraw(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operations of this thread, and stops before the first one that draws."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _draws(func, args, kwargs):
            raise _DrawnError
        return func(*args, **kwargs)


@cache
def _can_draw(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def _draws(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation draws from the source, and not from a generator of its own."""
    if not _can_draw(func) or kwargs.get("generator") is not None:
        return False
    for index, argument in enumerate(func._schema.arguments):
        if argument.name in _DROPOUT:
            default = kwargs.get(argument.name, argument.default_value)
            if (args[index] if index < len(args) else default) in (0, False):
                return False
    return True
