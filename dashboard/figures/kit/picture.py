"""A figure with all that belongs to it, whoever shows it: a page, the HTML report, a story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import plotly.graph_objects as go

Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""The numbers of a figure: one mapping per row, column name -> value."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, what it says, how to read it, and its numbers.

    Attributes:
        figure: What to draw. Its marks name their layers in `customdata`, alone or as the first
            entry of a row.
        alt: Its result in a sentence, also for those who cannot see it.
        about: How to read it: a few short paragraphs (Markdown).
        rows: Returns its numbers.
        name: What its files are called, such as "four-errors".
    """

    figure: go.Figure
    alt: str
    about: tuple[str, ...]
    rows: Callable[[], Rows]
    name: str
