"""Fixtures for tests that drive a real Chromium against the documented start command.

Without Chromium these tests are skipped, unless `REQUIRE_BROWSER=1` is set, as it is in continuous
integration: then its absence is a failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.actions import forget
from tests.browser.harness import (
    CHROMIUM_FLAGS,
    CHROMIUM_NAMES,
    ROOT,
    BrowserLog,
    accessibility_violations,
    find_chromium,
    run_server,
)

ARTIFACTS = ROOT / "test-artifacts"
VIEWPORT = (1440, 900)
DEFAULT_TIMEOUT_MS = 30_000

PageOpener = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder that asks for a page carries the marker `browser`."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the installed Chromium."""
    path = find_chromium()
    if path is None:
        message = f"No Chromium found (looked for {', '.join(CHROMIUM_NAMES)}; CHROMIUM names one)."
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def dashboard_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the dashboard of the whole session saves its runs."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def dashboard_url(
    chromium: str, dashboard_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a dashboard started with the documented command, for the whole session."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with run_server(log, home=dashboard_home) as url:
        yield url


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    """A headless Chromium, one for this folder: its event loop must end before other tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def kept_tabs() -> list[Page]:
    """The tab that the last test left blank, if any.

    A new tab compiles Streamlit and Plotly anew, which costs as much as all else in a page's load.
    """
    return []


@pytest.fixture
def browser_log() -> BrowserLog:
    """What the test's pages reported; `page` and `open_page` check at the end that it is empty."""
    return BrowserLog()


@pytest.fixture
def open_page(
    browser: Browser,
    kept_tabs: list[Page],
    browser_log: BrowserLog,
    request: pytest.FixtureRequest,
) -> Iterator[PageOpener]:
    """Open pages that share nothing: `open_page(color_scheme="dark", viewport=(390, 844))`."""
    pages: list[Page] = []

    def open_one(
        *, color_scheme: Literal["light", "dark"] = "light", viewport: tuple[int, int] = VIEWPORT
    ) -> Page:
        page = kept_tabs.pop() if kept_tabs else _new_tab(browser)
        page.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": viewport[0], "height": viewport[1]})
        browser_log.watch(page)
        pages.append(page)
        return page

    failures_before = request.session.testsfailed
    yield open_one
    is_clean = request.session.testsfailed == failures_before and not browser_log.problems
    if not is_clean:
        _keep_screenshots(request.node.name, pages)
    for page in pages:
        if is_clean and not kept_tabs:
            _make_blank(page)
            kept_tabs.append(page)
        else:
            page.context.close()
    browser_log.stop()
    browser_log.assert_clean()


def _new_tab(browser: Browser) -> Page:
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(DEFAULT_TIMEOUT_MS)
    return context.new_page()


def _make_blank(page: Page) -> None:
    """Leave nothing of a test in its tab: no page, storage, permission, or cut network."""
    forget(page)
    page.goto("about:blank")
    page.context.clear_permissions()
    page.context.set_offline(False)
    page.emulate_media(media="null")


@pytest.fixture
def page(open_page: PageOpener) -> Page:
    """One blank page in the light theme; go somewhere with `page.goto(dashboard_url)`."""
    return open_page()


@pytest.fixture
def assert_accessible() -> Callable[..., None]:
    """Fail with the list of elements that break a WCAG 2.1 A or AA rule of axe-core."""

    def check(page: Page, *, rules_off: tuple[str, ...] = ()) -> None:
        violations = accessibility_violations(page, rules_off=rules_off)
        assert not violations, "\n".join(violations)

    return check


def _keep_screenshots(test_name: str, pages: list[Page]) -> None:
    """Save what a failing test saw under test-artifacts/."""
    folder: Path = ARTIFACTS
    folder.mkdir(exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "_", test_name)
    for index, page in enumerate(pages):
        page.screenshot(path=folder / f"{stem}-{index}.png", full_page=True)
