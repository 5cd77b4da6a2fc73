"""Figures of two outputs, computed in the plainest way."""

from __future__ import annotations

from torch import Tensor


def nmse(expected: Tensor, found: Tensor) -> float:
    """Return Σ(x-x̂)² / Σx², in float64."""
    expected, found = expected.double(), found.double()
    return float((found - expected).square().sum() / expected.square().sum())
