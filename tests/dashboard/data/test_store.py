"""Saved runs: what is kept comes back, after a restart too, and a broken file breaks nothing."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dashboard.data import runs as run_module
from dashboard.data.runs import (
    Run,
    read_example,
    read_example_summary,
    run_from_text,
    run_to_text,
    write_example,
)
from dashboard.data.settings import Settings
from dashboard.data.store import HOME_VARIABLE, RunStore, default_home
from dashboard.data.sweeps import Sweep
from quant_engine.errors import StorageError
from quant_engine.scheme import Recipe
from tests.dashboard.factories import make_partial_report, make_report, make_sensitivity
from tests.dashboard.option_reports import make_options


def make_run(
    seed: int = 0, *, created: str = "2026-01-01T00:00:00+00:00", **changes: object
) -> Run:
    report = make_report()
    settings = Settings(report.model_name, Recipe.default(), seed=seed)
    run = Run(settings, report, (make_sensitivity(),), created=created, seconds=3.5)
    return replace(run, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.mark.parametrize(
    "run",
    [
        make_run(),
        make_run(sensitivities=()),
        make_run(sensitivities=(make_sensitivity(), make_sensitivity("leave_one_out"))),
        make_run(report=make_partial_report(), seconds=None, is_example=True),
    ],
    ids=["usual", "no sensitivity", "both directions", "partial example"],
)
def test_a_run_survives_as_text(run: Run) -> None:
    assert run_from_text(run_to_text(run)) == run


def test_a_run_survives_a_restart(store: RunStore, tmp_path: Path) -> None:
    run = make_run()
    assert store.put(run) is None

    again = RunStore(tmp_path)
    assert again.get(run.id) == run
    assert again.recent() == ((run.summary(),), ())


def test_a_kept_run_is_the_same_object_until_the_restart(store: RunStore) -> None:
    run = make_run()
    store.put(run)

    assert store.get(run.id) is run
    assert store.get("unknown") is None


def test_recent_runs_come_newest_first(store: RunStore) -> None:
    for seed, day in enumerate((3, 1, 2)):
        store.put(make_run(seed, created=f"2026-01-0{day}T00:00:00+00:00"))

    assert [summary.created[8:10] for summary in store.recent()[0]] == ["03", "02", "01"]


def test_a_run_replaces_the_run_of_the_same_settings(store: RunStore, tmp_path: Path) -> None:
    store.put(make_run(sensitivities=()))
    newer = make_run(created="2026-02-02T00:00:00+00:00")
    store.put(newer)

    assert RunStore(tmp_path).get(newer.id) == newer
    assert len(store.recent()[0]) == 1


def break_whole(text: str) -> str:
    return "not JSON at all"


def break_report(text: str) -> str:
    head, _, sensitivities = text.splitlines()
    return f'{head}\n{{"schema_version": 1, "oops": 1}}\n{sensitivities}\n'


def cut_off(text: str) -> str:
    return text[: len(text) // 2]


def from_the_future(text: str) -> str:
    head, *rest = text.splitlines()
    newer = {**json.loads(head), "file_version": 99}
    return "\n".join((json.dumps(newer), *rest))


@pytest.mark.parametrize("breaking", [break_whole, break_report, cut_off, from_the_future])
def test_a_broken_file_is_skipped(
    store: RunStore, tmp_path: Path, breaking: object, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make_run(0), make_run(1)
    store.put(good)
    store.put(bad)
    path = store.folder / f"{bad.id}.jsonl"
    path.write_text(breaking(path.read_text()))  # type: ignore[operator]

    again = RunStore(tmp_path)
    assert again.get(bad.id) is None
    assert again.get(bad.id) is None
    assert again.get(good.id) == good
    assert caplog.text.count("cannot be read") == 1
    assert max(len(record.getMessage()) for record in caplog.records) < 1000
    summaries, broken = again.recent()
    assert good.id in [summary.id for summary in summaries]
    if breaking in (break_whole, from_the_future):  # the list reads the first line only
        assert broken == (path.name,)


def test_bytes_that_are_no_text_are_skipped(store: RunStore, tmp_path: Path) -> None:
    run = make_run()
    store.put(run)
    (store.folder / f"{run.id}.jsonl").write_bytes(b"\xff\xfe\x00")

    again = RunStore(tmp_path)
    assert again.get(run.id) is None
    assert again.recent() == ((), (f"{run.id}.jsonl",))


def test_a_file_is_replaced_whole_or_not_at_all(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sensitivities=())
    store.put(run)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    notice = store.put(make_run(created="2026-02-02T00:00:00+00:00"))

    assert notice is not None
    assert "No space left on device" in notice
    assert RunStore(tmp_path).get(run.id) == run
    assert [path.suffix for path in store.folder.iterdir()] == [".jsonl"]


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be made unwritable this way")
def test_a_folder_that_cannot_be_made_still_keeps_the_run_in_memory(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    store = RunStore(tmp_path)
    run = make_run()

    assert store.put(run) is not None
    assert store.get(run.id) is run
    assert [summary.id for summary in store.recent()[0]] == [run.id]


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    store = RunStore(tmp_path, max_files=3)
    for seed in range(5):
        store.put(make_run(seed, created=f"2026-01-0{seed + 1}T00:00:00+00:00"))
        path = store.folder / f"{make_run(seed).id}.jsonl"
        os.utime(path, (seed, seed))

    kept = {path.stem for path in store.folder.glob("*.jsonl")}
    assert kept == {make_run(seed).id for seed in (2, 3, 4)}


def test_memory_is_bounded(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStore, "max_in_memory", 2)
    runs = [make_run(seed) for seed in range(3)]
    for run in runs:
        store.put(run)

    read_again = store.get(runs[0].id)
    assert read_again == runs[0]
    assert read_again is not runs[0]


def test_a_removed_run_is_gone(store: RunStore, tmp_path: Path) -> None:
    run = make_run()
    store.put(run)
    store.remove(run.id)
    store.remove(run.id)

    assert store.get(run.id) is None
    assert store.recent() == ((), ())


def test_many_threads_may_write_at_once(store: RunStore, tmp_path: Path) -> None:
    runs = [make_run(seed % 2, sensitivities=()) for seed in range(8)]
    threads = [threading.Thread(target=store.put, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    again = RunStore(tmp_path)
    assert again.get(runs[0].id) == runs[0]
    assert again.get(runs[1].id) == runs[1]


def test_the_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "here"))
    assert default_home() == tmp_path / "here"

    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home() == tmp_path / "quant_dashboard"


def test_an_example_is_written_the_same_every_time(tmp_path: Path) -> None:
    run = make_run(is_example=True)
    first, second = tmp_path / "a" / "x.json.gz", tmp_path / "b" / "x.json.gz"
    write_example(run, first)
    write_example(run, second)

    assert first.read_bytes() == second.read_bytes()
    assert read_example(first) == run
    assert read_example_summary(first) == run.summary()


def test_a_newer_sensitivity_replaces_the_one_of_its_sweep() -> None:
    run = make_run()
    newer = replace(make_sensitivity(), seed=9)
    both = run.with_sensitivity(make_sensitivity("leave_one_out")).with_sensitivity(newer)

    assert both.sensitivity == newer
    assert both.sensitivity_for(Sweep("leave_one_out")) == make_sensitivity("leave_one_out")
    assert len(both.sensitivities) == 2
    assert make_run(sensitivities=()).sensitivity is None


@pytest.mark.parametrize("text", ["", "{}\n{}\n[]\n", "[]\n{}\n[]\n", '{"file_version": 1}\n\n\n'])
def test_text_that_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(StorageError):
        run_from_text(text)


def test_a_run_needs_its_three_lines() -> None:
    lines = run_to_text(make_run()).splitlines()

    with pytest.raises(StorageError, match="not a list"):
        run_from_text("\n".join((*lines[:2], "{}")))
    with pytest.raises(StorageError, match="not JSON"):
        run_from_text("\n".join((*lines[:2], "x")))
    assert run_module.FILE_VERSION == 1


def test_measurements_of_every_sweep_are_kept_beside_each_other(
    store: RunStore, tmp_path: Path
) -> None:
    sweeps = [Sweep(), Sweep("leave_one_out"), Sweep(bits=(8, 4)), Sweep(parts="weights")]
    run = make_run(sensitivities=())
    for sweep in sweeps:
        run = run.with_sensitivity(make_options(sweep))
    store.put(run)

    again = RunStore(tmp_path).get(run.id)
    assert again == run
    for sweep in sweeps:
        assert again.sensitivity_for(sweep) == make_options(sweep)
    newer = replace(make_options(sweeps[2]), seed=9)
    assert again.with_sensitivity(newer).sensitivity_for(sweeps[2]) == newer
    assert len(again.with_sensitivity(newer).sensitivities) == len(sweeps)


def test_a_run_measured_at_several_widths_only_shows_the_widest_elsewhere() -> None:
    run = make_run(sensitivities=(make_options(Sweep(bits=(8, 4))),))

    assert run.sensitivity is not None
    assert {x.option for x in run.sensitivity.layers} == {"int8 weights + int8 inputs"}


def hostile(kind: str, path: Path, good: bytes) -> None:
    """Put something in the place of a saved run that no page may stumble over."""
    head, report, rest = good.splitlines()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("/nowhere")
    elif kind == "endless line":
        path.write_bytes(b"[]" * 2**20)
    elif kind == "nested":
        path.write_bytes(b"[" * 100_000 + b"\n" + report + b"\n" + rest)
    elif kind == "nested report":
        path.write_bytes(head + b"\n" + b"[" * 100_000 + b"\n" + rest)
    elif kind == "another run's":
        path.write_bytes(good)
    else:
        raise ValueError(kind)


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are no files there")
@pytest.mark.parametrize(
    "kind",
    [
        *("pipe", "device", "folder", "dangling link", "endless line", "nested"),
        *("nested report", "another run's"),
    ],
)
def test_what_is_no_saved_run_is_named_and_left_alone(
    store: RunStore, tmp_path: Path, kind: str
) -> None:
    good, bad = make_run(0), make_run(1)
    store.put(good)
    path = store.folder / f"{bad.id}.jsonl"
    hostile(kind, path, (store.folder / f"{good.id}.jsonl").read_bytes())

    again = RunStore(tmp_path, max_files=1)
    assert again.get(bad.id) is None
    assert again.recent() == ((good.summary(),), (path.name,))
    again.put(make_run(2))  # one too many: the good run goes, what nobody can read stays
    assert path.exists() or path.is_symlink()
    assert [summary.id for summary in RunStore(tmp_path).recent()[0]] == [make_run(2).id]


def test_a_file_that_is_too_large_is_not_read(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run()
    store.put(run)
    monkeypatch.setattr(RunStore, "max_bytes", 1000)

    assert RunStore(tmp_path).get(run.id) is None


def test_the_run_just_written_stays_though_the_clock_was_set_back(tmp_path: Path) -> None:
    store = RunStore(tmp_path, max_files=2)
    for seed in range(2):
        store.put(make_run(seed))
        future = 4_000_000_000 + seed
        os.utime(store.folder / f"{make_run(seed).id}.jsonl", (future, future))
    for seed in (2, 3):
        store.put(make_run(seed))

    kept = {path.stem for path in store.folder.glob("*.jsonl")}
    assert kept == {make_run(2).id, make_run(3).id}


def test_half_written_files_of_a_dead_server_go(store: RunStore) -> None:
    store.folder.mkdir(parents=True)
    old, new = store.folder / "x.jsonl.1-2.part", store.folder / "y.jsonl.3-4.part"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    store.put(make_run())

    assert not old.exists()
    assert new.exists()


def test_a_file_that_another_server_removes_first_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path, max_files=1)
    store.put(make_run(0))
    (store.folder / f"{make_run(0).id}.jsonl").rename(tmp_path / "kept")
    real = Path.glob

    def glob(self: Path, pattern: str, **settings: object) -> list[Path]:
        return [*real(self, pattern), self / f"{make_run(0).id}.jsonl"]  # listed, then gone

    monkeypatch.setattr(Path, "glob", glob)

    assert store.put(make_run(1)) is None
    assert store.unsaved == 0


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "x")])
def test_what_cannot_be_removed_is_no_failure_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    store = RunStore(tmp_path, max_files=1)
    store.put(make_run(0))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "unlink", fail)
    assert store.put(make_run(1)) is None


def test_a_home_that_is_a_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    store = RunStore(home)

    assert store.get("unknown") is None
    assert store.recent() == ((), ())
    problem = store.put(make_run())
    assert problem is not None
    assert str(home) in problem
    assert HOME_VARIABLE in problem
    assert store.unsaved == 1
