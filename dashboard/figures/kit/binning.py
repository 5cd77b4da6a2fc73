"""Equal-width bins: edges, middles, and joining whole neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a histogram.

    Attributes:
        lo: Left edge.
        hi: Right edge.
        count: Values in it.
    """

    lo: float
    hi: float
    count: int

    @property
    def center(self) -> float:
        """Its middle."""
        return (self.lo + self.hi) / 2


def bins_of(lo: float, hi: float, counts: Sequence[int]) -> list[Bin]:
    """Return the equal-width bins between `lo` and `hi`.

    Example:
        >>> bins_of(0.0, 2.0, (5, 7))
        [Bin(lo=0.0, hi=1.0, count=5), Bin(lo=1.0, hi=2.0, count=7)]
    """
    edges = bin_edges(lo, hi, len(counts))
    return [Bin(a, b, count) for (a, b), count in zip(pairwise(edges), counts, strict=True)]


def bin_edges(lo: float, hi: float, bins: int) -> list[float]:
    """Return the edges of equal-width bins; the last one is exactly `hi`."""
    return [lo + (hi - lo) * index / bins for index in range(bins)] + [hi]


def join_bins(counts: Sequence[int], most: int) -> tuple[int, ...]:
    """Join whole neighbouring bins until there are at most `most`; no count is lost or split.

    Only group sizes that divide the number of bins are used, so all bins stay equally wide; where
    that would leave next to nothing, the counts come back as they are.

    Example:
        >>> join_bins((1, 2, 3, 4, 5, 6), 3), join_bins((1, 2, 3, 4, 5), 3)
        ((3, 7, 11), (1, 2, 3, 4, 5))
    """
    for size in range(1, len(counts) // 2 + 1):
        bins, left = divmod(len(counts), size)
        if left == 0 and bins <= most and bins >= most / 3:
            return tuple(sum(counts[i : i + size]) for i in range(0, len(counts), size))
    return tuple(counts)
