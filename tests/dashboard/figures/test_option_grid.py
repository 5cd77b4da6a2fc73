"""Layers × widths: values as text, shades that say the same, cells that name their layer."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from dashboard.data.sweeps import Sweep, split_options
from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.ranking import rank_layers
from dashboard.figures.sensitivity.option_grid import (
    ALL_LAYERS,
    describe_grid,
    grid_picture,
    grid_rows,
)
from dashboard.widgets.chart import selected_name
from tests.dashboard.factories import figure_of
from tests.dashboard.option_reports import make_options
from tests.dashboard.small_sensitivity import make_layer, make_report

KL = METRICS["kl_divergence"]
option_grid = figure_of(grid_picture)


def cells_of(figure: Any) -> dict[tuple[str, float], dict[str, Any]]:
    """(layer, column) -> what stands in the cell."""
    (trace,) = figure.data
    return {
        (name, round(base + width / 2)): {
            "text": text,
            "color": tuple(int(part) for part in re.findall(r"\d+", color)),
            "ink": ink,
        }
        for name, base, width, text, color, ink in zip(
            trace.customdata,
            trace.base,
            trace.x,
            trace.text,
            trace.marker.color,
            trace.insidetextfont.color,
            strict=True,
        )
    }


def luminance(color: tuple[int, ...]) -> float:
    shares = [part / 255 for part in color]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def two(direction: str = "one_at_a_time", *, wide: Any = (), narrow: Any = ()) -> dict[str, Any]:
    """Two options with KL divergences by layer name."""
    return {
        label: make_report(
            [make_layer(name, kl) for name, kl in values],
            direction=direction,
            reference=make_layer("", 9.0),
        )
        for label, values in (("8 bits", wide), ("4 bits", narrow))
    }


def test_every_cell_holds_its_value_as_text_and_names_its_layer() -> None:
    options = two(wide=[("a", 1.26e-6), ("b", 0.0)], narrow=[("a", 0.25), ("b", 0.034)])

    cells = cells_of(option_grid(options, ["b", "a"], KL))

    assert {key: cell["text"] for key, cell in cells.items()} == {
        ("", 0): "9",
        ("", 1): "9",
        ("b", 0): "0",
        ("b", 1): "3.4e-2",
        ("a", 0): "1.3e-6",
        ("a", 1): "0.25",
    }


def test_a_cell_selects_its_layer_and_the_first_row_selects_none() -> None:
    assert selected_name({"selection": {"points": [{"customdata": "a"}]}}) == "a"
    assert selected_name({"selection": {"points": [{"customdata": ""}]}}) is None


def test_worse_cells_are_darker_and_all_layers_do_not_stretch_the_scale() -> None:
    values = [("a", 1e-6), ("b", 1e-4)]
    options = two(wide=values, narrow=[("a", 1e-2), ("b", 1e-3)])
    cells = cells_of(option_grid(options, ["a", "b"], KL))

    by_value = [("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    shades = [luminance(cells[key]["color"]) for key in by_value]
    assert shades == sorted(shades, reverse=True)
    assert len(set(shades)) == 4
    assert cells["a", 1]["color"] == cells["", 0]["color"]  # the worst layer has the darkest shade


def test_left_out_layers_are_shaded_within_their_column() -> None:
    options = two("leave_one_out", wide=[("a", 1e-6), ("b", 2e-6)], narrow=[("a", 0.1), ("b", 0.2)])
    cells = cells_of(option_grid(options, ["a", "b"], KL))

    # What is left is 1e-6 and 2e-6 of 9: sparing "a" gains the more.
    assert [cells[name, 1]["text"] for name in ("", "a", "b")] == ["9", "8.9", "8.8"]
    for column in (0, 1):
        assert luminance(cells["a", column]["color"]) < luminance(cells["b", column]["color"])
    assert cells["a", 0]["color"] == cells["a", 1]["color"]
    assert describe_grid(options, KL).startswith(
        "Of 2 layers, sparing a gains most at 8 bits: 9 nats of KL divergence; all layers together:"
    )
    whole, first, _ = grid_rows(options, ["a", "b"], KL)
    assert whole["layer"] == f"{ALL_LAYERS} (error)"
    assert first["kl_divergence_gained_at_4_bits"] == pytest.approx(8.9)


def test_sparing_a_layer_that_helps_is_a_loss_and_is_light() -> None:
    options = two("leave_one_out", wide=[("a", 10.0), ("b", 5.0)])
    cells = cells_of(option_grid(options, ["a", "b"], KL))

    assert cells["a", 0]["text"] == "−1"
    assert luminance(cells["a", 0]["color"]) > luminance(cells["b", 0]["color"])


@pytest.mark.parametrize("key", list(METRICS))
@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
def test_text_reads_on_every_shade(key: str, direction: str) -> None:
    options = split_options(make_options(Sweep(direction, bits=(8, 6, 4, 3, 2))))
    names = [row.name for row in rank_layers(options["8 bits"], METRICS[key])]

    for cell in cells_of(option_grid(options, names, METRICS[key])).values():
        ink = 0.0 if cell["ink"] == "#000000" else 1.0
        light, dark = sorted((luminance(cell["color"]), ink), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_layer_that_an_option_does_not_have_is_a_dash() -> None:
    options = two(wide=[("a", 0.1), ("b", 0.2)], narrow=[("a", 0.3)])

    assert cells_of(option_grid(options, ["a", "b"], KL))["b", 1]["text"] == "–"
    assert grid_rows(options, ["b"], KL)[1]["kl_divergence_at_4_bits"] is None


def test_an_exact_output_is_called_so() -> None:
    options = two(wide=[("a", 0.1)], narrow=[("a", 0.1)])
    exact = replace(options["8 bits"].layers[0], sqnr_db=math.inf)
    options["8 bits"] = replace(options["8 bits"], layers=(exact,))

    assert cells_of(option_grid(options, ["a"], METRICS["sqnr_db"]))["a", 0]["text"] == "exact"


def test_selected_layer_and_shown_option_are_marked() -> None:
    options = two(wide=[("a", 0.1), ("b", 0.2)], narrow=[("a", 0.3), ("b", 0.4)])
    figure = option_grid(options, ["a", "b"], KL, selected="b", shown="4 bits")

    assert [text[0] for text in figure.layout.yaxis.ticktext] == ["<", "a", "▶"]
    assert "<b>" not in figure.layout.xaxis.ticktext[0]
    assert "<b>4 bits" in figure.layout.xaxis.ticktext[1]
    widths = dict(zip(figure.data[0].customdata, figure.data[0].marker.line.width, strict=True))
    assert widths == {"": 0, "a": 0, "b": 3}


def test_rows_and_description_hold_the_numbers() -> None:
    options = two(wide=[("a", 1e-6), ("b", 1e-4)], narrow=[("a", 1e-2), ("b", 1e-3)])

    assert grid_rows(options, ["a"], KL) == [
        {"layer": ALL_LAYERS, "kl_divergence_at_8_bits": 9.0, "kl_divergence_at_4_bits": 9.0},
        {"layer": "a", "kl_divergence_at_8_bits": 1e-6, "kl_divergence_at_4_bits": 1e-2},
    ]
    text = describe_grid(options, KL)
    assert text == (
        "Of 2 layers, a is the most sensitive at 4 bits: 0.01 nats of KL divergence; "
        "all layers together: 9 nats at 8 bits, 9 nats at 4 bits."
    )


def test_a_filter_that_fits_nothing_is_said_in_words() -> None:
    figure = option_grid(two(wide=[("a", 1.0)], narrow=[("a", 1.0)]), [], KL)

    assert not figure.data
    assert "No layer fits" in figure.layout.annotations[0].text
    assert describe_grid(two(), KL) == "No layer has a KL divergence."
