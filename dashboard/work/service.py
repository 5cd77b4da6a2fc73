"""Calls into the engine and the sample models about models and their runs.

What a page may ask for at any moment (names, cards, layers) is small and cached by name; what takes
long is done by a job through `analyze_settings` and `measure_settings`. Tensors and modules stay
in here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

import quant_engine
import sample_models
import sample_models.data
from dashboard.data.runs import (
    Run,
    RunSummary,
    read_example,
    read_example_summary,
    with_engine_names,
)
from dashboard.data.settings import Settings
from dashboard.data.stories import STORIES, example_stem, story_settings
from dashboard.data.sweeps import Sweep
from dashboard.work.cluster import sweep_executor
from quant_engine.errors import QuantizationError
from quant_engine.preparation import LayerInfo, list_layers, prepare_for
from quant_engine.remedies import Targets, estimate_adaround_seconds, find_targets
from quant_engine.report import UNSUPPORTED, ModelReport, SensitivityReport
from quant_engine.scheme import AdaRound
from sample_models import SampleModel, SampleModelError

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE_SUFFIX = ".json.gz"
EXAMPLE_MODEL = "resnet"
"""The stored result that a new visitor sees where the stories are not stored."""

BATCH_SIZE = 100
MAX_MODELS = 64

T = TypeVar("T")
IntImages = npt.NDArray[np.uint8]
Batches = list[tuple[torch.Tensor, torch.Tensor]]

_LOG = logging.getLogger(__name__)


class Control(Protocol):
    """What long work reports to; `jobs.JobControl` is one."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Note how far the work is; may raise to stop it."""

    def on_update(self, snapshot: Callable[[], object]) -> None:
        """Take what is known so far; may raise to stop the work."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A sample model for a page: what it is, and what a stored analysis of it found.

    Attributes:
        info: Its name, family, size and accuracy in float.
        example: Headline figures of its stored analysis, or None if there is none.
    """

    info: SampleModel
    example: RunSummary | None


@dataclass(frozen=True, slots=True)
class LayerOption:
    """A layer that can be excluded or given its own bits.

    Attributes:
        name: Dotted name.
        kind: Type of the module.
        parameters: Weights and biases.
    """

    name: str
    kind: str
    parameters: int


@lru_cache(maxsize=1)
def processor() -> str:
    """Return the name of this machine's processor, as the engine's reports have it."""
    report = quant_engine.analyze(torch.nn.Linear(2, 2), torch.eye(2), measure_time=False)
    return report.environment.cpu


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Return the sample models' names, small models first."""
    found = {}
    for name in sample_models.list_models():
        try:
            found[name] = model_info(name).parameters
        except SampleModelError as error:
            _LOG.warning("sample model %s is left out: %s", name, error)
    return tuple(sorted(found, key=lambda name: (found[name], name)))


@lru_cache(maxsize=MAX_MODELS)
def model_info(name: str) -> SampleModel:
    """Return what a sample model is, without loading it."""
    return sample_models.get_model_info(name)


@lru_cache(maxsize=MAX_MODELS)
def model_card(name: str) -> ModelCard:
    """Return a sample model and the headline figures of its stored analysis."""
    return ModelCard(model_info(name), read_stored(example_path(name), read_example_summary))


@lru_cache(maxsize=MAX_MODELS)
def example_run(name: str) -> Run | None:
    """Return a stored analysis, or None if there is none that can be read.

    Args:
        name: Name of a model, for its usual settings; else what `example_stem` says.
    """
    return read_stored(example_path(name), read_example)


def read_stored(path: Path, read: Callable[[Path], T]) -> T | None:
    """Return what a file holds that comes with the dashboard; None without one that can be read."""
    try:
        return read(path) if path.exists() else None
    except (OSError, QuantizationError) as error:
        _LOG.warning("stored example %s cannot be read: %s", path, error)
        return None


def find_example(settings: Settings) -> Run | None:
    """Return the stored analysis that has exactly these settings, or None."""
    if settings.model_name not in model_names():
        return None
    if any(settings.run_id == told.run_id for told in story_settings()):
        return example_run(example_stem(settings))
    card = model_card(settings.model_name)
    if card.example is None or card.example.id != settings.run_id:
        return None
    return example_run(settings.model_name)


