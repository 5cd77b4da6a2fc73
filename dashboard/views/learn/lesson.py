"""What a lesson is: a question asked first, at most two controls, the answer of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dashboard.figures.kit.picture import Picture

Values = Mapping[str, str]
"""What the controls say, by their names."""


@dataclass(frozen=True, slots=True)
class Control:
    """Something the learner changes. What it says stands in the link.

    Attributes:
        name: Its key in the link, one lower-case word such as "bits".
        label: What stands beside it, with its unit.
        options: What it may say, in order.
        default: What it says at first.
        about: One sentence that explains it.
    """

    name: str
    label: str
    options: tuple[str, ...]
    default: str
    about: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the engine says for one choice of the controls.

    Attributes:
        right: Index of the answer that is right, as computed with the controls at their defaults.
        truth: What is right, in one or two sentences with the computed numbers.
        pictures: What to draw, the first one first; at most two.
        insight: What to take home: one sentence, its numbers computed.
        computed: What the numbers are, on which data, and when and where they were computed:
            "computed now, on ..." or "computed on 29 November 2026 by ..., on ...".
    """

    right: int
    truth: str
    pictures: tuple[Picture, ...]
    insight: str
    computed: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson.

    Attributes:
        name: Its key in the link, such as "ruler".
        title: Its title, a question or a claim.
        text: What one needs to know for the question, at most 120 words (Markdown).
        question: What is asked before the figure shows.
        answers: What may be answered, two to four.
        controls: At most two.
        show: Returns what the engine says; pure, so that visitors share what is computed. It
            answers in 150 ms or reads stored results.
        page: The page that shows the same in the dashboard, such as "views/layer/layer.py".
        link: The words of that page's link, such as {"run": "mlp int8_per_channel"}.
        terms: Terms that this lesson explains, as the dashboard writes them, such as "zero point".
    """

    name: str
    title: str
    text: str
    question: str
    answers: tuple[str, ...]
    controls: tuple[Control, ...]
    show: Callable[[Values], Outcome]
    page: str
    link: Mapping[str, str]
    terms: tuple[str, ...]
