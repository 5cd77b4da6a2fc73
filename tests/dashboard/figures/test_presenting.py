"""Figures for a projector: larger, in proportion, and nothing of the original is touched."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.figures.kit.axes import two_lines
from dashboard.figures.kit.presenting import FACTOR, HEIGHT, enlarge
from dashboard.figures.layers.error_ridges import layer_errors_picture
from tests.dashboard.app_harness import open_app
from tests.dashboard.factories import make_report


def test_text_and_margins_grow_and_the_height_fills_a_screen() -> None:
    figure = layer_errors_picture(make_report(), "weight").figure
    before = figure.to_json()

    large = enlarge(figure)

    assert figure.to_json() == before
    assert large.layout.height == HEIGHT
    assert large.layout.margin.l == pytest.approx(FACTOR * figure.layout.margin.l)
    usual = figure.layout.template.layout
    assert large.layout.font.size == pytest.approx(FACTOR * usual.font.size)
    assert large.layout.title.font.size > usual.title.font.size
    fonts = [large.layout.xaxis.tickfont, large.layout.yaxis.tickfont, large.layout.legend.font]
    assert min(font.size for font in fonts) >= 22
    assert large.data == figure.data


def test_the_legend_stays_right_below_the_title() -> None:
    figure = layer_errors_picture(make_report(), "weight").figure
    large = enlarge(figure)

    before = (1 - figure.layout.legend.y) * figure.layout.height
    after = (1 - large.layout.legend.y) * large.layout.height
    assert after == pytest.approx(FACTOR * before)


def test_more_rows_than_a_screen_holds_make_the_figure_higher() -> None:
    rows = {"yaxis": {"tickvals": list(range(50))}, "height": 400}
    large = enlarge(go.Figure(go.Bar(x=[1], y=[2]), layout=rows))
    assert large.layout.height >= 50 * 1.2 * large.layout.yaxis.tickfont.size


def test_a_bare_figure_can_be_enlarged() -> None:
    large = enlarge(go.Figure(go.Bar(x=[1], y=[2])))

    assert large.layout.font.size == 22


def test_the_label_of_a_ground_grows() -> None:
    ground = {"type": "rect", "label": {"text": "not reliable", "font": {"size": 11}}}

    large = enlarge(go.Figure(layout={"shapes": [ground, {"type": "line"}]}))

    assert [shape.label.font.size for shape in large.layout.shapes] == [22, None]


def test_the_second_line_of_a_title_grows_with_the_first() -> None:
    figure = go.Figure(layout={"title": {"text": two_lines("Error", "one layer at a time")}})

    assert "font-size:22px" in enlarge(figure).layout.title.text


def test_presenter_mode_shows_one_figure_and_the_keys_go_on_and_back() -> None:
    app = open_app({"present": "true"}).switch_page("views/size_time/size_time.py").run()
    for button, shortcut in (("next", "right"), ("previous", "left"), ("leave", "escape")):
        assert app.button(key=f"slide_{button}").proto.shortcut.lower() == shortcut

    seen = [_title(app)]
    for _ in range(3):
        app.button(key="slide_next").click().run()
        seen.append(_title(app))
    assert [title.split(" (")[0] for title in seen] == [
        "Bytes of the model, step by step",
        "Bytes of each layer",
        "Time of one forward pass",
        "Time inside each layer",
    ]
    app.button(key="slide_previous").click().run()
    assert _title(app) == seen[2]
    app.button(key="slide_leave").click().run()
    assert len(app.get("plotly_chart")) == 4


def test_the_keys_go_from_page_to_page() -> None:
    app = open_app({"present": "true"}).switch_page("views/compare/compare.py").run()
    for _ in range(10):
        if app.title[0].value != "Compare":
            break
        app.button(key="slide_next").click().run()
    assert app.title[0].value == "Size & time"
    assert _title(app) == "Bytes of the model, step by step"
    app.button(key="slide_previous").click().run()
    assert app.title[0].value == "Compare"


def _title(app: AppTest) -> str:
    (chart,) = app.get("plotly_chart")
    figure: dict[str, Any] = json.loads(chart.proto.spec)
    assert figure["layout"]["height"] >= HEIGHT
    return str(figure["layout"]["title"]["text"]).split("<br>")[0]


def test_the_pair_is_slides_of_its_own_words_first_then_its_figures() -> None:
    app = open_app({"present": "true"})

    assert any("of 400 answers changed" in text.value for text in app.markdown)
    assert not app.get("plotly_chart"), "the figures have slides of their own"
    app.button(key="slide_next").click().run()
    assert len(app.get("plotly_chart")) == 1
    assert not any("of 400 answers changed" in text.value for text in app.markdown)
