"""The harness on a small app: it serves, it sees what goes wrong, both themes are readable."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.harness import ROOT, BrowserLog, run_server, wait_until_idle

THEME_CSS = ROOT / "dashboard" / "assets" / "theme.css"
APP = f"""
import pathlib

import plotly.graph_objects as go
import streamlit as st

st.set_page_config(page_title="Sample", layout="wide")
st.html(pathlib.Path({str(THEME_CSS)!r}))
with st.sidebar:
    st.header("Settings")
    st.selectbox("Scheme", ["int8", "int4"])
    st.caption("A quiet remark")
st.title("Sample")
st.markdown("Text, `code` and [a link](#sample)")
st.caption("A quiet remark on the page")
st.button("Run", type="primary")
st.button("Cancel")
st.slider("Percentile", 90.0, 100.0, 99.9)
st.multiselect("Layers", ["conv1", "conv2"], default=["conv1"])
st.checkbox("Log axis", value=True)
st.toggle("Presenter mode", value=True)
st.radio("Order", ["most", "least"])
st.pills("Metric", ["KL", "SQNR"], default="KL")
st.number_input("Samples", 1, 100, 10)
st.progress(0.4, "layer 7/21")
st.download_button("Download", "a,b", type="primary")
st.segmented_control("Level", ["weights", "activations"], default="weights")
first, second = st.tabs(["Layers", "Model"])
first.metric("SQNR", "31.2 dB", "-1.4 dB")
first.badge("done", color="green")
for kind in (first.info, first.success, first.warning, first.error):
    kind("A message")
first.plotly_chart(go.Figure(go.Bar(x=["a", "b"], y=[1, 2])))
"""


@pytest.fixture(scope="module")
def sample_url(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A small app under the project's own server settings and theme."""
    folder = tmp_path_factory.mktemp("sample")
    shutil.copytree(ROOT / ".streamlit", folder / ".streamlit")
    (folder / "app.py").write_text(APP)
    with run_server(folder / "server.log", app="app.py", cwd=folder) as url:
        yield url


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_theme_is_accessible(
    sample_url: str,
    open_page: Callable[..., Page],
    assert_accessible: Callable[..., None],
    color_scheme: str,
) -> None:
    page = open_page(color_scheme=color_scheme)
    page.goto(sample_url)
    wait_until_idle(page)
    page.get_by_role("button", name="Run").wait_for()

    assert_accessible(page)


def test_log_sees_console_errors_bad_answers_and_other_machines(
    sample_url: str, page: Page, browser_log: BrowserLog
) -> None:
    page.goto(sample_url)
    wait_until_idle(page)
    browser_log.assert_clean()

    page.evaluate("console.error('said by the test')")
    page.evaluate("fetch('/no/such/thing.json', {method: 'DELETE'})")
    page.evaluate("fetch('http://example.invalid/').catch(() => null)")
    page.wait_for_timeout(300)

    problems = "\n".join(browser_log.problems)
    assert "console: said by the test" in problems
    assert re.search(r"status 4\d\d: .*/no/such/thing.json", problems)
    assert "request to another machine: http://example.invalid/" in problems
    with pytest.raises(AssertionError, match="said by the test"):
        browser_log.assert_clean()
    browser_log.ignore(
        re.compile("said by the test|no/such/thing|status of 40|example.invalid|ERR_FAILED")
    )


def test_axe_sees_a_missing_label(
    sample_url: str, page: Page, assert_accessible: Callable[..., None]
) -> None:
    page.goto(sample_url)
    wait_until_idle(page)
    page.evaluate("document.body.append(document.createElement('textarea'))")

    with pytest.raises(AssertionError, match=r"label \(critical\): textarea"):
        assert_accessible(page)


def test_server_that_cannot_start_shows_its_output(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"ended with \d+. Its output:\n(.|\n)*missing\.py"),
        run_server(tmp_path / "server.log", app="missing.py", cwd=tmp_path),
    ):
        pytest.fail("the server started without an app")
