"""What variants of a model answered on a batch, next to the float model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from quant_engine.metrics.counts import SampleCounts

Outcome: TypeAlias = tuple[SampleCounts, ...]
"""What one variant answered: counts of each judged output."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutcome:
    """All variants on one batch.

    Attributes:
        variants: One outcome for each variant, in order.
        full_forwards_because: Why nothing could be replayed; empty if it was.
    """

    variants: tuple[Outcome, ...]
    full_forwards_because: str = ""

    @classmethod
    def merge(cls, parts: Sequence[BatchOutcome]) -> BatchOutcome:
        """Put the variants of several outcomes of the same batch one after the other."""
        return cls(
            tuple(outcome for part in parts for outcome in part.variants),
            next((part.full_forwards_because for part in parts if part.full_forwards_because), ""),
        )


def join_outcomes(parts: Sequence[Outcome]) -> Outcome:
    """Put the samples of several batches one after the other, output by output."""
    return tuple(SampleCounts.join(found) for found in zip(*parts, strict=True))
