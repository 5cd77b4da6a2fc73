"""The What-if page in a browser: choose bits, find the best, verify it, and use it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.harness import BrowserLog, scroll_to, wait_until_idle

RUN = "run=cnn+int8_per_channel"
RUN_SECONDS = 120

DEEP_LINK_PROBE = re.compile(r"/what_if/_stcore/(health|host-config)\)?$")


@pytest.fixture(autouse=True)
def ignore_deep_link_probe(browser_log: BrowserLog, open_page: object) -> object:
    """Streamlit looks for its server below the page's own address first; nothing turns it off."""
    yield
    browser_log.ignore(DEEP_LINK_PROBE)


def linked(page: Page, key: str) -> str:
    return parse_qs(urlsplit(page.url).query).get(key, [""])[0]


def metric(page: Page, label: str) -> Locator:
    box = page.get_by_test_id("stMetric").filter(has_text=label)
    return box.get_by_test_id("stMetricValue")


def choose(page: Page, layer: str, letter: str) -> None:
    choices = page.get_by_role("radiogroup", name=f"Bits of {layer}", exact=True)
    choices.get_by_role("radio", name=letter, exact=True).click()


def test_choosing_finding_verifying_and_using(dashboard_url: str, page: Page) -> None:
    page.goto(f"{dashboard_url}/what_if?{RUN}")
    wait_until_idle(page)
    size, harm = metric(page, "Model size"), metric(page, "Predicted KL")
    before = (size.inner_text(), harm.inner_text())

    choose(page, "features.2", "2")
    expect(size).not_to_have_text(before[0])
    expect(harm).not_to_have_text(before[1])
    wait_until_idle(page)
    assert "2" in linked(page, "whatif")
    page.reload()
    wait_until_idle(page)
    chosen = page.get_by_role("radiogroup", name="Bits of features.2", exact=True)
    expect(chosen.get_by_role("radio", name="2", exact=True)).to_be_checked()
    worse = harm.inner_text()

    page.get_by_role("button", name="Find the best").click()
    expect(harm).not_to_have_text(worse)
    wait_until_idle(page)
    best = linked(page, "whatif")
    assert best

    verify = page.get_by_role("button", name="Verify", exact=True)
    if verify.is_enabled():  # the frontier's points were run already
        verify.click()
    expect(verify).to_be_disabled(timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    assert linked(page, "whatif") == best

    page.get_by_role("button", name="Use this").click()
    expect(page.locator("h1")).to_have_text("Experiment")
    page.wait_for_function(
        "() => /exclude|bits/.test(new URL(location.href).searchParams.get('run'))"
    )
    expect(page.get_by_text(re.compile("own bits for|in float")).first).to_be_visible(
        timeout=RUN_SECONDS * 1000
    )


def test_a_click_on_a_point_loads_its_configuration(dashboard_url: str, page: Page) -> None:
    page.goto(f"{dashboard_url}/what_if?{RUN}")
    wait_until_idle(page)
    size = metric(page, "Model size")
    before = size.inner_text()
    chart = page.locator(".st-key-what_if_frontier .scatterlayer .trace").nth(1)
    point = chart.locator(".point").nth(3)  # all layers with 4 bits
    scroll_to(page, point)
    box = point.bounding_box()
    assert box is not None

    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    expect(size).not_to_have_text(before)
    wait_until_idle(page)
    assert set(linked(page, "whatif")) == {"4"}


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 800])
def test_the_page_is_accessible_and_fits(
    dashboard_url: str,
    open_page: Callable[..., Page],
    assert_accessible: Callable[..., None],
    color_scheme: str,
    width: int,
) -> None:
    page = open_page(color_scheme=color_scheme, viewport=(width, 900))
    page.goto(f"{dashboard_url}/what_if?{RUN}")
    wait_until_idle(page)

    assert_accessible(page)
    overflow = page.evaluate(
        "() => { const main = document.querySelector('.stMain');"
        " return main.scrollWidth - main.clientWidth }"
    )
    assert overflow <= 0
