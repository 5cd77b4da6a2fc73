"""At which counts the curve is measured."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.sensitivity.curve import CURVE_POINTS, choose_counts


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([2.0**k for k in range(21)], (0, 1, 16, 17, 18, 19, 20, 21)),  # the last layers stand out
        ([1.0] * 21, (0, 1, 3, 6, 8, 11, 16, 21)),
        ([0.0] * 19 + [math.inf, math.inf], (0, 1, 5, 10, 14, 19, 20, 21)),
        ([1.0] * 7, tuple(range(8))),
    ],
)
def test_points_stand_where_the_curve_changes(
    changes: list[float], expected: tuple[int, ...]
) -> None:
    assert choose_counts(changes, [0, len(changes), 1]) == expected


def test_changes_near_the_largest_float_do_not_overflow() -> None:
    counts = choose_counts([2.0**1023] * 20, [0, 20, 1], 5)
    assert counts == choose_counts([1.0] * 20, [0, 20, 1], 5)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=40),
    st.integers(3, 12),
)
def test_the_ends_are_always_in_and_no_count_twice(changes: list[float], most: int) -> None:
    steps = len(changes)
    counts = choose_counts(changes, [0, steps, steps - 1], most)

    assert list(counts) == sorted(set(counts))
    assert len(counts) == min(most, steps + 1)
    assert {0, steps, steps - 1} <= set(counts)


def test_all_counts_on_demand() -> None:
    assert choose_counts([1.0] * 30, [0, 30, 1], None) == tuple(range(31))
    assert len(choose_counts([1.0] * 30, [0, 30, 1])) == CURVE_POINTS
