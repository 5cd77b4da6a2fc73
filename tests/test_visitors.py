"""Many visitors open one link that nobody has computed: one computation, and all of them see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.harness import run_server
from tests.visitors import visit

VISITORS = 5
LINK = "run=mlp+int8_per_channel+samples:64+seed:4711"
TIMEOUT_SECONDS = 150.0  # seconds on a quiet machine; a bound for one that is not


@pytest.mark.slow
def test_visitors_of_one_new_link_share_one_computation(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with run_server(tmp_path / "server.log", home=home) as url:
        seen = visit(url, LINK, count=VISITORS, timeout=TIMEOUT_SECONDS)
        stored = {path: path.stat().st_mtime_ns for path in (home / "runs").iterdir()}
        (late,) = visit(url, LINK, count=1, timeout=TIMEOUT_SECONDS)
        after = {path: path.stat().st_mtime_ns for path in (home / "runs").iterdir()}

    assert [one.finished is not None for one in seen] == [True] * VISITORS
    assert {one.figures for one in seen} == {late.figures}
    assert late.figures >= 1
    assert not [text for one in seen for text in one.texts if text.startswith("exception")]
    # A second computation would have written the file again, or be what the late visitor waits for.
    assert len(stored) == 1
    assert after == stored
    assert late.polls == 0
    log = (tmp_path / "server.log").read_text()
    assert "Traceback" not in log, log
