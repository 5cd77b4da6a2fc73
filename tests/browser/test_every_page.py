"""Every page fits a narrow window and can be read by everyone, in both themes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.actions import THEMES, resize, show_theme, visit

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


@pytest.mark.parametrize("name", HEADINGS)
def test_a_page_fits_a_narrow_window_and_is_accessible_in_both_themes(
    dashboard_url: str,
    open_page: Callable[..., Page],
    assert_accessible: Callable[..., None],
    name: str,
) -> None:
    page = visit(open_page(viewport=(800, 900)), f"{dashboard_url}/{name}")
    expect(page.locator("h1")).to_have_text(HEADINGS[name])
    resize(page, 800)

    resize(page, 1440)
    expect(page.get_by_test_id("stSidebarNav")).to_be_in_viewport()
    for theme in THEMES:
        show_theme(page, theme)
        assert_accessible(page)
        if name == "size-time":
            assert_figures_can_be_read(page)


def assert_figures_can_be_read(page: Page) -> None:
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
