"""The calls into the engine: the right data, the same every time, and nothing computed by names."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dashboard import build_examples
from dashboard.data.prediction_files import unpack_prediction
from dashboard.data.runs import MODEL_ITSELF, with_named_layers, write_example
from dashboard.data.settings import MAX_CALIBRATION_SAMPLES, Settings
from dashboard.data.sweeps import Sweep
from dashboard.work import prediction_service, service
from quant_engine.errors import StorageError
from quant_engine.report import TIMES_FOLLOW, ModelReport
from quant_engine.scheme import PRESETS, AdaRound, Recipe
from sample_models import SampleModelError

SMALL = "mlp"
MODELS = service.model_names()


class Watcher:
    """A control that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []
        self.snapshots: list[object] = []

    def progress(self, done: int, total: int, text: str) -> None:
        self.told.append((done, total, text))

    def on_update(self, snapshot: Callable[[], object]) -> None:
        self.snapshots.append(snapshot())


@pytest.fixture(scope="module")
def analysed() -> tuple[ModelReport, Watcher]:
    watcher = Watcher()
    return service.analyze_settings(Settings(SMALL, calibration_samples=64), watcher), watcher


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_stored_example_that_can_be_read(name: str) -> None:
    card, run = service.model_card(name), service.example_run(name)

    assert card.example is not None
    assert run is not None
    assert run.summary() == card.example
    assert run.is_example
    assert run.settings == Settings(name)
    assert service.find_example(Settings(name)) is run
    assert {s.direction for s in run.sensitivities} == {"one_at_a_time", "leave_one_out"}
    assert not any(s.is_partial for s in (run.report, *run.sensitivities))
    assert run.report.timing is not None
    assert card.example.seconds is not None
    assert 0 < card.example.seconds < 60  # the times at its end alone may take 10 s
    assert card.example.accuracy_float == pytest.approx(card.info.accuracy, abs=1e-9)


def test_there_is_no_example_of_a_model_that_does_not_exist() -> None:
    names = {path.name for path in service.EXAMPLES.iterdir() if path.is_file()}
    predictions = {name for name in names if name.endswith(prediction_service.EXAMPLE_SUFFIX)}
    found = {name.removesuffix(service.EXAMPLE_SUFFIX) for name in names - predictions}

    assert {name for name in found if "." not in name} == set(MODELS)
    assert {name.partition(".")[0] for name in found} == set(MODELS)
    assert {name.removesuffix(prediction_service.EXAMPLE_SUFFIX) for name in predictions} <= found


def test_a_stored_example_is_what_the_engine_still_finds() -> None:
    stored = service.example_run(SMALL)
    assert stored is not None
    fresh = service.analyze_settings(stored.settings, Watcher())

    assert [layer.name for layer in fresh.layers] == [x.name for x in stored.report.layers]
    assert fresh.size == stored.report.size
    for old, new in zip(stored.report.layers, fresh.layers, strict=True):
        assert new.weight is not None
        assert old.weight is not None
        assert new.weight.scale == pytest.approx(old.weight.scale)
        assert new.local_error is not None
        assert old.local_error is not None
        assert new.local_error.sqnr_db == pytest.approx(old.local_error.sqnr_db, abs=0.1)


def test_examples_are_together_small() -> None:
    assert (
        sum(path.stat().st_size for path in service.EXAMPLES.iterdir()) < 14_000_000
    )  # 13 runs, each with its prediction


def test_only_exactly_these_settings_find_the_example() -> None:
    assert service.find_example(Settings(SMALL, seed=1)) is None
    assert service.find_example(Settings(SMALL, PRESETS["int8_mse"])) is None
    assert service.find_example(Settings("no_such_model")) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"{}\n{}\n[]\n"), gzip.compress(b"{}" * 99)[:-9]],
    ids=["empty", "no gzip", "no run", "cut short"],
)
def test_a_broken_example_is_as_good_as_none(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EXAMPLES", tmp_path)
    service.example_path(SMALL).write_bytes(content)
    for cached in (service.example_run, service.model_card, service.layer_options):
        cached.cache_clear()
    try:
        assert service.example_run(SMALL) is None
        assert service.model_card(SMALL).example is None
        assert service.layer_options(SMALL)
    finally:
        for cached in (service.example_run, service.model_card, service.layer_options):
            cached.cache_clear()


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_the_same_with_and_without_an_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_example = service.layer_options(name)
    monkeypatch.setattr(service, "example_run", lambda name: None)

    assert set(service.layer_options.__wrapped__(name)) == set(with_example)
    assert all(option.parameters > 0 for option in with_example)


def test_a_model_without_weights_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = service.model_info

    def info(name: str) -> object:
        if name == SMALL:
            raise SampleModelError("was never trained")
        return real(name)

    monkeypatch.setattr(service, "model_info", info)

    assert SMALL not in service.model_names.__wrapped__()


def test_the_report_says_what_was_asked_for(analysed: tuple[ModelReport, Watcher]) -> None:
    report, watcher = analysed

    assert report.model_name == SMALL
    assert report.recipe == Recipe.default()
    assert report.calibration_samples == 64
    assert report.evaluation_samples == service.model_info(SMALL).test_samples
    assert not report.evaluated_on_calibration_data
    assert report.output is not None
    assert report.output.accuracy_float == pytest.approx(service.model_info(SMALL).accuracy)
    assert watcher.told
    assert all(0 <= done <= total for done, total, _ in watcher.told)
    *partial, complete = watcher.snapshots
    assert all(isinstance(s, ModelReport) and s.is_partial for s in partial)
    assert isinstance(complete, ModelReport)
    assert not complete.is_partial
    assert TIMES_FOLLOW in complete.notes


def test_a_sweep_may_stop_layers_early() -> None:
    sweep = Sweep(precision=0.9)

    report = service.measure_settings(Settings("mlp_wide"), sweep, Watcher())

    # Batches hold 100 samples: two are the first with enough. The full sweep gives 5.9e-6, 1.8e-6,
    # 8.2e-7 and 4.1e-7: the second layer is not surely below 0.9 times the first.
    assert [layer.samples for layer in report.layers] == [None, None, 200, 200]
    assert sweep == Sweep()  # it is the same measurement, and takes its place


def test_a_sensitivity_covers_every_quantized_layer() -> None:
    settings = Settings(SMALL, PRESETS["int8_weights_only"], seed=5)
    report = service.measure_settings(settings, Sweep("leave_one_out"), Watcher())

    assert [layer.name for layer in report.layers] == [o.name for o in service.layer_options(SMALL)]
    assert (report.direction, report.seed, report.recipe) == (
        "leave_one_out",
        5,
        settings.recipe,
    )


def inputs_of(settings: Settings) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in service.calibration_batches(settings)])


