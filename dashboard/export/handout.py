"""Lessons on paper: one file, one sheet of A4 for each lesson, figures included.

The file opens from disk without a network and prints as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from dashboard.export.pages import TEMPLATES, render
from dashboard.figures.kit.picture import Picture

_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\*(.+?)\*"), r"<em>\1</em>"),
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
)
"""The Markdown that lessons are written in, beside paragraphs."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One lesson on paper.

    Attributes:
        title: Its number and title.
        text: What one needs to know (Markdown: paragraphs, strong, emphasis, code).
        question: What is asked.
        answers: What may be answered.
        right: Index of the right answer.
        truth: What is right, with numbers.
        pictures: Figures, the first one first.
        insight: What to take home.
        computed: What the numbers are.
    """

    title: str
    text: str
    question: str
    answers: tuple[str, ...]
    right: int
    truth: str
    pictures: tuple[Picture, ...]
    insight: str
    computed: str


def handout_to_html(sheets: Sequence[Sheet]) -> bytes:
    """Return lessons as a file of HTML that prints one sheet per lesson."""
    return render("handout", sheets=list(sheets))


def paragraphs(text: str) -> Markup:
    """Return a lesson's Markdown as HTML, everything else escaped.

    Example:
        >>> paragraphs("One *step* < two.")
        Markup('<p>One <em>step</em> &lt; two.</p>')
    """
    found = []
    for part in text.split("\n\n"):
        html = str(escape(part))
        for pattern, replacement in _MARKS:
            html = pattern.sub(replacement, html)
        found.append(f"<p>{html}</p>")
    return Markup("\n".join(found))


TEMPLATES.filters["paragraphs"] = paragraphs
