"""How many of a class gave each answer, and which one is right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from dashboard.figures.kit.axes import rows_axis
from dashboard.figures.kit.marks import row_bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import GOOD, NEUTRAL, new_figure

_LINE = 46
_ROW_HEIGHT, _FRAME_HEIGHT = 46, 100


def class_answers_picture(answers: Sequence[str], counts: Sequence[int], right: int) -> Picture:
    """Return the answers as bars; the right one is ticked.

    Args:
        answers: What could be answered.
        counts: How many gave each.
        right: Index of the right answer.
    """
    trace = row_bars(
        counts,
        [GOOD if index == right else NEUTRAL for index in range(len(answers))],
        width=0.6,
        text=[str(count) for count in counts],
        textposition="outside",
        cliponaxis=False,
    )
    labels = [
        "<br>".join(textwrap.wrap(f"{'✓ ' if index == right else ''}{answer}", _LINE))
        for index, answer in enumerate(answers)
    ]
    most = max(*counts, 1)
    figure = new_figure(
        "What the class answered",
        "Answers",
        traces=[trace],
        height=_ROW_HEIGHT * len(answers) + _FRAME_HEIGHT,
        x_axis={"range": [0, 1.1 * most], "dtick": -(-most // 5)},
        y_axis=rows_axis(labels),
        layout={"margin": {"l": 64, "r": 16, "t": 44, "b": 48}},
    )
    return Picture(
        figure,
        f"In the class, {counts[right]} of {sum(counts)} said “{answers[right]}”, which is right.",
        (
            "Everybody who opened the class's link and answered counts once; a later answer "
            "replaces an earlier one.",
            "No names are kept and nothing is written to disk: the counts end with the server.",
        ),
        lambda: [
            {"answer": answer, "count": count, "is_right": index == right}
            for index, (answer, count) in enumerate(zip(answers, counts, strict=True))
        ],
        "class-answers",
    )
