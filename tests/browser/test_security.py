"""What comes from a link stays text, and nothing leaves for another address."""

from __future__ import annotations

import urllib.request
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from dashboard.security_headers import HEADERS
from tests.browser.harness import wait_until_idle

MARKUP = "![](//other.example/a)"


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/layer"])
def test_every_answer_keeps_the_page_to_itself(dashboard_url: str, path: str) -> None:
    with urllib.request.urlopen(f"{dashboard_url}{path}", timeout=20) as answer:
        headers = dict(answer.headers)

    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


LINKS = (
    f"experiment?run={quote('mlp weight:' + quote(MARKUP))}",
    f"experiment?run={quote(quote(MARKUP))}",
    f"experiment?run={quote(quote('https://other.example/x', safe=''))}",
    f"experiment?run={quote('www.other.example')}",
    f"experiment?run={quote('me@other.example')}",
    f"what_if?whatif={quote(MARKUP)}&layer={quote(MARKUP)}",
)


def test_text_from_a_link_becomes_neither_picture_nor_link(page: Page, dashboard_url: str) -> None:
    for link in LINKS:
        page.goto(f"{dashboard_url}/{link}")  # asking another machine fails the test
        wait_until_idle(page)
        page.get_by_text("other.example").or_(page.get_by_text("!")).first.wait_for()

        foreign = page.locator("img[src*='other.example'], a[href*='other.example']")
        assert foreign.count() == 0, link
