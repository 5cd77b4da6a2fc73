"""What a person does with the dashboard: open, choose, click a mark, read the link.

A click reaches the server later than it returns, so a page at rest may not have begun to answer.
What a test says after a click is therefore waited for, never read once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Error, FloatRect, Locator, Page, expect

from tests.browser.harness import wait_until_idle

RUN_SECONDS = 300  # longest that an analysis may take, on a machine with other work too
ATTEMPTS = 300
PAUSE_MS = 100
Theme = Literal["light", "dark"]
THEMES: dict[Theme, str] = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 28)"}
"""Themes and the background of each, as the browser writes it."""


def visit(page: Page, address: str) -> Page:
    page.goto(address)
    wait_until_idle(page)
    return page


def show_theme(page: Page, theme: Theme) -> None:
    """Let an open page follow a system that changes to this theme."""
    page.emulate_media(color_scheme=theme)
    expect(page.get_by_test_id("stApp")).to_have_css("background-color", THEMES[theme])
    wait_until_idle(page)


def resize(page: Page, width: int, height: int = 900) -> None:
    """Give the window this size and wait until nothing on the page is wider."""
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_function(
        """width => {
            const main = document.querySelector('[data-testid="stMain"]');
            return innerWidth === width && main.scrollWidth <= main.clientWidth;
        }""",
        arg=width,
        timeout=5_000,
    )


def forget(page: Page) -> None:
    """Let the browser forget all that the dashboard left in it: what is loaded next is a link's."""
    page.context.clear_cookies()
    if page.url.startswith("http"):
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")


def open_from_menu(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    expect(page.locator("h1")).to_have_text(name)
    wait_until_idle(page)


def linked(page: Page, key: str) -> str | None:
    """What the page's address says for a key now."""
    values = parse_qs(urlsplit(page.url).query).get(key)
    return values[-1] if values else None


def expect_link(page: Page, key: str, accepts: Callable[[str | None], bool]) -> str | None:
    """Wait until the address says something acceptable for a key, and return it."""
    for _ in range(ATTEMPTS):
        if accepts(linked(page, key)):
            return linked(page, key)
        page.wait_for_timeout(PAUSE_MS)
    raise AssertionError(f"The link says {key}={linked(page, key)!r}: {page.url}")


def layer_picker(page: Page) -> Locator:
    return page.get_by_test_id("stSidebar").get_by_role("combobox", name=re.compile("Layer"))


def click_mark(page: Page, mark: Locator, share: float = 0.5) -> None:
    """Click a mark of a figure, at this share of its width, once it is seen and at rest.

    By coordinates: Plotly lays a transparent layer over its marks, which takes the clicks.
    """
    box = scroll_to(page, mark)
    page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def scroll_to(page: Page, target: Locator) -> FloatRect:
    """Scroll to an element and return where it is, in pixels, once it no longer moves.

    Plotly draws its marks anew when its width changes, so the one at hand may be replaced: then
    the new one is taken.
    """
    before = None
    for _ in range(ATTEMPTS):
        wait_until_idle(page)
        try:
            # To the middle of the window: its lower edge may lie under a message.
            target.evaluate("e => e.scrollIntoView({block: 'center'})")
            box = target.bounding_box()
        except Error as error:
            if "not attached" not in str(error):
                raise
            box = None
        if box is not None and box == before:
            return box
        before = box
        page.wait_for_timeout(PAUSE_MS)
    raise AssertionError(f"{target} never came to rest.")
