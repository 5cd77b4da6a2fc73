"""The sections of a downloaded report: which figures and numbers it shows, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dashboard.data.sweeps import describe_sweep, split_options, sweep_of
from dashboard.facts.accuracy import change_text, output_change, right_text
from dashboard.facts.columns import SQNRS, columns
from dashboard.facts.cost.executions import (
    baseline_text,
    batch_sizes,
    conditions_text,
    describe_executions,
    execution_of,
    execution_words,
)
from dashboard.facts.cost.layer_times import layer_times
from dashboard.facts.cost.size import reduction_text
from dashboard.facts.cost.timing_verdicts import gap_verdict, timing_words
from dashboard.facts.coverage import coverage_text
from dashboard.facts.diagnosis.culprit import OutputEffects, find_culprit, output_effects
from dashboard.facts.diagnosis.four_errors import COLUMNS, rank_errors
from dashboard.facts.outputs import judged_number, outputs_of
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.facts.sensitivity.ranking import describe_ties, rank_layers
from dashboard.facts.tensors import tensors_of
from dashboard.figures.cost.layer_times import layer_times_picture
from dashboard.figures.cost.size import layer_size_picture, model_size_picture
from dashboard.figures.cost.timing import model_timing_picture
from dashboard.figures.kit.picture import Picture
from dashboard.figures.layers.error_ridges import layer_errors_picture
from dashboard.figures.layers.four_errors import four_errors_picture, run_series
from dashboard.figures.layers.relative_errors import KINDS, relative_errors_picture, relative_of
from dashboard.figures.sensitivity.option_grid import grid_picture
from dashboard.figures.sensitivity.ranking import ranking_picture
from dashboard.words.degradation import KL
from dashboard.words.formatting import format_accuracy, format_bytes, format_db, format_percent
from quant_engine.report import ModelReport, OutputReport, SensitivityReport

MOST_LAYERS = 40
"""Rankings in the file show at most this many layers; its tables and data show all."""


@dataclass(frozen=True, slots=True)
class Section:
    """One figure of the report.

    Attributes:
        title: Heading.
        picture: The figure and what it says.
        remark: What is said on top of that.
    """

    title: str
    picture: Picture
    remark: str = ""

    @property
    def text(self) -> str:
        """All that is said about it."""
        return f"{self.picture.alt} {self.remark}".strip()


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """One figure in words: its name, its value, and a remark."""

    name: str
    value: str
    remark: str = ""


def key_numbers(
    report: ModelReport,
    sensitivities: Iterable[SensitivityReport] = (),
    predicted: OutputEffects | None = None,
) -> tuple[KeyNumber, ...]:
    """Return the numbers a reader looks for first.

    Args:
        report: What the analysis found.
        sensitivities: What was measured on top.
        predicted: What a prediction says of each layer, if there is one.
    """
    output, size = report.output, report.size
    quantized = len(report.quantized_layers)
    coverage = report.coverage
    remark = f"{coverage.on_codes:,} of {coverage.weights:,}. {coverage_text(coverage)}"
    numbers = [
        KeyNumber("Weights on codes", format_percent(coverage.share), remark),
        KeyNumber("Quantized layers", f"{quantized} of {len(report.layers)}"),
    ]
    outputs = outputs_of(report)
    if len(outputs) > 1:
        numbers += [_output_number(one) for one in outputs]
    elif output is not None:
        before, after = output.accuracy_float, output.accuracy_quantized
        if before is not None and after is not None:
            remark = f"float {right_text(before, output)}; {change_text(output_change(output))}"
            numbers.append(KeyNumber("Accuracy quantized", right_text(after, output), remark))
        if output.top1_agreement is not None:
            remark = KL.named(output.kl_divergence)
            agreement = format_accuracy(output.top1_agreement)
            numbers.append(KeyNumber("Same answer as float", agreement, remark))
        if output.metric != KL.key:
            numbers.append(KeyNumber(*judged_number(output)))
        numbers.append(KeyNumber("Output SQNR", format_db(output.error.sqnr_db)))
    culprit = find_culprit(report, sensitivities, predicted)
    if culprit is not None:
        numbers.append(KeyNumber(f"Culprit ({culprit.label})", culprit.name, culprit.sentence))
    if size is not None:
        remark = f"from {format_bytes(size.float_bytes)}, {reduction_text(size)}"
        numbers.append(KeyNumber("Model size", format_bytes(size.quantized_bytes), remark))
    return tuple(numbers)


def _output_number(output: OutputReport) -> KeyNumber:
    """Return what one of several outputs is judged by, and its accuracy where it has labels."""
    label, value = judged_number(output)
    remark = f"SQNR {format_db(output.error.sqnr_db)}"
    if output.accuracy_quantized is not None:
        shares = (output.accuracy_float, output.accuracy_quantized)
        before, after = (right_text(share, output) for share in shares)
        remark = f"accuracy {after}, float {before}"
    return KeyNumber(f"{output.name}: {label}", value, remark)


def sections(
    report: ModelReport,
    sensitivities: Iterable[SensitivityReport] = (),
    predicted: OutputEffects | None = None,
) -> tuple[Section, ...]:
    """Return the figures that this report has data for, in the order of the pages.

    Args:
        report: What the analysis found.
        sensitivities: What was measured on top.
        predicted: What a prediction says of each layer, if there is one.
    """
    measured = tuple(sensitivities)
    found = list(_error_sections(report, output_effects(report, measured, predicted)))
    found += [section for s in measured for section in _sensitivity_sections(s)]
    found += _size_sections(report)
    found += _timing_sections(report)
    return tuple(found)


def _error_sections(report: ModelReport, effects: OutputEffects | None) -> Iterable[Section]:
    """What matters first: the four errors, then relative errors, then steps of the grid."""
    rows = rank_errors(report, effects)
    if any(row.value(column) is not None for row in rows for column in COLUMNS):
        picture = four_errors_picture(run_series(report, effects), most=MOST_LAYERS)
        yield Section("Four errors of every layer", picture)
    for kind, words in KINDS.items():
        if any(relative_of(layer, kind) is not None for layer in report.layers):
            picture = relative_errors_picture(report, kind)
            yield Section(f"Relative error of every layer, {words}", picture)
    for part, word in (("weight", "weights"), ("input", "inputs")):
        if tensors_of(report, part):
            title = f"Errors of the {word} in steps of the grid"
            yield Section(title, layer_errors_picture(report, part))


def _sensitivity_sections(measured: SensitivityReport) -> Iterable[Section]:
    metrics = available_metrics(measured)
    if not metrics:
        return
    metric, options = metrics[0], split_options(measured)
    title = f"Sensitivity, {describe_sweep(sweep_of(measured))}"
    rankings = {label: rank_layers(report, metric) for label, report in options.items()}
    if len(options) > 1:
        names = [row.name for row in next(iter(rankings.values()))[:MOST_LAYERS]]
        yield Section(title, grid_picture(options, names, metric))
    for label, report in options.items():
        ranked = rankings[label]
        yield Section(
            f"{title}: ranked at {label}" if len(options) > 1 else title,
            ranking_picture(report, ranked, metric, rows=ranked[:MOST_LAYERS], is_log=True),
            describe_ties(report, metric),
        )


def _size_sections(report: ModelReport) -> list[Section]:
    size = report.size
    if size is None:
        return []
    files = (
        f"{reduction_text(size)[:1].upper()}{reduction_text(size)[1:]}. Files on disk: "
        f"{format_bytes(size.float_file_bytes)} and {format_bytes(size.quantized_file_bytes)}."
    )
    return [
        Section("Size of the model", model_size_picture(report), files),
        Section("Size of each layer", layer_size_picture(report.layers, top=MOST_LAYERS)),
    ]


def _timing_sections(report: ModelReport) -> list[Section]:
    timing = report.timing
    if timing is None:
        return []
    found = [
        Section(
            f"Time at batch size {batch}",
            model_timing_picture(timing, batch),
            f"{timing_words(timing, batch)} {baseline_text(timing, batch)}",
        )
        for batch in batch_sizes(timing)
    ]
    if layer_times(timing):
        picture = layer_times_picture(timing, top=MOST_LAYERS)
        found.append(Section("Time inside each layer", picture, describe_executions(timing)))
    gap = gap_verdict(timing)
    parts = ("" if gap is None else f"{gap.subject} {gap.text}", conditions_text(timing))
    # How all of them were timed is said once, where the last of them is read.
    found[-1:] = [
        replace(last, remark=" ".join(part for part in (last.remark, *parts) if part))
        for last in found[-1:]
    ]
    return found


ON_INTEGERS = "On integers"
LAYER_COLUMNS = columns(
    "layer",
    "kind",
    "status",
    "weight_bits",
    "input_bits",
    *SQNRS,
    "weight_clipped_percent",
    "input_clipped_percent",
    "float_kb",
    "quantized_kb",
)


def layer_table(report: ModelReport) -> list[dict[str, str]]:
    """Return the report's table as text, one row per layer; units stand in the names."""
    return [
        {
            **{column.title: column.cell(layer) for column in LAYER_COLUMNS},
            ON_INTEGERS: execution_words(execution_of(report.timing, layer.name)),
        }
        for layer in report.layers
    ]
