"""The dashboard in a real browser, started with the documented command."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.actions import (
    RUN_SECONDS,
    click_mark,
    expect_link,
    linked,
    open_from_menu,
    visit,
)
from tests.browser.harness import run_server, wait_until_idle

PAGES = ("", "experiment", "sensitivity", "what_if", "layer", "compare", "size-time", "learn")
HEADINGS = {
    "": "See what int8 does to a neural network",
    "experiment": "Experiment",
    "sensitivity": "Sensitivity",
    "what_if": "What if",
    "layer": "Layer",
    "compare": "Compare",
    "size-time": "Size & time",
    "learn": "Learn",
}


def figures(page: Page) -> Locator:
    return page.locator(".stPlotlyChart .main-svg:first-child")


def test_the_first_page_shows_a_model_broken_and_repaired(dashboard_url: str, page: Page) -> None:
    visit(page, dashboard_url)

    expect(page.locator("h1")).to_have_text(HEADINGS[""])
    expect(figures(page)).to_have_count(2)
    expect(page.get_by_text("287 of 576 weights became 0").first).to_be_visible()
    expect(page.locator(".st-key-pair_flipped img")).to_have_count(8)
    # Two screens at 1440 x 900.
    page.wait_for_function(
        """() => document.querySelector('[data-testid="stMain"]').scrollHeight <= 1850""",
        timeout=10_000,
    )
    expect(page.get_by_role("button", name="Set up your own run")).to_be_visible()


def test_from_a_run_to_a_layer_and_back_by_its_link(
    dashboard_url: str, page: Page, open_page: Callable[..., Page]
) -> None:
    visit(page, f"{dashboard_url}/?run=resnet+int8_per_channel")
    page.get_by_role("button", name="Set up your own run").click()
    expect(page.locator("h1")).to_have_text("Experiment")
    wait_until_idle(page)
    page.get_by_role("button", name="Int8, smallest error").click()
    wait_until_idle(page)
    expect(page.get_by_text("Settings changed, not run yet")).to_be_visible()

    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Layers so far")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    result = page.get_by_text("Result: ResNet-20, Int8, smallest error")
    expect(result).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect_link(page, "run", lambda run: run == "resnet int8_mse")

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

    page.reload()
    wait_until_idle(page)
    expect(page.get_by_test_id("stMain").get_by_text(chosen, exact=True).first).to_be_visible()
    expect_link(page, "run", lambda run: run == "resnet int8_mse")
    expect_link(page, "layer", lambda layer: layer == chosen)

    other = visit(open_page(), address)
    expect(other.get_by_test_id("stMain").get_by_text(chosen, exact=True).first).to_be_visible()
    expect(other.get_by_test_id("stSidebar").get_by_text("Int8, smallest error")).to_be_visible()


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


def test_cancelling_ends_the_work_and_the_page_lives(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?run=resnet+int8_entropy")
    analysing = page.get_by_text("Analysing ResNet-20,")
    expect(analysing).to_have_count(0, timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    page.get_by_role("button", name="Measure sensitivity").first.click()
    page.get_by_role("button", name="Cancel").click()

    ended = page.get_by_text(re.compile("Stopped early|was cancelled before it had a result"))
    expect(ended.first).to_be_visible(timeout=RUN_SECONDS * 1000)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    open_from_menu(page, "Layer")
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_nothing_jumps_when_work_begins(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?run=mlp+int8_symmetric")
    wait_until_idle(page)
    top = "() => document.querySelector('h1').getBoundingClientRect().top"
    before = page.evaluate(top)
    open_from_menu(page, "Experiment")
    page.get_by_role("button", name="Int8, entropy").click()
    page.get_by_role("button", name="Run", exact=False).first.wait_for()
    page.keyboard.press("Control+Enter")
    panel = page.locator(".st-key-live_jobs")
    expect(panel).to_be_visible()
    assert page.evaluate(top) == before
    box = panel.bounding_box()
    assert box is not None
    assert box["y"] > 600, "it lies over the lower edge of the window"


def test_the_rows_and_what_is_wrong_with_a_layer_are_in_sight_together(
    dashboard_url: str, page: Page
) -> None:
    visit(page, f"{dashboard_url}/layer?run=mobilenet_unequal_channels+int8_per_tensor")
    expect(figures(page).first).to_be_in_viewport()
    expect(page.get_by_text("287 of 576 weights became 0").first).to_be_in_viewport(ratio=1)


def test_a_reload_does_not_lose_the_work_that_runs(dashboard_url: str, page: Page) -> None:
    visit(page, f"{dashboard_url}/sensitivity?run=vit+int8_symmetric")
    analysing = page.get_by_text("Analysing ViT,")
    expect(analysing).to_have_count(0, timeout=RUN_SECONDS * 1000)
    wait_until_idle(page)
    page.get_by_role("button", name="Measure sensitivity").first.click()
    expect(page.get_by_role("button", name="Measure sensitivity")).to_have_count(0)

    page.reload()

    expect(page.locator(".st-key-sensitivity_ranking")).to_be_visible(timeout=RUN_SECONDS * 1000)


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


def test_copy_link_puts_the_whole_address_on_the_clipboard(dashboard_url: str, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, f"{dashboard_url}/size-time?run=mlp+int8_per_channel&layer=network.0")

    page.get_by_role("button", name="Copy link").click()

    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "run=mlp" in page.url


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


def test_copy_link_offers_the_address_where_copying_is_blocked(
    dashboard_url: str, page: Page
) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    visit(page, f"{dashboard_url}/?run=mlp+int8_per_channel")

    page.get_by_role("button", name="Copy link").click()

    assert page.get_by_label("Copy this by hand").input_value() == page.url


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


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_the_text_of_figures_has_enough_contrast(
    dashboard_url: str, open_page: Callable[..., Page], color_scheme: str
) -> None:
    page = visit(open_page(color_scheme=color_scheme), f"{dashboard_url}/size-time")
    back = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    expect(page.locator(".main-svg .xtick text").first).to_be_visible()
    fills = page.eval_on_selector_all(
        ".main-svg text:not(.bartext)",
        "all => all.filter(e => e.textContent).map(e => getComputedStyle(e).fill)",
    )
    assert fills
    for fill in set(fills):
        assert contrast(fill, back) >= 4.5, fill


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours as the browser writes them."""

    def luminance(color: str) -> float:
        shares = [float(part) / 255 for part in re.findall(r"[\d.]+", color)[:3]]
        red, green, blue = (
            s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_narrow_window(
    dashboard_url: str, open_page: Callable[..., Page], name: str
) -> None:
    page = visit(open_page(viewport=(800, 900)), f"{dashboard_url}/{name}")

    expect(page.locator("h1")).to_have_text(HEADINGS[name])
    page.wait_for_function(
        """() => {
            const main = document.querySelector('[data-testid="stMain"]');
            return main.scrollWidth <= main.clientWidth;
        }""",
        timeout=5_000,
    )


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_accessible_in_both_themes(
    dashboard_url: str,
    open_page: Callable[..., Page],
    assert_accessible: Callable[..., None],
    name: str,
    color_scheme: str,
) -> None:
    page = visit(open_page(color_scheme=color_scheme), f"{dashboard_url}/{name}")
    expect(page.locator("h1")).to_have_text(HEADINGS[name])
    background = page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (color_scheme == "light")

    assert_accessible(page)


def test_a_saved_run_is_shown_at_once_after_a_restart(
    chromium: str, page: Page, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with run_server(tmp_path / "first.log", home=home) as url:
        visit(page, f"{url}/?run=mlp+int8_mse")
        expect(page.get_by_text("Your run: MLP")).to_be_visible(timeout=RUN_SECONDS * 1000)
        # Results come before times; a run is saved when all of it is known.
        expect(page.get_by_text("Analysing MLP,")).to_have_count(0, timeout=RUN_SECONDS * 1000)
        page.goto("about:blank")
    with run_server(tmp_path / "second.log", home=home) as url:
        visit(page, url)
        page.get_by_role("tab", name="Recent runs").click()
        page.locator("[class*='st-key-show_']").get_by_role("button", name="Show").click()
        expect(page.get_by_text("Your run: MLP")).to_be_visible(timeout=30_000)
        expect_link(page, "run", lambda run: run == "mlp int8_mse")
        page.goto("about:blank")
