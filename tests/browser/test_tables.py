"""Tables in a browser: no number is out of sight at a usual width, the main one at no width."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.browser.actions import visit
from tests.browser.conftest import PageOpener

SCROLLERS = "[data-testid=stDataFrame] .dvn-scroller"
TABLES = {
    "experiment?run=resnet+int8_per_channel": 1,
    "what_if?run=resnet+int8_per_channel": 2,
    "sensitivity?run=vit_outlier_channels+int8_per_channel": 1,
}


@pytest.mark.parametrize(("link", "count"), TABLES.items())
def test_nothing_scrolls_sideways(
    dashboard_url: str, open_page: PageOpener, link: str, count: int
) -> None:
    page = visit(open_page(viewport=(1440, 1000)), f"{dashboard_url}/{link}")
    widths = "all => all.filter(x => x.checkVisibility()).map(x => [x.scrollWidth, x.clientWidth])"
    page.wait_for_selector(SCROLLERS)
    found = page.locator(SCROLLERS).evaluate_all(widths)
    assert len(found) >= count
    assert [whole for whole, seen in found if whole > seen] == []


def test_the_row_with_the_largest_degradation_is_as_high_as_all_others(
    dashboard_url: str, open_page: PageOpener
) -> None:
    link = "what_if?run=vit+int8_per_channel"
    page = visit(open_page(viewport=(1440, 1000)), f"{dashboard_url}/{link}")
    page.get_by_text("worst", exact=True).wait_for()
    boxes = page.locator(".st-key-what_if_rows [data-testid=stButtonGroup]").evaluate_all(
        "all => all.map(x => x.getBoundingClientRect().top)"
    )
    steps = {round(after - before) for before, after in pairwise(boxes)}
    assert len(boxes) > 2
    assert max(steps) - min(steps) <= 2
