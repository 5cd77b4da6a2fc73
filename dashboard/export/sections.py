"""The sections of a downloaded report: which figures and numbers it shows, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from dashboard.data.sweeps import describe_sweep, split_options, sweep_of
from dashboard.facts.accuracy import change_text, output_change, share_text
from dashboard.facts.coverage import coverage_remark, coverage_text
from dashboard.facts.culprit import OutputEffects, find_culprit, output_effects
from dashboard.facts.executions import (
    baseline_text,
    batch_sizes,
    conditions_text,
    describe_executions,
    execution_of,
    execution_words,
)
from dashboard.facts.layer_times import describe_layer_times, layer_times, most_telling
from dashboard.facts.layers import layer_sqnrs
from dashboard.facts.metrics import available_metrics
from dashboard.facts.ranking import describe_ties, rank_layers
from dashboard.facts.timing_verdicts import timing_words
from dashboard.figures.cost.layer_times import layer_times_figure
from dashboard.figures.cost.size import layer_size_figure, reduction_text, waterfall_figure
from dashboard.figures.cost.size_items import describe_layers, layer_bytes, size_steps
from dashboard.figures.cost.timing import model_timing_figure
from dashboard.figures.layers.error_ridges import (
    describe_errors,
    layer_error_histograms,
    tensors_of,
)
from dashboard.figures.layers.four_errors import (
    COLUMNS,
    ONE_MARK,
    Series,
    describe_four_errors,
    error_rows,
    four_errors_figure,
)
from dashboard.figures.layers.relative_errors import (
    KINDS,
    describe_relative_errors,
    relative_error_histograms,
    relative_of,
)
from dashboard.figures.sensitivity.option_grid import describe_grid, option_grid
from dashboard.figures.sensitivity.ranking import describe_ranking, ranking_figure
from dashboard.words.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_count,
    format_db,
    format_nats,
    format_percent,
)
from dashboard.words.recipes import DYNAMIC_INPUT
from quant_engine.report import LayerReport, ModelReport, SensitivityReport, TimingReport

MOST_LAYERS = 40
"""Rankings in the file show at most this many layers; its tables and data show all."""


@dataclass(frozen=True, slots=True)
class Section:
    """One figure of the report.

    Attributes:
        title: Heading.
        text: The takeaway, also for those who cannot see the figure.
        figure: The figure.
    """

    title: str
    text: str
    figure: go.Figure


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
    numbers = [KeyNumber("Quantized layers", f"{quantized} of {len(report.layers)}")]
    if report.coverage is not None:
        share, said = format_percent(report.coverage.share), coverage_text(report.coverage)
        remark = f"{coverage_remark(report.coverage)}. {said}"
        numbers.insert(0, KeyNumber("Weights on codes", share, remark))
    if output is not None:
        before, after = output.accuracy_float, output.accuracy_quantized
        if before is not None and after is not None:
            samples = output.labelled_samples
            remark = f"float {share_text(before, samples)}; {change_text(output_change(output))}"
            numbers.append(KeyNumber("Accuracy quantized", share_text(after, samples), remark))
        remark = f"KL {format_nats(output.kl_divergence)}" if output.kl_divergence else ""
        agreement = format_accuracy(output.top1_agreement)
        if agreement != MISSING:
            numbers.append(KeyNumber("Same answer as float", agreement, remark))
        numbers.append(KeyNumber("Output SQNR", format_db(output.error.sqnr_db)))
    culprit = find_culprit(report, sensitivities, predicted)
    if culprit is not None:
        numbers.append(KeyNumber(f"Culprit ({culprit.label})", culprit.name, culprit.sentence))
    if size is not None:
        remark = f"from {format_bytes(size.float_bytes)}, {reduction_text(size)}"
        numbers.append(KeyNumber("Model size", format_bytes(size.quantized_bytes), remark))
    return tuple(numbers)


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
    rows = error_rows(report, effects)
    if any(row.value(column) is not None for row in rows for column in COLUMNS):
        series = [Series("", rows, effects, ONE_MARK)]
        figure = four_errors_figure(series, most=MOST_LAYERS)
        yield Section("Four errors of every layer", describe_four_errors(series), figure)
    for kind, words in KINDS.items():
        if any(relative_of(layer, kind) is not None for layer in report.layers):
            figure = relative_error_histograms(report, kind)
            text = describe_relative_errors(report, kind)
            yield Section(f"Relative error of every layer, {words}", text, figure)
    for part, word in (("weight", "weights"), ("input", "inputs")):
        if tensors_of(report, part):
            figure = layer_error_histograms(report, part)
            title = f"Errors of the {word} in steps of the grid"
            yield Section(title, describe_errors(report, part), figure)


def _sensitivity_sections(measured: SensitivityReport) -> Iterable[Section]:
    metrics = available_metrics(measured)
    if not metrics:
        return
    metric, options = metrics[0], split_options(measured)
    title = f"Sensitivity, {describe_sweep(sweep_of(measured))}"
    rankings = {label: rank_layers(report, metric) for label, report in options.items()}
    if len(options) > 1:
        names = [row.name for row in next(iter(rankings.values()))[:MOST_LAYERS]]
        yield Section(title, describe_grid(options, metric), option_grid(options, names, metric))
    for label, report in options.items():
        ranked = rankings[label]
        yield Section(
            f"{title}: ranked at {label}" if len(options) > 1 else title,
            f"{describe_ranking(report, ranked, metric)} {describe_ties(report, metric)}",
            ranking_figure(report, ranked[:MOST_LAYERS], metric, is_log=True),
        )


def _size_sections(report: ModelReport) -> list[Section]:
    size = report.size
    if size is None:
        return []
    text = (
        f"{format_bytes(size.float_bytes)} in float, {format_bytes(size.quantized_bytes)} "
        f"quantized: {reduction_text(size)}. Files on disk: "
        f"{format_bytes(size.float_file_bytes)} and {format_bytes(size.quantized_file_bytes)}."
    )
    rows = layer_bytes(report.layers, top=MOST_LAYERS)
    each = describe_layers(rows)
    return [
        Section("Size of the model", text, waterfall_figure(size_steps(report))),
        Section("Size of each layer", each, layer_size_figure(rows)),
    ]


def _timing_sections(report: ModelReport) -> list[Section]:
    timing = report.timing
    if timing is None:
        return []
    found = [
        Section(
            f"Time at batch size {batch}",
            f"{timing_words(timing, batch)} {baseline_text(timing, batch)}",
            model_timing_figure(timing, batch),
        )
        for batch in batch_sizes(timing)
    ]
    times = layer_times(timing)
    if times:
        text = f"{describe_layer_times(times, timing)} {describe_executions(timing)}"
        figure = layer_times_figure(most_telling(times, MOST_LAYERS))
        found.append(Section("Time inside each layer", text, figure))
    # How all of them were timed is said once, where the last of them is read.
    found[-1:] = [
        replace(last, text=f"{last.text} {conditions_text(timing)}") for last in found[-1:]
    ]
    return found


LAYER_COLUMNS = (
    ("Layer", False),
    ("Kind", False),
    ("Status", False),
    ("Weight bits", True),
    ("Input bits", False),  # a range per batch is told in words
    ("Weight SQNR (dB)", True),
    ("Input SQNR (dB)", True),
    ("Local SQNR (dB)", True),
    ("Accumulated SQNR (dB)", True),
    ("Weights clipped (%)", True),
    ("Inputs clipped (%)", True),
    ("Float (bytes)", True),
    ("Quantized (bytes)", True),
    ("On integers", False),
)
"""Columns of the report's table, and whether they hold numbers."""


def layer_cells(layer: LayerReport, timing: TimingReport | None = None) -> tuple[str, ...]:
    """Return one row of the report's table as text; units stand in the column names."""
    weight, entry = layer.weight, layer.input
    status = layer.status if layer.is_quantized else f"{layer.status}: {layer.reason}"
    return (
        layer.name,
        layer.kind,
        status,
        MISSING if weight is None else str(weight.scheme.bits),
        _input_bits(layer),
        *(format_db(value).removesuffix(" dB") for value in layer_sqnrs(layer).values()),
        *(
            MISSING
            if tensor is None
            else format_percent(tensor.error.clipped_fraction).removesuffix(" %")
            for tensor in (weight, entry)
        ),
        format_count(layer.size.float_bytes),
        format_count(layer.size.quantized_bytes),
        execution_words(execution_of(timing, layer.name)),
    )


def _input_bits(layer: LayerReport) -> str:
    if layer.input_scheme is not None and layer.has_dynamic_input:
        return f"{layer.input_scheme.bits}, {DYNAMIC_INPUT}"
    if layer.input is not None:
        return str(layer.input.scheme.bits)
    return MISSING
