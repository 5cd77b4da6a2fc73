"""What a visitor finds in a real browser: pages, links to them, and presenter mode."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import (
    expect_link,
    linked,
    visit,
)
from tests.browser.harness import wait_until_idle


def figures(page: Page) -> Locator:
    return page.locator(".stPlotlyChart .main-svg:first-child")


def test_the_first_page_shows_a_model_broken_and_repaired(dashboard_url: str, page: Page) -> None:
    visit(page, dashboard_url)

    expect(page.locator("h1")).to_have_text("See what int8 does to a neural network")
    expect(figures(page)).to_have_count(2)
    expect(page.get_by_text("287 of 576 weights became 0").first).to_be_visible()
    expect(page.locator(".st-key-pair_flipped img")).to_have_count(8)
    # Two screens at 1440 x 900.
    page.wait_for_function(
        """() => document.querySelector('[data-testid="stMain"]').scrollHeight <= 1850""",
        timeout=10_000,
    )
    expect(page.get_by_role("button", name="Set up your own run")).to_be_visible()


def test_going_back_restores_the_run_that_was_shown(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/?run=mlp+int8_per_channel")
    sidebar = page.get_by_test_id("stSidebar")
    expect(sidebar.get_by_text("MLP", exact=True)).to_be_visible()
    page.locator(".st-key-model_table").get_by_role("button", name="Show").last.click()
    expect(sidebar.get_by_text("MLP", exact=True)).not_to_be_visible()
    wait_until_idle(page)

    page.go_back()

    expect(sidebar.get_by_text("MLP", exact=True)).to_be_visible()
    expect_link(page, "run", lambda run: run == "mlp int8_per_channel")


def test_the_rows_and_what_is_wrong_with_a_layer_are_in_sight_together(
    dashboard_url: str, page: Page
) -> None:
    visit(page, f"{dashboard_url}/layer?run=mobilenet_unequal_channels+int8_per_tensor")
    expect(figures(page).first).to_be_in_viewport()
    expect(page.get_by_text("287 of 576 weights became 0").first).to_be_in_viewport(ratio=1)


def test_a_link_full_of_nonsense_still_opens_to_figures(dashboard_url: str, page: Page) -> None:
    visit(
        page,
        f"{dashboard_url}/layer?run=resnett+int9+samples%3Ax&layer=%3Cb%3Eno&part=maybe&present=2",
    )

    notices = page.get_by_test_id("stAlert")
    expect(notices.filter(has_text="resnett")).to_be_visible()
    expect(notices.filter(has_text="int9")).to_be_visible()
    expect(figures(page).first).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    shown = page.get_by_role("button", name="Dismiss").count()
    page.get_by_role("button", name="Dismiss").first.click()
    expect(page.get_by_role("button", name="Dismiss")).to_have_count(shown - 1)


def test_copy_link_puts_the_whole_address_on_the_clipboard_or_offers_it(
    dashboard_url: str, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, f"{dashboard_url}/size-time?run=mlp+int8_per_channel&layer=network.0")

    page.get_by_role("button", name="Copy link").click()

    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "run=mlp" in page.url

    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.get_by_role("button", name="Link copied").or_(
        page.get_by_role("button", name="Copy link")
    ).click()
    assert page.get_by_label("Copy this by hand").input_value() == page.url


def test_a_copied_link_names_the_run_where_the_address_does_not(
    dashboard_url: str, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, f"{dashboard_url}/size-time")
    assert linked(page, "run") is None

    page.get_by_role("button", name="Copy link").click()

    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert parse_qs(urlsplit(copied).query)["run"] == ["mobilenet_unequal_channels int8_per_tensor"]


def test_presenter_mode_shows_one_figure_a_screen_and_the_arrow_keys_go_on(
    dashboard_url: str, open_page: Callable[..., Page]
) -> None:
    page = visit(open_page(viewport=(1920, 1080)), f"{dashboard_url}/size-time?present=1")
    expect(figures(page)).to_have_count(1)
    expect(page.get_by_test_id("stSidebar")).not_to_be_visible()
    sizes = page.eval_on_selector_all(
        ".stMain .main-svg text, .stMain p",
        "all => all.filter(e => e.checkVisibility() && e.textContent && !e.closest('button'))"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))",
    )
    assert min(sizes) >= 22
    assert page.evaluate("document.querySelector('.stMain').scrollHeight") <= 1080

    page.keyboard.press("ArrowRight")
    expect(page.locator(".st-key-figure_size_layers")).to_be_visible()
    expect(figures(page)).to_have_count(1)
    expect_link(page, "present", lambda word: word == "true")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".st-key-figure_size_steps")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("stSidebar")).to_be_visible(timeout=30_000)
    expect_link(page, "present", lambda word: word is None)
