"""Telling the caller how far long work has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as progress(done, total, text). It may raise to cancel; the exception is passed on."""


def in_part(progress: Progress | None, start: float, end: float) -> Progress | None:
    """Return what reports a part of some work as that part of the whole, in thousandths.

    Work of several parts then moves one bar forwards only, whatever each part counts.

    Args:
        progress: Called with the progress of the whole; None for no calls.
        start: Share of the whole that is done when the part begins, 0 to 1.
        end: Share that is done when it ends.

    Example:
        >>> second_half = in_part(lambda done, total, text: print(done, total, text), 0.5, 1.0)
        >>> second_half(3, 6, "batch 3")
        750 1000 batch 3
    """
    if progress is None:
        return None
    hear = progress

    def report(done: int, total: int, text: str) -> None:
        share = start + (end - start) * min(1.0, done / total if total else 0.0)
        hear(round(1000 * share), 1000, text)

    return report


class ProgressMeter:
    """Counts steps; the total may grow while work of unknown length goes on.

    Attributes:
        done: Finished steps.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        """Start at zero of `total` steps."""
        self._progress = progress
        self.done = 0
        self._total = total

    def extend(self, steps: int) -> None:
        """Announce more steps than were known of before."""
        self._total = max(self._total, self.done) + steps

    def step(self, text: str, steps: int = 1) -> None:
        """Report one more finished step, or several at once."""
        self.done += steps
        self._total = max(self._total, self.done)
        self.say(text)

    def say(self, text: str) -> None:
        """Report what is going on without finishing a step."""
        if self._progress is not None:
            self._progress(self.done, self._total, text)
