"""Tables in a browser: no number is out of sight at a usual width, the main one at no width."""

from __future__ import annotations

from itertools import pairwise

from playwright.sync_api import Page

from tests.browser.actions import open_from_menu, visit
from tests.browser.conftest import PageOpener

SCROLLERS = "[data-testid=stDataFrame] .dvn-scroller"
WIDTHS = "all => all.filter(x => x.checkVisibility()).map(x => [x.scrollWidth, x.clientWidth])"


def assert_nothing_scrolls_sideways(page: Page, *, count: int) -> None:
    page.wait_for_selector(SCROLLERS)
    found = page.locator(SCROLLERS).evaluate_all(WIDTHS)
    assert len(found) >= count
    assert [whole for whole, seen in found if whole > seen] == []


def test_nothing_scrolls_sideways_and_all_rows_are_of_one_height(
    dashboard_url: str, open_page: PageOpener
) -> None:
    page = open_page(viewport=(1440, 1000))
    visit(page, f"{dashboard_url}/sensitivity?run=vit_outlier_channels+int8_per_channel")
    assert_nothing_scrolls_sideways(page, count=1)
    visit(page, f"{dashboard_url}/experiment?run=resnet+int8_per_channel")
    assert_nothing_scrolls_sideways(page, count=1)
    open_from_menu(page, "What if")
    assert_nothing_scrolls_sideways(page, count=2)

    # The row with the largest degradation is as high as all others.
    page.get_by_text("worst", exact=True).wait_for()
    boxes = page.locator(".st-key-what_if_rows [data-testid=stButtonGroup]").evaluate_all(
        "all => all.map(x => x.getBoundingClientRect().top)"
    )
    steps = {round(after - before) for before, after in pairwise(boxes)}
    assert len(boxes) > 2
    assert max(steps) - min(steps) <= 2
