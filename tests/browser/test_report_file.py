"""The downloaded report, opened from disk with the network cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Page

from dashboard.export.files import to_html
from tests.browser.conftest import PageOpener
from tests.dashboard.factories import make_partial_report, make_report, make_sensitivity


def open_file(page: Page, folder: Path, content: bytes) -> None:
    file = folder / "report.html"
    file.write_bytes(content)
    page.context.set_offline(True)
    page.goto(file.as_uri())


def test_the_report_draws_all_figures_without_a_network_and_hides_no_number(
    open_page: PageOpener, tmp_path: Path
) -> None:
    page = open_page(viewport=(1100, 800))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    report = make_report("int8_entropy")
    reason = "Its output stays in float, since it goes to a layer that has no integer form. " * 3
    layers = tuple(replace(x, reason=reason) if x.reason else x for x in report.layers)
    sensitivities = (make_sensitivity(), make_sensitivity("leave_one_out"))
    open_file(page, tmp_path, to_html(replace(report, layers=layers), sensitivities))

    figures = page.locator("figure")
    page.wait_for_function(
        "() => document.querySelectorAll('figure').length > 0 &&"
        " [...document.querySelectorAll('figure')].every(f => f.querySelector('.main-svg'))"
    )

    assert figures.count() >= 8
    assert requests == [page.url], "only the file itself is read"
    assert page.locator("tbody tr").count() == len(report.layers)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1100, "nothing sticks out of the page"

    assert reason.strip() in page.locator("tbody").inner_text()
    assert_every_number_is_in_sight(page)
    page.set_viewport_size({"width": 720, "height": 1000})
    page.emulate_media(media="print")
    assert_every_number_is_in_sight(page)


def assert_every_number_is_in_sight(page: Page) -> None:
    inner, outer = page.evaluate(
        "() => ['table', '.table']"
        ".map(x => document.querySelector(x).getBoundingClientRect().right)"
    )
    assert inner <= outer + 1, "every column is in sight"
    lines = page.locator("tbody td.number").evaluate_all(
        "cells => cells.map(cell => { const range = document.createRange();"
        " range.selectNodeContents(cell); return range.getClientRects().length; })"
    )
    assert set(lines) == {1}, "no number is broken into lines"


def test_a_partial_report_opens_and_says_so(open_page: PageOpener, tmp_path: Path) -> None:
    page = open_page(viewport=(420, 800))
    open_file(page, tmp_path, to_html(make_partial_report()))

    assert "stopped early" in page.locator(".notice").inner_text()
    page.wait_for_selector("figure .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
