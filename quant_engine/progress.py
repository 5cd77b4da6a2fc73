"""Telling the caller how far long work has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called as progress(done, total, text). It may raise to cancel; the exception is passed on."""


class ProgressMeter:
    """Counts steps; the total may grow while work of unknown length goes on."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        """Start at zero of `total` steps."""
        self._progress = progress
        self._done = 0
        self._total = total

    def extend(self, steps: int) -> None:
        """Announce more steps than were known of before."""
        self._total = max(self._total, self._done) + steps

    def step(self, text: str, steps: int = 1) -> None:
        """Report one more finished step, or several at once."""
        self._done += steps
        self._total = max(self._total, self._done)
        self.say(text)

    def say(self, text: str) -> None:
        """Report what is going on without finishing a step."""
        if self._progress is not None:
            self._progress(self._done, self._total, text)
