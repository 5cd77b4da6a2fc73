"""The message for an unknown name."""

from __future__ import annotations

from sample_models.errors import unknown_name


def test_without_a_likely_name_only_the_valid_ones_are_listed() -> None:
    error = unknown_name("model", "zzz", ["b", "a"])
    assert str(error) == "unknown model 'zzz': Valid names: 'a', 'b'."


def test_anything_may_have_been_given() -> None:
    assert "unknown model 3:" in str(unknown_name("model", 3, ["a"]))
