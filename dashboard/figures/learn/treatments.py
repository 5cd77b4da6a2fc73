"""How many answers are right under every repair of one model."""

from __future__ import annotations

from collections.abc import Mapping

from dashboard.figures.kit.axes import rows_axis, two_lines
from dashboard.figures.kit.marks import row_bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import FLOAT, GOOD, INT8, new_figure, vertical_line
from dashboard.words.formatting import format_accuracy, percent


def treatments_picture(
    accuracies: Mapping[str, float], chosen: str, float_accuracy: float, images: int
) -> Picture:
    """Return the accuracy under every repair as bars, the chosen one framed.

    Args:
        accuracies: What was done, in a few words, and the share of the answers that are right, 0
            to 1; in the order they are drawn.
        chosen: Name of the repair that is looked at.
        float_accuracy: Share of the answers that are right before quantization, dotted.
        images: How many images were asked.
    """
    shares = list(accuracies.values())
    title = two_lines(
        "Right answers of the quantized network",
        f"share of {images:,} test digits; dotted: {format_accuracy(float_accuracy)} in float",
    )
    trace = row_bars(
        [percent(share) for share in shares],
        [GOOD if share > float_accuracy - 0.01 else INT8 for share in shares],
        hover=[f"{name}: {format_accuracy(share)}" for name, share in accuracies.items()],
        is_framed=[name == chosen for name in accuracies],
        width=0.66,
        text=[format_accuracy(share) for share in shares],
        textposition=["inside" if share > 0.5 else "outside" for share in shares],
        cliponaxis=False,
    )
    labels = [f"<b>▶ {name}</b>" if name == chosen else name for name in accuracies]
    figure = new_figure(
        title,
        "Right answers (%)",
        traces=[trace],
        height=110 + 34 * len(shares),
        x_axis={"range": [0, 115], "tickvals": [0, 25, 50, 75, 100]},
        y_axis=rows_axis(labels),
        shapes=[vertical_line(100 * float_accuracy, color=FLOAT)],
        layout={"margin": {"l": 64, "r": 16, "t": 60, "b": 48}},
    )
    return Picture(
        figure,
        f"With “{chosen}”, {format_accuracy(accuracies[chosen])} of the answers are right; in "
        f"float {format_accuracy(float_accuracy)}.",
        (
            "One bar for each repair; the framed one is chosen. The model, its bits and the test "
            "digits are the same for all.",
            "Green: within one point of the float network.",
        ),
        lambda: [{"repair": n, "right_percent": percent(s)} for n, s in accuracies.items()],
        "repairs",
    )
