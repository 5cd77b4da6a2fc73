"""Every mark of the sensitivity and size pages selects its layer; chosen rows are kept in float."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import (
    RUN_SECONDS,
    click_mark,
    expect_link,
    layer_picker,
    scroll_to,
    visit,
)
from tests.browser.harness import wait_until_idle

RUN = "run=mlp+int8_per_channel"
ROW_PIXELS = 35


def layer_shown(page: Page) -> str:
    """Name of the layer in the sidebar's picker."""
    return layer_picker(page).input_value()


def expect_layer(page: Page, name: str) -> None:
    """The picker shows the layer, and so does the link, unless it is the default one."""
    expect(layer_picker(page)).to_have_value(name)
    expect_link(page, "layer", lambda linked: linked in (name, None))


def row_names(page: Page, figure: str) -> list[str]:
    """Layers of a figure's rows from the top, without mark and rank."""
    labels = page.locator(f".st-key-{figure} .ytick text")
    expect(labels.first).to_be_visible()
    ticks = labels.all_text_contents()
    return [re.sub(r"^(▶\s*)?(\d+\.\s)?", "", tick.replace("\xa0", " ")) for tick in ticks]


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_bars_on_a_logarithmic_axis_can_be_clicked_anywhere(
    dashboard_url: str, page: Page, share: float
) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    names = row_names(page, "sensitivity_ranking")
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))

    bar = page.locator(".st-key-sensitivity_ranking .barlayer .point path").nth(other)
    click_mark(page, bar, share)

    expect_layer(page, names[other])
    labels = page.locator(".st-key-sensitivity_ranking .ytick text")
    expect(labels.nth(other)).to_have_text(re.compile("^▶"))


def test_points_of_the_curve_select_the_layer_they_added(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    added = row_names(page, "sensitivity_ranking")[::-1]  # the least sensitive layer first
    points = page.locator(".st-key-sensitivity_curve .scatterlayer .trace").first.locator(".point")
    expect(points).to_have_count(len(added))  # the float model, without error, has no place
    other = next(index for index, name in enumerate(added) if name != layer_shown(page))

    click_mark(page, points.nth(other))

    expect_layer(page, added[other])


def test_ticked_rows_select_their_layer_and_can_be_kept_in_float(
    dashboard_url: str, page: Page
) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    names = row_names(page, "sensitivity_ranking")
    table = page.get_by_test_id("stDataFrame")
    for row in (1, 0):
        box = scroll_to(page, table)
        page.mouse.click(box["x"] + 17, box["y"] + ROW_PIXELS * (row + 1.5))
        expect_layer(page, names[row])

    page.get_by_role("button", name="Keep 2 layers in float and re-run").click()

    excluded = {f"exclude:{names[0]}", f"exclude:{names[1]}"}
    expect_link(page, "run", lambda run: set((run or "").split()[2:]) == excluded)
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("2 layers in float")).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect(page.get_by_text("Not measured yet for this run")).to_be_visible()


def test_widths_are_measured_and_given_to_a_layer(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    for width in ("8", "4"):
        page.get_by_role("button", name=width, exact=True).click()
        wait_until_idle(page)
    page.get_by_role("button", name="Measure sensitivity").click()
    cells = page.locator(".st-key-sensitivity_grid .barlayer .point path")
    expect(cells.first).to_be_visible(timeout=RUN_SECONDS * 1000)
    names = row_names(page, "sensitivity_grid")[1:]
    expect(cells).to_have_count(2 * (len(names) + 1))
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))
    click_mark(page, cells.nth(2 * (other + 1)))  # at the left, where no toast covers it
    expect_layer(page, names[other])

    table = page.get_by_test_id("stDataFrame")
    box = scroll_to(page, table)
    page.mouse.click(box["x"] + 17, box["y"] + ROW_PIXELS * 1.5)
    expect_layer(page, names[0])
    page.get_by_role("button", name="Give 1 layer 4 bits and re-run").click()

    expect_link(page, "run", lambda run: (run or "").split()[2:] == [f"bits:{names[0]}:4"])
    expect(page.get_by_text("Not measured yet for this run")).to_be_visible(
        timeout=RUN_SECONDS * 1000
    )


@pytest.mark.parametrize("figure", ["size_layers", "time_layers"])
def test_rows_of_the_size_page_select_their_layer(
    dashboard_url: str, page: Page, figure: str
) -> None:
    visit(page, f"{dashboard_url}/size-time?{RUN}")
    names = row_names(page, figure)
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))

    # The last trace covers whole rows, so that the shortest bar is as easy to hit as the longest.
    row = page.locator(f".st-key-{figure} .barlayer .trace").last.locator(".point path").nth(other)
    click_mark(page, row, 0.9)

    expect_layer(page, names[other])
