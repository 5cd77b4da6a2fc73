"""What a browser test needs besides Playwright: the server, a record of trouble, and axe-core.

The server is started with the documented command, not through the Python module: that would put
the repository root on the import path and hide that the project is not installed.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
)

ROOT = Path(__file__).resolve().parents[2]
APP = "dashboard/app.py"
START_TIMEOUT_S = 90.0
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL_HOSTS = ("127.0.0.1", "127.0.0.2", "localhost")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine is found: cheaper than to intercept the 140 requests of each page.
    "--host-resolver-rules="
    + ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {h}" for h in LOCAL_HOSTS)]),
)
# Opened at a page's own address, Streamlit first looks for its server below that address: two
# requests that are answered with 404 before it asks at the root. They cannot be answered otherwise:
# the page would take its own address for that of a server. Exactly these two are let pass.
DEEP_LINK_PROBE = re.compile(
    r"://[^/]+/(experiment|sensitivity|what_if|layer|compare|size-time|learn)/_stcore/(health|host-config)$"
)
WCAG_AA = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")


def find_chromium() -> str | None:
    """The path of Chromium or Chrome: `CHROMIUM` if set, else the first of the usual names."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def address_flags(address: str) -> list[str]:
    """What `make run ADDRESS=...` adds to the start command."""
    options = ("server.address", "server.allowedHosts", "browser.serverAddress")
    return [word for option in options for word in (f"--{option}", address)]


def start_command(app: str, port: int) -> list[str]:
    """The README's start command, with the `streamlit` of the environment the tests run in."""
    streamlit = Path(sys.executable).with_name("streamlit.exe" if os.name == "nt" else "streamlit")
    return [str(streamlit), "run", app, "--server.port", str(port), "--server.headless", "true"]


@contextmanager
def run_server(
    log: Path,
    *,
    app: str = APP,
    cwd: Path = ROOT,
    home: Path | None = None,
    address: str | None = None,
) -> Iterator[str]:
    """Start the dashboard in its own process, yield its address once healthy, end that process.

    Saved runs go to `home`; beside the log if not given, never to the user's own folder. With
    `address`, a loopback one, it is served there as to a class.
    """
    port = free_port()
    url = f"http://{address or '127.0.0.1'}:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["QUANT_DASHBOARD_HOME"] = str(home or log.parent / "home")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            start_command(app, port) + ([] if address is None else address_flags(address)),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            _wait_until_healthy(f"{url}/_stcore/health", server, log)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_until_healthy(health_url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(health_url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    state = "is not healthy yet" if server.poll() is None else f"ended with {server.returncode}"
    raise RuntimeError(f"The dashboard's server {state}. Its output:\n{log.read_text()}")


@dataclass
class BrowserLog:
    """What a clean page never reports: console errors, exceptions, failed or foreign requests."""

    problems: list[str] = field(default_factory=list)
    watched: list[Page] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        for event, listener in self._listeners().items():
            page.on(event, listener)  # type: ignore[call-overload]
        page.context.on("request", self._on_request)
        self.watched.append(page)

    def stop(self) -> None:
        """Hear no more from the pages watched, which the next test may go on with."""
        for page in self.watched:
            for event, listener in self._listeners().items():
                page.remove_listener(event, listener)
            page.context.remove_listener("request", self._on_request)
        self.watched.clear()

    def _listeners(self) -> dict[str, Callable[..., None]]:
        return {
            "console": self._on_console,
            "pageerror": self._on_page_error,
            "requestfailed": self._on_request_failed,
            "response": self._on_response,
        }

    def ignore(self, pattern: re.Pattern[str]) -> None:
        """Drop the problems a test provoked on purpose."""
        self.problems = [problem for problem in self.problems if not pattern.search(problem)]

    def assert_clean(self) -> None:
        assert not self.problems, "The browser reported:\n" + "\n".join(self.problems)

    def _on_console(self, message: ConsoleMessage) -> None:
        source = message.location.get("url", "")
        if message.type == "error" and not DEEP_LINK_PROBE.search(source):
            self.problems.append(f"console: {message.text} ({source})")

    def _on_page_error(self, error: Error) -> None:
        self.problems.append(f"uncaught: {error}")

    def _on_request_failed(self, request: Request) -> None:
        # A page that is left or closed aborts what it was still loading.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.url} ({request.failure})")

    def _on_response(self, response: Response) -> None:
        is_probe = response.status == 404 and DEEP_LINK_PROBE.search(response.url)
        if response.status >= 400 and not is_probe:
            self.problems.append(f"status {response.status}: {response.url}")

    def _on_request(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in (*LOCAL_HOSTS, None):
            self.problems.append(f"request to another machine: {request.url}")


def wait_until_idle(page: Page, *, timeout_ms: float = 60_000) -> None:
    """Wait until the page is connected, its script has finished and nothing is stale."""
    page.wait_for_selector(
        '[data-testid="stApp"][data-test-connection-state="CONNECTED"]'
        '[data-test-script-state="notRunning"]',
        timeout=timeout_ms,
    )
    page.wait_for_function(
        '() => !document.querySelector(\'[data-stale="true"], [data-testid="stSkeleton"]\')',
        timeout=timeout_ms,
    )


def accessibility_violations(page: Page, *, rules_off: tuple[str, ...] = ()) -> list[str]:
    """Run axe-core's WCAG 2.1 A and AA rules; one line for each element that breaks one."""
    options: dict[str, Any] = {
        "resultTypes": ["violations"],
        "runOnly": {"type": "tag", "values": list(WCAG_AA)},
        "rules": {rule: {"enabled": False} for rule in rules_off},
    }
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {' '.join(map(str, node['target']))}: "
        f"{' '.join(node.get('failureSummary', '').split())}"
        for violation in violations
        for node in violation["nodes"]
    ]
