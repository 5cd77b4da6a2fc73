"""What is damaged, hostile or full: the page stands, says so, and lets nothing out."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dashboard.session import jobs as work
from dashboard.session.jobs import store
from dashboard.widgets import pair_section
from dashboard.work import jobs, service
from tests import damaged_files
from tests.dashboard.app_harness import assert_alive, open_app, texts, use_home, wait_for_jobs
from tests.dashboard.factories import make_report

SMALL = "mlp"
MARKUP = "![](//other.example/a)"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_home(monkeypatch, tmp_path)
    monkeypatch.setattr(
        service,
        "analyze_settings",
        lambda settings, control: replace(make_report(), model_name=settings.model_name),
    )
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="pipes are no files there")
@pytest.mark.parametrize("page", ["views/start/start.py", "views/experiment/experiment.py"])
def test_damaged_files_leave_start_and_experiment_standing(home: Path, page: str) -> None:
    folder = home / "runs"
    example = gzip.decompress(service.example_path(SMALL).read_bytes())
    names = sorted([*damaged_files.write_runs(folder, example), "brackets_*.jsonl"])
    (folder / "brackets_*.jsonl").write_text("[" * 100_000)

    app = open_app(page=page)

    assert_alive(app)
    if page == "views/start/start.py":
        assert f"{len(names)} saved runs cannot be read" in texts(app)
        assert all(name in texts(app) for name in names[:3])
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.draws_damaged
def test_a_figure_that_fails_takes_down_only_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("inner words")

    monkeypatch.setattr(pair_section, "enlarged", fail)

    app = open_app()

    assert_alive(app)
    assert len(app.get("plotly_chart")) == 2
    [error] = [element.value for element in app.error]
    assert error == "The digits could not be drawn: the server's log says why."
    assert "inner words" not in texts(app)
    assert "inner words" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only")]
)
def test_a_run_that_could_not_be_saved_is_said_once_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("dashboard.data.store.write_stored", fail)
    app = wait_for_jobs(open_app({"run": f"{SMALL} seed:5"}))

    assert_alive(app)
    assert len(app.error) == 1
    assert f"could not be saved in {store().folder} ({error.strerror})" in texts(app)
    assert "QUANT_DASHBOARD_HOME" in texts(app)
    app.button(key="dismiss_0").click().run()
    app.run()
    assert not app.error
    assert "could not be saved" in texts(open_app())  # somebody else has not read it yet


def test_a_home_that_is_a_file_leaves_the_page_standing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    use_home(monkeypatch, blocked)

    app = wait_for_jobs(open_app({"run": f"{SMALL} seed:5"}))

    assert_alive(app)
    assert "could not be saved" in texts(app)


@pytest.mark.parametrize("page", ["views/start/start.py", "views/experiment/experiment.py"])
@pytest.mark.parametrize(
    "link",
    [
        {"run": MARKUP},
        {"run": f"{SMALL} {MARKUP}"},
        {"run": f"{SMALL} weight:{MARKUP}"},
        {"run": f"{SMALL} activation:{MARKUP}"},
        {"run": f"{SMALL} bits:{MARKUP}"},
        {"run": f"{SMALL} bits:{MARKUP}:4"},
        {"run": f"{SMALL} exclude:{MARKUP}"},
        {"run": f"{SMALL} exclude:*[!{MARKUP}]*"},  # a wildcard that fits layers
        {"run": f"{SMALL} samples:{MARKUP}"},
        {"run": f"{SMALL} seed:{MARKUP}"},
        {"layer": MARKUP},
    ],
    ids=str,
)
def test_text_from_a_link_is_never_markup(link: dict[str, str], page: str) -> None:
    app = wait_for_jobs(open_app(link, page=page))

    assert_alive(app)
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "toast")
    shown = [str(element.value) for kind in kinds for element in app.get(kind)]
    assert not [text for text in shown if re.search(r"(?<!\\)\]\(", text)]


def test_work_that_is_not_taken_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_WAITING_PER_VISITOR", 0)

    app = open_app({"run": f"{SMALL} seed:6"})

    assert_alive(app)
    assert "was not begun. 0 of your computations wait already. Allowed: 0." in texts(app)
    assert app.get("plotly_chart")  # the stored example stands meanwhile


def test_the_more_visitors_look_the_slower_each_of_them_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for count in (0, 1, 10, 30, 1000):
        monkeypatch.setattr(jobs.JobManager, "count_watchers", lambda *_, n=count: n)
        found.append(work.poll_seconds())

    assert found == pytest.approx([0.5, 0.5, 1.0, 3.0, 5.0])
