"""What layers cost one by one, and what they cost together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.figures.kit.axes import beside, rows_axis, two_lines
from dashboard.figures.kit.marks import row_bars, whiskers
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import ERROR, FLOAT, INT8, MARGIN, NEUTRAL, new_figure
from dashboard.words.formatting import format_nats, format_number

_MOST_LAYERS = 4
"""So many layers stand as bars of their own; of more only the sum."""


@dataclass(frozen=True, slots=True)
class Cost:
    """How far answers move, as KL divergence in nats.

    Attributes:
        name: What is rounded.
        value: The divergence.
        interval: Its 95 % interval, or None.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None


def sums_picture(alone: Sequence[Cost], together: Cost, predicted: float, detail: str) -> Picture:
    """Return the layers' own costs, their sum, and what they cost together, run and predicted.

    Args:
        alone: Every layer alone, as it was run.
        together: All of them, as they were run.
        predicted: What is predicted for all of them.
        detail: Second line of the title.
    """
    total = sum(one.value for one in alone)
    own = list(alone) if len(alone) <= _MOST_LAYERS else []
    rows = [
        *own,
        Cost(f"sum of {len(alone)} alone", total),
        Cost("together, run", together.value, together.interval),
        Cost("together, predicted", predicted),
    ]
    colors = [*[INT8] * len(own), NEUTRAL, ERROR, FLOAT]
    values = [row.value for row in rows]
    hover = [f"{row.name}: {format_nats(row.value)}" for row in rows]
    intervals = whiskers(values, [row.interval for row in rows])
    trace = row_bars(values, colors, hover=hover, width=0.62, error_x=intervals)
    figure = new_figure(
        two_lines("How far the answers move", detail),
        "KL divergence (nats)",
        traces=[trace],
        height=150 + 34 * len(rows),
        x_axis={"rangemode": "tozero", "nticks": 5},
        y_axis=rows_axis([row.name for row in rows]),
        annotations=[beside(i, format_number(value, 2)) for i, value in enumerate(values)],
        layout={"margin": {**MARGIN, "r": 76, "t": 60}},
    )
    return Picture(
        figure,
        f"Together {format_nats(together.value, 2)}, the sum of all alone is "
        f"{format_nats(total, 2)}: {format_number(together.value / total, 2)} times the sum.",
        (
            "Whiskers: 95 % intervals over the test digits. Both sides were run on the same "
            "digits, so much of that doubt is shared.",
            "The prediction knows in which direction each layer moves the answers, and adds the "
            "moves as vectors.",
        ),
        lambda: [{"what": row.name, "kl_divergence_nats": row.value} for row in rows],
        "sum",
    )
