"""Every figure of every page opens with its result in words."""

from __future__ import annotations

import re

import pytest

from tests.dashboard.app_harness import assert_alive, open_app

PAGES = ("start", "experiment", "sensitivity", "what_if", "layer", "compare", "size_time", "learn")


@pytest.mark.parametrize("present", ["false", "true"])
@pytest.mark.parametrize("page", PAGES)
def test_the_sentence_of_a_figure_stands_right_above_it(page: str, present: str) -> None:
    app = open_app({"present": present})
    app.switch_page(f"views/{page}/{page}.py").run()
    assert_alive(app)

    elements = list(app)
    # Nothing is drawn before a run or an answer, nor on the words that a presentation begins with.
    is_bare = page in ("experiment", "learn") or (
        page in ("start", "compare") and present == "true"
    )
    assert is_bare or any(element.type == "plotly_chart" for element in elements)
    for place, element in enumerate(elements):
        if element.type == "plotly_chart":
            said = re.sub(r"\\(.)", r"\1", str(elements[place - 1].value))
            assert said == f"**{element.proto.alt}**"
            assert len(said.split()) > 3, said
