"""Every mark of the sensitivity and size pages selects its layer; chosen rows are kept in float."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.actions import (
    RUN_SECONDS,
    click_mark,
    expect_link,
    layer_picker,
    open_from_menu,
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


def another(page: Page, names: list[str]) -> int:
    """Index of the first of these layers that is not the one shown."""
    return next(index for index, name in enumerate(names) if name != layer_shown(page))


def test_every_mark_of_a_layer_selects_it(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    # Read before the first click: each draws the figures anew, and for a moment labels twice.
    names = row_names(page, "sensitivity_ranking")
    click_bars_of_the_ranking(page, names)
    click_a_point_of_the_curve(page, names[::-1])  # the least sensitive layer first
    open_from_menu(page, "Size & time")
    rows = {figure: row_names(page, figure) for figure in ("size_layers", "time_layers")}
    for figure, names in rows.items():
        click_row_of_the_size_page(page, figure, names)


def click_bars_of_the_ranking(page: Page, names: list[str]) -> None:
    """A bar on a logarithmic axis can be clicked anywhere."""
    bars = page.locator(".st-key-sensitivity_ranking .barlayer .point path")
    labels = page.locator(".st-key-sensitivity_ranking .ytick text")
    for share in (0.03, 0.5):
        other = another(page, names)

        click_mark(page, bars.nth(other), share)

        expect_layer(page, names[other])
        expect(labels.nth(other)).to_have_text(re.compile("^▶"))


def click_a_point_of_the_curve(page: Page, added: list[str]) -> None:
    """A point of the curve selects the layer that it added."""
    points = page.locator(".st-key-sensitivity_curve .scatterlayer .trace").first.locator(".point")
    expect(points).to_have_count(len(added))  # the float model, without error, has no place
    other = another(page, added)

    click_mark(page, points.nth(other))

    expect_layer(page, added[other])


def click_row_of_the_size_page(page: Page, figure: str, names: list[str]) -> None:
    other = another(page, names)

    # The last trace covers whole rows, so that the shortest bar is as easy to hit as the longest.
    row = page.locator(f".st-key-{figure} .barlayer .trace").last.locator(".point path").nth(other)
    click_mark(page, row, 0.9)

    expect_layer(page, names[other])


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
    other = another(page, names)
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
