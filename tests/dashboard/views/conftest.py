"""Every test of a page begins in a home of its own, without runs and jobs of other tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dashboard.app_harness import use_home


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    return tmp_path
