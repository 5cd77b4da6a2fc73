"""Every mark of the sensitivity and size pages selects its layer; chosen rows are kept in float."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.harness import BrowserLog, scroll_to, wait_until_idle

RUN = "run=mlp+int8_per_channel"
RUN_SECONDS = 120
ROW_PIXELS = 35

DEEP_LINK_PROBE = re.compile(r"/(sensitivity|size-time)/_stcore/(health|host-config)\)?$")


@pytest.fixture(autouse=True)
def ignore_deep_link_probe(browser_log: BrowserLog, open_page: object) -> object:
    """Streamlit looks for its server below the page's own address first; nothing turns it off."""
    yield
    browser_log.ignore(DEEP_LINK_PROBE)


def visit(page: Page, address: str) -> None:
    page.goto(address)
    wait_until_idle(page)


def layer_shown(page: Page) -> str:
    """Name of the layer in the sidebar's picker."""
    return layer_picker(page).input_value()


def layer_picker(page: Page) -> Locator:
    return page.get_by_test_id("stSidebar").get_by_role("combobox", name=re.compile("Layer"))


def click_middle(page: Page, mark: Locator, share: float = 0.5) -> None:
    scroll_to(page, mark)
    box = mark.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def expect_layer(page: Page, name: str) -> None:
    """The picker shows the layer, and so does the link, unless it is the default one."""
    expect(layer_picker(page)).to_have_value(name)
    wait_until_idle(page)
    linked = parse_qs(urlsplit(page.url).query).get("layer", [name])
    assert linked == [name]


def row_names(page: Page, figure: str) -> list[str]:
    """Layers of a figure's rows from the top, without rank and mark."""
    labels = page.locator(f".st-key-{figure} .ytick text")
    expect(labels.first).to_be_visible()
    ticks = labels.all_text_contents()
    return [re.sub(r"^▶\s*|\s+\d+$", "", tick.replace("\xa0", " ")) for tick in ticks]


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_bars_on_a_logarithmic_axis_can_be_clicked_anywhere(
    dashboard_url: str, page: Page, share: float
) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    names = row_names(page, "sensitivity_ranking")
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))

    bar = page.locator(".st-key-sensitivity_ranking .barlayer .point path").nth(other)
    click_middle(page, bar, share)

    expect_layer(page, names[other])
    marked = page.locator(".st-key-sensitivity_ranking .ytick text").all_text_contents()
    assert marked[other].startswith("▶")


def test_points_of_the_curve_select_the_layer_they_added(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    before = layer_shown(page)
    points = page.locator(".st-key-sensitivity_curve .scatterlayer .trace").first.locator(".point")

    for index in range(points.count()):
        click_middle(page, points.nth(index))
        wait_until_idle(page)
        if layer_shown(page) != before:
            return
    pytest.fail("no point of the curve selected another layer")


def test_ticked_rows_select_their_layer_and_can_be_kept_in_float(
    dashboard_url: str, page: Page
) -> None:
    visit(page, f"{dashboard_url}/sensitivity?{RUN}")
    names = row_names(page, "sensitivity_ranking")
    table = page.get_by_test_id("stDataFrame")
    for row in (1, 0):
        scroll_to(page, table)
        box = table.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 17, box["y"] + ROW_PIXELS * (row + 1.5))
        expect_layer(page, names[row])

    page.get_by_role("button", name="Keep 2 layers in float and re-run").click()

    page.wait_for_function(
        "() => new URL(location.href).searchParams.get('run').includes('exclude')"
    )
    run = parse_qs(urlsplit(page.url).query)["run"][0]
    assert set(run.split()[2:]) == {f"exclude:{names[0]}", f"exclude:{names[1]}"}
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
    assert cells.count() == 2 * (len(names) + 1)
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))
    click_middle(page, cells.nth(2 * (other + 1) + 1))
    expect_layer(page, names[other])

    table = page.get_by_test_id("stDataFrame")
    scroll_to(page, table)
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 17, box["y"] + ROW_PIXELS * 1.5)
    expect_layer(page, names[0])
    page.get_by_role("button", name="Give 1 layer 4 bits and re-run").click()

    page.wait_for_function("() => new URL(location.href).searchParams.get('run').includes('bits')")
    run = parse_qs(urlsplit(page.url).query)["run"][0]
    assert run.split()[2:] == [f"bits:{names[0]}:4"]
    expect(page.get_by_text("Not measured yet for this run")).to_be_visible(
        timeout=RUN_SECONDS * 1000
    )


@pytest.mark.parametrize("figure", ["size_layers", "time_gains", "time_layers"])
def test_rows_of_the_size_page_select_their_layer(
    dashboard_url: str, page: Page, figure: str
) -> None:
    visit(page, f"{dashboard_url}/size-time?{RUN}")
    names = row_names(page, figure)
    other = next(index for index, name in enumerate(names) if name != layer_shown(page))

    # The last trace covers whole rows, so that the shortest bar is as easy to hit as the longest.
    row = page.locator(f".st-key-{figure} .barlayer .trace").last.locator(".point path").nth(other)
    click_middle(page, row, 0.9)

    expect_layer(page, names[other])
