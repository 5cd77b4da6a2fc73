"""The whole dashboard without a browser: open it with a link, wait for its work, read its parts."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.data.store import HOME_VARIABLE
from dashboard.session.jobs import jobs

APP = Path(__file__).resolve().parents[2] / "dashboard" / "navigation.py"
TIMEOUT_SECONDS = 60.0


def open_app(
    link: Mapping[str, str] | None = None, *, page: str | None = None, run: bool = True
) -> AppTest:
    """Open the dashboard as a new visitor of a link does.

    Args:
        link: Keys and values after the question mark.
        page: File of the page, such as "views/layer/layer.py"; the start page if not given.
        run: Whether to run the script once.
    """
    app = AppTest.from_file(str(APP), default_timeout=TIMEOUT_SECONDS)
    for key, value in (link or {}).items():
        app.query_params[key] = value
    if page is not None:
        if Path(page).stem == "size_time":  # not its address, which AppTest only knows after a run
            app.run()
        app.switch_page(page)
    return app.run() if run else app


def use_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Keep saved runs in `home`, and begin without runs and jobs of other tests."""
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    st.cache_resource.clear()


def wait_for_jobs(app: AppTest, timeout: float = 120.0) -> AppTest:
    """Wait until what the session watches has ended, and draw the page again."""
    deadline = time.monotonic() + timeout
    for key in list(app.session_state["session"].watched_jobs):
        while (status := jobs().status(key)) is not None and status.is_active:
            assert time.monotonic() < deadline, f"{key} did not end: {status.text}"
            time.sleep(0.02)
    return app.run()


class Held:
    """Work that stops where it calls `wait`, until the test has looked at the page."""

    def __init__(self) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Stop here; in the work."""
        self._begun.set()
        assert self._go_on.wait(TIMEOUT_SECONDS)

    def look(self, app: AppTest) -> AppTest:
        """Draw the page again when the work has come to where it stops."""
        assert self._begun.wait(TIMEOUT_SECONDS)
        return app.run()

    def end(self, app: AppTest) -> AppTest:
        """Let the work go on to its end."""
        self._go_on.set()
        return wait_for_jobs(app)

    def cancel(self, app: AppTest) -> AppTest:
        """Press Cancel where the work has stopped, and let it find that out."""
        self.look(app)
        button(app, "Cancel").click().run()
        return self.end(app)


def texts(app: AppTest) -> str:
    """Return all text of the page and its sidebar, joined, without Markdown's backslashes."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success")
    found = [str(element.value) for kind in kinds for element in app.get(kind)]
    found += [f"{metric.label}: {metric.value} {metric.delta}" for metric in app.metric]
    return unescaped("\n".join(found))


def unescaped(text: str) -> str:
    """Return text without Markdown's backslashes."""
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", text)


def link_of(app: AppTest) -> dict[str, Any]:
    """Return the keys and values of the link."""
    return dict(app.query_params)


def assert_alive(app: AppTest) -> None:
    """The page has drawn itself to the end: no exception, and no traceback for a viewer."""
    assert not app.exception, [element.value for element in app.exception]


def widget(app: AppTest, kind: str, label: str) -> Any:
    """Return the one widget of a kind, such as "button", that is called so."""
    found = [w for w in getattr(app, kind) if w.label == label]
    assert len(found) == 1, f"{len(found)} {kind} are called {label!r}"
    return found[0]


def button(app: AppTest, label: str) -> Any:
    """Return the one button that is called so."""
    return widget(app, "button", label)


def figures(app: AppTest) -> list[dict[str, Any]]:
    """Return every figure of the page as Plotly's data and layout."""
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def figure(app: AppTest, title: str) -> dict[str, Any]:
    """Return the one figure whose title begins so."""
    (found,) = [f for f in figures(app) if f["layout"]["title"]["text"].startswith(title)]
    return found
