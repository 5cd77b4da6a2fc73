"""The What-if page in a browser: choose bits, find the best, verify it, and use it."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import (
    RUN_SECONDS,
    Theme,
    click_mark,
    expect_link,
    linked,
    resize,
    show_theme,
    visit,
)
from tests.browser.harness import wait_until_idle

RUN = "run=cnn+int8_per_channel"


def metric(page: Page, label: str) -> Locator:
    box = page.get_by_test_id("stMetric").filter(has_text=label)
    return box.get_by_test_id("stMetricValue")


def choose(page: Page, layer: str, letter: str) -> None:
    choices = page.get_by_role("radiogroup", name=f"Bits of {layer}", exact=True)
    choices.get_by_role("radio", name=letter, exact=True).click()


def test_choosing_finding_verifying_and_using(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/what_if?{RUN}")
    size, degradation = metric(page, "Model size"), metric(page, "KL (nats)")
    before = (size.inner_text(), degradation.inner_text())

    choose(page, "features.2", "2")
    expect(size).not_to_have_text(before[0])
    expect(degradation).not_to_have_text(before[1])
    degraded = expect_link(page, "whatif", lambda letters: letters is not None and "2" in letters)
    page.reload()
    wait_until_idle(page)
    chosen = page.get_by_role("radiogroup", name="Bits of features.2", exact=True)
    expect(chosen.get_by_role("radio", name="2", exact=True)).to_be_checked()
    worse = degradation.inner_text()

    page.get_by_role("button", name="Find the best").click()
    expect(degradation).not_to_have_text(worse)
    best = expect_link(page, "whatif", lambda letters: letters not in (degraded, None))
    wait_until_idle(page)

    verify = page.get_by_role("button", name="Verify", exact=True)
    if verify.is_enabled():  # the frontier's points were run already
        verify.click()
    expect(verify).to_be_disabled(timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    assert linked(page, "whatif") == best

    page.get_by_role("button", name="Use this").click()
    expect(page.locator("h1")).to_have_text("Experiment")
    expect_link(page, "run", lambda run: re.search("exclude|bits", run or "") is not None)
    expect(page.get_by_text(re.compile("own bits for|in float")).first).to_be_visible(
        timeout=RUN_SECONDS * 1000
    )


def test_the_page_of_a_run_is_accessible_and_fits_and_its_points_can_be_clicked(
    dashboard_url: str,
    page: Page,
    assert_accessible: Callable[..., None],
) -> None:
    visit(page, f"{dashboard_url}/what_if?{RUN}")
    looks: tuple[tuple[int, Theme], ...] = (
        (800, "light"),
        (800, "dark"),
        (1440, "dark"),
        (1440, "light"),
    )
    for width, theme in looks:
        resize(page, width)
        show_theme(page, theme)
        assert_accessible(page)

    size = metric(page, "Model size")
    before = size.inner_text()
    chart = page.locator(".st-key-what_if_frontier .scatterlayer .trace").nth(2)
    point = chart.locator(".point").nth(3)  # all layers with 4 bits

    click_mark(page, point)

    expect(size).not_to_have_text(before)
    expect_link(page, "whatif", lambda letters: set(letters or "") == {"4"})