def find_stored(run_id: str) -> Run | None:
    """Return the stored analysis with this id, or None."""
    known = (settings for settings in _stored_settings() if settings.run_id == run_id)
    return next((run for run in map(find_example, known) if run is not None), None)


def _stored_settings() -> tuple[Settings, ...]:
    """Return the settings that an analysis may be stored of: of stories, and of every model."""
    return (*story_settings(), *map(Settings, model_names()))


@lru_cache(maxsize=1)
def stored_summaries() -> tuple[RunSummary, ...]:
    """Return the headline figures of every stored analysis that can be read, each once."""
    wanted = {settings.run_id: settings for settings in _stored_settings()}
    found = {
        run_id: read_stored(example_path(example_stem(settings)), read_example_summary)
        for run_id, settings in wanted.items()
    }
    return tuple(run for run_id, run in found.items() if run is not None and run.id == run_id)


def first_settings() -> Settings:
    """Return what a new visitor sees: the first story, else a stored model, else any model."""
    names = model_names()
    told = next((s.broken for s in STORIES if find_example(s.broken) is not None), None)
    if told is not None:
        return told
    for name in (EXAMPLE_MODEL, *names):
        if name in names and (example := model_card(name).example) is not None:
            return example.settings
    return Settings(model_name=names[0])


@lru_cache(maxsize=MAX_MODELS)
def layer_names(name: str) -> tuple[str, ...]:
    """Return all layers that a recipe of a model may name, in the order they run."""
    example = example_run(name)
    layers = _prepared_layers(name) if example is None else example.report.layers
    return tuple(layer.name for layer in layers)


@lru_cache(maxsize=MAX_MODELS)
def layer_options(name: str) -> tuple[LayerOption, ...]:
    """Return the layers of a model that can be quantized, in the order they run."""
    example = example_run(name)
    if example is not None:
        return tuple(
            LayerOption(layer.name, layer.kind, layer.parameters)
            for layer in example.report.layers
            if layer.status != UNSUPPORTED
        )
    return tuple(
        LayerOption(layer.name, layer.kind, sum(p.numel() for p in layer.module.parameters()))
        for layer in _prepared_layers(name)
        if layer.is_quantizable
    )


@lru_cache(maxsize=MAX_MODELS)
def remedy_targets(name: str) -> Targets:
    """Return which layers of a model equalization and smoothing can treat together."""
    return find_targets(sample_models.load_model(name), evaluation_batches(name))


def _prepared_layers(name: str) -> tuple[LayerInfo, ...]:
    model = sample_models.load_model(name)
    return list_layers(prepare_for(model, evaluation_batches(name))[0].model)


@lru_cache(maxsize=MAX_MODELS)
def calibration_available(name: str) -> int:
    """Return the number of calibration samples that a model has."""
    return len(model_info(name).load_inputs("calibration")[1])


def estimate_seconds(settings: Settings, runs: Iterable[RunSummary]) -> tuple[float, str] | None:
    """Estimate how long an analysis takes, and say in words where the estimate comes from.

    AdaRound takes longer than all else: what it takes is computed from the sizes of the layers, and
    added to runs without it.

    Args:
        settings: What would be analysed.
        runs: Runs of this machine, newest first; without one of this model, the stored analysis
            is taken.
    """
    extra = adaround_seconds(settings)
    where = f", and AdaRound about {round(extra)} s of it" if extra >= 1 else ""
    for run in runs:
        same_model = run.settings.model_name == settings.model_name
        if same_model and run.seconds and not run.is_partial and not run.is_example:
            source = "from the last run of this model here"
            learned = run.settings.recipe.remedy(AdaRound)
            if learned == settings.recipe.remedy(AdaRound):
                return _scaled(run, settings), source
            if learned is None:
                return _scaled(run, settings) + extra, source + where
    example = model_card(settings.model_name).example
    if example is None or not example.seconds:
        return None
    return _scaled(example, settings) + extra, f"measured on {example.environment.cpu}{where}"


