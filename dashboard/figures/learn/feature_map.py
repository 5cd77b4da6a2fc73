"""Where on a feature map the errors are."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.figures.kit.axes import two_lines
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import new_figure
from dashboard.words.formatting import format_number

_SHADES = [[0.0, "#F7E8F0"], [0.5, "#CC79A7"], [1.0, "#5E1B43"]]  # the colour of errors


def feature_map_picture(
    errors: Sequence[Sequence[float]], largest: float, detail: str, told: str
) -> Picture:
    """Return the size of each error as a shade.

    Args:
        errors: Error of each output, (rows, columns), in steps.
        largest: Error that has the darkest shade.
        detail: What it is the map of; second line of the title.
        told: Its result in a sentence.
    """
    sizes = [[abs(error) for error in row] for row in errors]
    heatmap = {
        "type": "heatmap",
        "z": sizes,
        "customdata": [list(row) for row in errors],
        "zmin": 0.0,
        "zmax": largest,
        "colorscale": _SHADES,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "row %{y}, column %{x}: off by %{customdata:.2f} steps<extra></extra>",
        "colorbar": {"title": {"text": "off by<br>(steps)"}, "thickness": 12, "nticks": 5},
    }
    hidden = {"showgrid": False, "showticklabels": False, "ticks": "", "fixedrange": True}
    figure = new_figure(
        two_lines("Error of each output of the layer", detail),
        "Column",
        "Row",
        traces=[heatmap],
        height=340,
        x_axis=hidden,
        y_axis={**hidden, "autorange": "reversed"},
        layout={"margin": {"l": 40, "r": 16, "t": 60, "b": 40}},
    )
    return Picture(
        figure,
        told,
        (
            "Each square is one number that the layer computes; the darker, the further off.",
            f"The darkest shade is an error of {format_number(largest, 2)} steps, always.",
        ),
        lambda: [
            {"row": row, "column": column, "error_steps": error}
            for row, line in enumerate(errors)
            for column, error in enumerate(line)
        ],
        "feature-map",
    )