def test_the_seed_draws_the_calibration_samples() -> None:
    few = Settings(SMALL, calibration_samples=32)

    assert torch.equal(inputs_of(few), inputs_of(few))
    assert not torch.equal(inputs_of(few), inputs_of(replace(few, seed=1)))
    assert len(inputs_of(few)) == 32


def test_all_samples_are_the_same_for_every_seed() -> None:
    everything = Settings(SMALL, calibration_samples=MAX_CALIBRATION_SAMPLES)

    assert torch.equal(inputs_of(everything), inputs_of(replace(everything, seed=9)))
    assert len(inputs_of(everything)) == service.calibration_available(SMALL)


def test_evaluation_data_is_the_test_split_and_never_calibration_data() -> None:
    calibration = {tuple(x.flatten().tolist()) for x in inputs_of(Settings(SMALL))}
    batches = service.evaluation_batches(SMALL)

    assert sum(len(labels) for _, labels in batches) == service.model_info(SMALL).test_samples
    evaluation = {tuple(x.flatten().tolist()) for inputs, _ in batches for x in inputs}
    assert not evaluation & calibration


def test_an_estimate_prefers_this_machines_last_run() -> None:
    settings = Settings(SMALL)
    example = service.model_card(SMALL).example
    assert example is not None
    here = replace(example, seconds=8.0, is_example=False)
    partial = replace(here, seconds=0.5, is_partial=True)
    other = replace(here, settings=Settings("resnet"), seconds=99.0)

    stored = service.estimate_seconds(settings, [])
    assert stored is not None
    assert stored[0] == pytest.approx(example.seconds)
    assert "measured on" in stored[1]
    local = service.estimate_seconds(settings, [partial, other, here])
    assert local == (8.0, "from the last run of this model here")
    fewer = service.estimate_seconds(replace(settings, calibration_samples=8), [here])
    assert fewer is not None
    assert fewer[0] < 8.0


def test_an_estimate_knows_that_adaround_takes_long() -> None:
    settings = Settings(SMALL)
    example = service.model_card(SMALL).example
    assert example is not None
    here = replace(example, seconds=8.0, is_example=False)
    learned = Settings(SMALL, recipe=settings.recipe.with_remedy(AdaRound()))
    longer = Settings(SMALL, recipe=settings.recipe.with_remedy(AdaRound(steps=5000)))

    found = service.estimate_seconds(learned, [here])
    assert found is not None
    more = found[0] - 8.0
    assert more > 1
    assert found[1] == (
        f"from the last run of this model here, and AdaRound about {round(more)} s of it"
    )
    slow = service.estimate_seconds(longer, [here])
    assert slow is not None
    assert slow[0] - 8.0 == pytest.approx(5 * more)
    again = replace(here, settings=learned, seconds=11.0)
    assert service.estimate_seconds(learned, [again, here]) == (
        11.0,
        "from the last run of this model here",
    )
    assert service.estimate_seconds(settings, [again, here]) == (
        8.0,
        "from the last run of this model here",
    )


def test_an_example_can_be_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "EXAMPLES", tmp_path)

    build_examples.main([SMALL])

    run = service.read_example(tmp_path / f"{SMALL}.json.gz")
    assert run.settings == Settings(SMALL)
    assert run.is_example
    assert run.report.output is not None
    assert math.isfinite(run.report.output.error.sqnr_db)
    prediction = unpack_prediction((tmp_path / f"{SMALL}.prediction.npz").read_bytes())
    assert all(prediction.measured_score(p.as_dict()) for p in prediction.frontier.points)


def test_building_an_unknown_example_says_which_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        build_examples.main(["no_such_model"])

    assert SMALL in capsys.readouterr().err


def test_an_example_from_another_version_is_refused(tmp_path: Path) -> None:
    run = service.example_run(SMALL)
    assert run is not None
    path = tmp_path / "x.json.gz"
    write_example(run, path)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace('"file_version": 1', '"file_version": 2').encode()))

    with pytest.raises(StorageError, match="version 2"):
        service.read_example(path)


def test_a_model_with_parameters_of_its_own_is_timed_again_by_the_names_of_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = service.example_run("transformer")
    assert run is not None
    given: list[ModelReport] = []

    def measure(report: ModelReport, *_: object, **__: object) -> ModelReport:
        given.append(report)
        return report

    monkeypatch.setattr("quant_engine.measure_times", measure)
    service.time_report(run.report, run.settings, Watcher())

    (report,) = given
    assert MODEL_ITSELF in [layer.name for layer in run.report.layers]
    assert {layer.name for layer in report.layers} == {
        layer.name for layer in service._prepared_layers("transformer")
    }
    assert with_named_layers(report) == run.report
