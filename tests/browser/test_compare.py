"""Compare in a real browser: from Start's story, turned round, and by its link."""

from __future__ import annotations

import csv
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.actions import RUN_SECONDS, expect_link, forget, linked, visit
from tests.browser.harness import run_server, wait_until_idle


def test_from_the_story_to_its_comparison_swapped_and_opened_by_its_link(
    dashboard_url: str, page: Page, tmp_path: Path
) -> None:
    visit(page, dashboard_url)
    page.get_by_role("button", name="Compare everything").click()
    expect(page.locator("h1")).to_have_text("Compare")
    a = expect_link(page, "a", lambda text: text is not None)
    b = linked(page, "b")
    assert a != b

    wait_until_idle(page)
    page.get_by_role("button", name="Swap").click()
    expect_link(page, "a", lambda text: text == b)
    expect_link(page, "b", lambda text: text == a)
    expect(page.locator(".st-key-compare_flipped img")).to_have_count(8)
    wait_until_idle(page)
    with page.expect_download() as report:
        page.get_by_role("button", name="Report of both").click()
    with page.expect_download() as table:
        page.get_by_role("button", name="Layers of both").click()

    forget(page)
    page.reload()
    wait_until_idle(page)
    expect(page.get_by_text("−82.75 points").first).to_be_visible()
    report.value.save_as(tmp_path / "both.html")
    table.value.save_as(tmp_path / "both.csv")
    page.goto((tmp_path / "both.html").as_uri())
    expect(page.locator("svg.main-svg").first).to_be_visible()
    rows = list(csv.DictReader((tmp_path / "both.csv").read_text("utf-8-sig").splitlines()))
    assert len(rows) == 24
    assert {"layer", "a_weight_nmse", "b_weight_nmse"} <= rows[0].keys()


def test_a_rerun_is_compared_and_both_it_and_the_link_are_there_for_another_server(
    dashboard_url: str, dashboard_home: Path, page: Page, tmp_path: Path
) -> None:
    """As after a restart: a server begun later knows of the first one what that saved, no more."""
    visit(page, f"{dashboard_url}/?run=mlp+int8_per_channel")
    page.get_by_role("tab", name="Another scheme").click()
    page.get_by_role("button", name="Int8, smallest error").click()
    offer = page.locator(".st-key-job_offer")
    expect(offer).to_contain_text("Right answers:", timeout=RUN_SECONDS * 1000)
    offer.get_by_role("button", name="Compare with the run before").click()
    expect(page.locator("h1")).to_have_text("Compare")
    expect_link(page, "b", lambda text: text == "mlp int8_mse")
    link = page.url.removeprefix(dashboard_url)
    # Results come before times; a run is saved when all of it is known.
    expect(page.get_by_text("Analysing MLP,")).to_have_count(0, timeout=RUN_SECONDS * 1000)
    with run_server(tmp_path / "second.log", home=dashboard_home) as url:
        visit(page, url)
        page.get_by_role("tab", name="Recent runs").click()
        latest = page.locator("[class*='st-key-show_']").first
        latest.get_by_role("button", name="Show").click()
        expect(page.get_by_text("Your run: MLP")).to_be_visible(timeout=30_000)
        expect_link(page, "run", lambda run: run == "mlp int8_mse")
        visit(page, f"{url}{link}")
        expect(page.get_by_text("How they came out")).to_be_visible()
        expect(page.get_by_text("is not known here")).to_have_count(0)
        page.goto("about:blank")
