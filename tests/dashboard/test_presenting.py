"""Figures for a projector: larger, in proportion, and nothing of the original is touched."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest

from dashboard.figures.axes import two_lines
from dashboard.figures.error_ridges import layer_error_histograms
from dashboard.figures.presenting import FACTOR, enlarge
from tests.dashboard.app_harness import open_app
from tests.dashboard.factories import make_report


def test_text_height_and_margins_grow_together() -> None:
    figure = layer_error_histograms(make_report())
    before = figure.to_json()

    large = enlarge(figure)

    assert figure.to_json() == before
    assert large.layout.height == pytest.approx(FACTOR * figure.layout.height)
    assert large.layout.margin.l == pytest.approx(FACTOR * figure.layout.margin.l)
    usual = figure.layout.template.layout
    assert large.layout.font.size == pytest.approx(FACTOR * usual.font.size)
    assert large.layout.title.font.size > usual.title.font.size
    assert large.layout.xaxis.tickfont.size > usual.xaxis.tickfont.size
    assert large.data == figure.data


def test_a_bare_figure_can_be_enlarged() -> None:
    large = enlarge(go.Figure(go.Bar(x=[1], y=[2])))

    assert large.layout.font.size == 15


def test_the_second_line_of_a_title_grows_with_the_first() -> None:
    figure = go.Figure(layout={"title": {"text": two_lines("Error", "one layer at a time")}})

    assert "font-size:15px" in enlarge(figure).layout.title.text


def test_presenter_mode_enlarges_every_figure_of_a_page() -> None:
    heights = []
    for link in ({}, {"present": "true"}):
        charts = open_app(link).get("plotly_chart")
        specs = [go.Figure(_json(chart.proto.spec)) for chart in charts]
        heights.append([figure.layout.height for figure in specs])

    usual, large = heights
    assert large == pytest.approx([FACTOR * height for height in usual])


def _json(text: str) -> dict[str, object]:

    loaded: dict[str, object] = json.loads(text)
    return loaded
