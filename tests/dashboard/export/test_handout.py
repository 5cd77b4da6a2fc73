"""Lessons on paper: what is written stays text, and nothing is left out."""

from __future__ import annotations

import json
import re

import plotly.graph_objects as go

from dashboard.export.handout import Sheet, handout_to_html, paragraphs
from dashboard.figures.kit.picture import Picture

PICTURE = Picture(go.Figure(go.Bar(y=[3])), "Bars <of> 3.", ("About.",), lambda: [{"y": 3}], "bars")
SHEET = Sheet(
    title="1. Why <b>?",
    text="A **step** is *small*.\n\nSee `scale` & 1 < 2.",
    question="How many?",
    answers=("one", "two </script>"),
    right=1,
    truth="It is 2.",
    pictures=(PICTURE,),
    insight="Two is more.",
    computed="Computed now.",
)


def test_markdown_becomes_html_and_all_else_is_escaped() -> None:
    assert paragraphs(SHEET.text) == (
        "<p>A <strong>step</strong> is <em>small</em>.</p>\n"
        "<p>See <code>scale</code> &amp; 1 &lt; 2.</p>"
    )
    assert paragraphs("<script>") == "<p>&lt;script&gt;</p>"


def test_a_sheet_has_everything_and_its_figures_data() -> None:
    page = handout_to_html([SHEET, SHEET]).decode()

    assert page.count("<section>") == 2
    for words in (
        "1. Why &lt;b&gt;?",
        "<li>two &lt;/script&gt;</li>",
        "It is answer 2.",
        "It is 2.",
        "Bars &lt;of&gt; 3.",
        "Two is more.",
        "Computed now.",
    ):
        assert words in page, words
    specs = re.findall(r'<script type="application/json" id="[^"]+">(.*?)</script>', page)
    assert [json.loads(spec)["data"][0]["y"] for spec in specs] == [[3], [3]]
