"""Every test of a page begins in a home of its own, without runs and jobs of other tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboard.work import service
from tests.dashboard.app_harness import use_home


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def computes() -> None:
    """Requested by tests in which a page may compute, where the others of the file may not."""


@pytest.fixture
def no_computing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let whatever starts an analysis or a measurement fail."""
    if "computes" in request.fixturenames:
        return

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the page computed something")

    for name in ("analyze_settings", "measure_settings", "calibration_batches"):
        monkeypatch.setattr(service, name, fail)