def adaround_seconds(settings: Settings) -> float:
    """Estimate what AdaRound takes of an analysis, from the sizes of the layers; 0 without it."""
    remedy = settings.recipe.remedy(AdaRound)
    if remedy is None:
        return 0.0
    sizes = [
        size
        for name, size in _rounded_sizes(settings.model_name)
        if remedy.treats(name) and settings.recipe.layer_scheme(name) is not None
    ]
    return estimate_adaround_seconds(sizes, remedy.steps)


@lru_cache(maxsize=MAX_MODELS)
def _rounded_sizes(name: str) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Return the linear layers and convolutions, with their weights and inputs of one output."""
    found = []
    for layer in _prepared_layers(name):
        module = layer.module
        if layer.is_quantizable and isinstance(module, nn.Linear | _ConvNd):
            weights, outputs = module.weight.numel(), module.weight.shape[0]
            if isinstance(module, _ConvNd):
                outputs = module.out_channels
            found.append((layer.name, (weights, weights // outputs)))
    return tuple(found)


def _scaled(run: RunSummary, settings: Settings) -> float:
    """Time grows with the samples that pass through the model."""
    evaluation = model_info(settings.model_name).test_samples
    available = calibration_available(settings.model_name)
    then = min(run.settings.calibration_samples, available) + evaluation
    now = min(settings.calibration_samples, available) + evaluation
    return (run.seconds or 0.0) * now / then


def analyze_settings(
    settings: Settings, control: Control, *, measure_time: bool = True
) -> ModelReport:
    """Analyse a model as the settings say; runs for seconds and reports to `control`."""
    return quant_engine.analyze(
        sample_models.load_model(settings.model_name),
        calibration_batches(settings),
        settings.recipe,
        evaluation_data=evaluation_batches(settings.model_name),
        model_name=settings.model_name,
        measure_time=measure_time,
        progress=control.progress,
        on_update=control.on_update,
    )


def time_report(report: ModelReport, settings: Settings, control: Control) -> ModelReport:
    """Add measured times to a report of these settings; runs for seconds."""
    return quant_engine.measure_times(
        with_engine_names(report),
        sample_models.load_model(settings.model_name),
        calibration_batches(settings),
        evaluation_data=evaluation_batches(settings.model_name),
        progress=control.progress,
    )


def measure_settings(settings: Settings, sweep: Sweep, control: Control) -> SensitivityReport:
    """Measure what a sweep switches on every layer; runs for seconds and reports to `control`.

    On the cluster that the environment names, if it names one; see `cluster`.
    """
    with sweep_executor() as executor:
        return quant_engine.measure_sensitivity(
            sample_models.load_model(settings.model_name),
            calibration_batches(settings),
            settings.recipe,
            evaluation_data=evaluation_batches(settings.model_name),
            direction=sweep.direction,
            options=sweep.options(settings.recipe),
            parts=sweep.parts,
            precision=sweep.precision,
            model_name=settings.model_name,
            seed=settings.seed,
            progress=control.progress,
            on_update=control.on_update,
            executor=executor,
        )


def calibration_batches(settings: Settings) -> Batches:
    """Return the calibration samples that the settings draw.

    The seed decides which samples are drawn when there are more than asked for; they stay in the
    order of the data, so that asking for all of them gives the same run for every seed.
    """
    inputs, labels = model_info(settings.model_name).load_inputs("calibration")
    count = min(settings.calibration_samples, len(labels))
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randperm(len(labels), generator=generator)[:count].sort().values
    return _batches(inputs[drawn], labels[drawn])


def evaluation_batches(name: str) -> Batches:
    """Return the whole test split with its labels."""
    return _batches(*model_info(name).load_inputs("test"))


@lru_cache(maxsize=MAX_MODELS)
def sample_images(name: str) -> IntImages:
    """Return a model's test samples as images, uint8 of shape (samples, 8, 8); 255 is ink.

    Every sample model reads the same digits, whatever form it takes them in.
    """
    pixels, labels = sample_models.data.load_pixels("test")
    assert len(labels) == model_info(name).test_samples
    return (pixels * (255 / sample_models.data.MAX_PIXEL)).round().byte().numpy()


def _batches(inputs: torch.Tensor, labels: torch.Tensor) -> Batches:
    return list(zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True))


def example_path(name: str) -> Path:
    """Return where a stored analysis lies; `name` as for `example_run`."""
    return EXAMPLES / f"{name}{EXAMPLE_SUFFIX}"
