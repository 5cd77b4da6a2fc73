"""A run: one analysis with its settings and all that was measured on it, and its saved form.

A saved run is three lines of JSON: a summary (so that a list of runs need not read the reports),
the report, and the sensitivities.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from dashboard.data.settings import Settings
from dashboard.data.sweeps import Sweep, split_options, sweep_of
from quant_engine.errors import StorageError
from quant_engine.reading import parse_json, read_file, storage_errors, unpack_gzip
from quant_engine.report import Environment, ModelReport, SensitivityReport, decode, encode
from quant_engine.scheme import Recipe

FILE_VERSION = 1
MODEL_ITSELF = "(model itself)"
"""Name of a model among its own layers, where it holds parameters: PyTorch's name is empty."""


@dataclass(frozen=True, slots=True)
class Run:
    """One analysis with everything that was measured on it.

    Attributes:
        settings: What was asked for; decides `id`.
        report: What the analysis found; every layer in it has a name.
        sensitivities: What was measured on top, at most one for each sweep.
        created: When it finished, ISO 8601 in UTC.
        seconds: How long the analysis took.
        is_example: Whether it came with the dashboard instead of being computed here.
    """

    settings: Settings
    report: ModelReport
    sensitivities: tuple[SensitivityReport, ...] = ()
    created: str = ""
    seconds: float | None = None
    is_example: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "report", with_named_layers(self.report))

    @property
    def id(self) -> str:
        """The settings' own name."""
        return self.settings.run_id

    @property
    def model_name(self) -> str:
        """Name of the sample model."""
        return self.settings.model_name

    @property
    def recipe(self) -> Recipe:
        """How the model was quantized."""
        return self.settings.recipe

    @property
    def sensitivity(self) -> SensitivityReport | None:
        """The one-at-a-time sensitivity, or another one, or None; of several options, the first."""
        found = self.sensitivity_for(Sweep()) or next(iter(self.sensitivities), None)
        return None if found is None else next(iter(split_options(found).values()))

    def sensitivity_for(self, sweep: Sweep) -> SensitivityReport | None:
        """Return what this sweep measured, or None."""
        return next((s for s in self.sensitivities if sweep_of(s) == sweep), None)

    def with_sensitivity(self, sensitivity: SensitivityReport) -> Run:
        """Return a copy with this sensitivity in place of an older one of its sweep."""
        others = (s for s in self.sensitivities if sweep_of(s) != sweep_of(sensitivity))
        return replace(self, sensitivities=(*others, sensitivity))

    def summary(self) -> RunSummary:
        """Return the few figures that a list of runs shows."""
        # The answers of one of several outputs would stand for all.
        output = self.report.output if len(self.report.outputs) < 2 else None
        size = self.report.size
        return RunSummary(
            settings=self.settings,
            created=self.created,
            seconds=self.seconds,
            is_partial=self.report.is_partial,
            accuracy_float=output.accuracy_float if output else None,
            accuracy_quantized=output.accuracy_quantized if output else None,
            float_bytes=size.float_bytes if size else None,
            quantized_bytes=size.quantized_bytes if size else None,
            layers=len(self.report.layers),
            environment=self.report.environment,
            is_example=self.is_example,
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list: its settings and headline figures."""

    settings: Settings
    created: str
    seconds: float | None
    is_partial: bool
    accuracy_float: float | None
    accuracy_quantized: float | None
    float_bytes: int | None
    quantized_bytes: int | None
    layers: int
    environment: Environment
    is_example: bool = False

    @property
    def id(self) -> str:
        """The run's id."""
        return self.settings.run_id


def with_named_layers(report: ModelReport) -> ModelReport:
    """Return the report with a name for every layer: links and pickers cannot hold an empty one."""
    if all(layer.name for layer in report.layers):
        return report
    named = (layer if layer.name else replace(layer, name=MODEL_ITSELF) for layer in report.layers)
    return replace(report, layers=tuple(named))


def with_engine_names(report: ModelReport) -> ModelReport:
    """Return a run's report with the names that the engine knows its layers by."""
    known = (replace(x, name="") if x.name == MODEL_ITSELF else x for x in report.layers)
    return replace(report, layers=tuple(known))


def now() -> str:
    """Return the present time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_to_text(run: Run) -> str:
    """Return a run as three lines of JSON."""
    figures = encode(run.summary())
    summary = {**figures.pop("settings"), **figures}
    lines = (
        {"file_version": FILE_VERSION, "summary": summary},
        run.report.to_dict(),
        [sensitivity.to_dict() for sensitivity in run.sensitivities],
    )
    return "\n".join(json.dumps(line, allow_nan=False) for line in lines) + "\n"


def run_from_text(text: str) -> Run:
    """Rebuild a run from `run_to_text`'s result.

    Raises:
        StorageError: If the text is not a saved run.
    """
    lines = text.splitlines()
    if len(lines) != 3:
        raise StorageError(f"A saved run has 3 lines, this one has {len(lines)}.")
    head = summary_from_line(lines[0])
    with storage_errors("The sensitivities"):
        sensitivities = parse_json(lines[2])
    if not isinstance(sensitivities, list):
        raise StorageError("The sensitivities are not a list.")
    report, measured = (
        ModelReport.from_json(lines[1]),
        map(SensitivityReport.from_dict, sensitivities),
    )
    told = (head.created, head.seconds, head.is_example)
    return Run(head.settings, report, tuple(measured), *told)


def read_example(path: Path) -> Run:
    """Read a run that came with the dashboard; `path` ends in .json.gz.

    Raises:
        StorageError: If the file is not such a run.
    """
    text = _unpack(path)
    with storage_errors(path.name):
        return run_from_text(text)


def read_example_summary(path: Path) -> RunSummary:
    """Read only the headline figures of a run that came with the dashboard."""
    line = _unpack(path, first_line=True)
    with storage_errors(path.name):
        return summary_from_line(line)


def _unpack(path: Path, *, first_line: bool = False) -> str:
    data = read_file(path)
    with storage_errors(path.name):
        return unpack_gzip(data, first_line=first_line)


def write_example(run: Run, path: Path) -> None:
    """Write a run to come with the dashboard; the same run gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(run_to_text(run).encode(), mtime=0))


def summary_from_line(line: str) -> RunSummary:
    """Read the first line of a saved run; raises StorageError where it is none."""
    with storage_errors("The summary"):
        head = parse_json(line)
        version = head["file_version"]
        if version != FILE_VERSION:
            raise StorageError(f"The file has version {version!s:.80}, not {FILE_VERSION}.")
        if head.keys() != {"file_version", "summary"}:
            raise StorageError(f"The first line has the keys {sorted(head)!s:.80}.")
        data = dict(head["summary"])
        settings = {field.name: data.pop(field.name) for field in fields(Settings)}
        summary = decode(RunSummary, {"settings": settings, **data})
        _check_summary(summary)
        return summary


def _check_summary(summary: RunSummary) -> None:
    """Raise StorageError where a figure cannot be one: negative, infinite, or a share above 1."""
    shares = (summary.accuracy_float, summary.accuracy_quantized)
    counts = (summary.seconds, summary.float_bytes, summary.quantized_bytes, summary.layers)
    for values, most in ((shares, 1.0), (counts, 1e18)):
        for value in values:
            if value is not None and not 0 <= value <= most:
                raise StorageError(f"The summary holds {value}, which should be 0 to {most:g}.")
    if summary.created:
        datetime.fromisoformat(summary.created)
