"""Work in a real browser: started, watched, cancelled, reloaded, and there after a restart."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.actions import (
    RUN_SECONDS,
    click_mark,
    expect_link,
    forget,
    linked,
    open_from_menu,
    visit,
)
from tests.browser.harness import wait_until_idle


def test_from_a_run_to_a_layer_and_back_by_its_link(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/?run=cnn+int8_per_channel")
    page.get_by_role("button", name="Set up your own run").click()
    expect(page.locator("h1")).to_have_text("Experiment")
    wait_until_idle(page)
    page.get_by_role("button", name="Int8, smallest error").click()
    wait_until_idle(page)
    expect(page.get_by_text("Settings changed, not run yet")).to_be_visible()

    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Layers so far")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    result = page.get_by_text("Result: CNN, Int8, smallest error")
    expect(result).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect_link(page, "run", lambda run: run == "cnn int8_mse")

    open_from_menu(page, "Sensitivity")
    page.get_by_role("button", name="Measure sensitivity").click()
    ranking = page.locator(".st-key-sensitivity_ranking")
    expect(ranking).to_be_visible(timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    before = linked(page, "layer")
    click_mark(page, ranking.locator(".barlayer .point path").nth(3))
    chosen = expect_link(page, "layer", lambda layer: layer != before)
    assert chosen is not None

    open_from_menu(page, "Layer")
    expect(page.get_by_test_id("stMain").get_by_text(chosen, exact=True).first).to_be_visible()
    expect_link(page, "layer", lambda layer: layer == chosen)
    address = page.url

    forget(page)
    page.reload()
    wait_until_idle(page)
    expect(page.get_by_test_id("stMain").get_by_text(chosen, exact=True).first).to_be_visible()
    expect(page.get_by_test_id("stSidebar").get_by_text("Int8, smallest error")).to_be_visible()
    expect_link(page, "run", lambda run: run == "cnn int8_mse")
    expect_link(page, "layer", lambda layer: layer == chosen)
    assert page.url == address


def test_cancelling_ends_the_work_and_the_page_lives(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?run=resnet+int8_per_channel&widths=4")
    page.get_by_role("button", name="Measure sensitivity").first.click()
    page.get_by_role("button", name="Cancel").click()

    ended = page.get_by_text(re.compile("Stopped early|was cancelled before it had a result"))
    expect(ended.first).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    open_from_menu(page, "Layer")
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_nothing_jumps_when_work_begins(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/experiment?run=mlp+int8_per_channel")
    title = page.locator("h1").element_handle()
    before = title.bounding_box()
    assert before is not None
    page.get_by_role("button", name="Int8, entropy").click()
    wait_until_idle(page)
    expect(page.get_by_text("Settings changed, not run yet")).to_be_visible()
    page.keyboard.press("Control+Enter")
    panel = page.locator(".st-key-live_jobs")
    expect(panel).to_be_visible()
    assert title.bounding_box() == before, "drawn anew, it has none"
    box = panel.bounding_box()
    assert box is not None
    assert box["y"] > 600, "it lies over the lower edge of the window"

    expect(page.get_by_text("Result: MLP, Int8, entropy")).to_be_visible(timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    assert title.bounding_box() == before


def test_a_reload_does_not_lose_the_work_that_runs(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?run=vit+int8_per_channel&widths=4")
    page.get_by_role("button", name="Measure sensitivity").first.click()
    expect(page.get_by_role("button", name="Measure sensitivity")).to_have_count(0)

    page.reload()

    expect(page.locator(".st-key-sensitivity_ranking")).to_be_visible(timeout=RUN_SECONDS * 1000)
