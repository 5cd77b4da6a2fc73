"""The repair of a model step by step: degradation above accuracy, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard.data.runs import Run
from dashboard.facts.accuracy import Interval, has_whole_answers, share_interval, share_text
from dashboard.facts.diagnosis.repair import Step, describe_repair, verdict_words
from dashboard.facts.output_change import degradation_text
from dashboard.facts.outputs import answering_output, degradation_of, outputs_of, prefix_of
from dashboard.figures.kit.axes import log_axis, two_lines
from dashboard.figures.kit.marks import Trace, dots, line, whiskers
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import ERROR, FLOAT, INT8, axis, new_figure
from dashboard.words.degradation import KL, NMSE
from dashboard.words.formatting import format_accuracy, percent
from quant_engine.report import ModelReport, OutputReport


def repair_picture(start: Run, steps: Sequence[Step]) -> Picture:
    """Return the curve of a repair.

    Args:
        start: The run that was repaired.
        steps: The steps whose runs are known, in the order they were tried.
    """
    return Picture(
        _figure(start, steps),
        describe_repair(start, tuple(steps)),
        (
            "Left the run as it was; each point to the right is a run with one more remedy. Every "
            "point was really run.",
            "Above: how far the answers moved from the float model's. Below: the accuracy, the "
            "float model's dashed. The whiskers are 95 % intervals over the samples.",
            "Filled points were better than the last filled one by more than twice half of its "
            "interval, and were kept. Open points were not, and the next step begins without them.",
        ),
        lambda: _rows(start, steps),
        "repair",
    )


def _reports(start: Run, steps: Sequence[Step]) -> list[tuple[str, bool, ModelReport]]:
    """Return for each point what to call it, whether it was kept, and its report."""
    points = [("as it was", True, start.report)]
    for number, step in enumerate(steps, start=1):
        if step.run is not None:
            points.append((f"{number}. {step.label}", step.is_kept, step.run.report))
    return points


def _moved(points: Sequence[ModelReport]) -> tuple[str, list[float | None], list[Interval | None]]:
    """Return what the curve shows, its values and their intervals.

    Of several outputs it is the one that changed for the worst against the first report.
    """
    first = outputs_of(points[0])
    if len(first) > 1:
        before = [degradation_of(output)[1] for output in first]
        ratios = []
        for report in points:
            after = [degradation_of(output)[1] for output in outputs_of(report)]
            pairs = zip(before, after, strict=False)
            known = [new / old for old, new in pairs if old and new is not None]
            ratios.append(max(known, default=None))
        return "Degradation ÷ as it was, worst output", ratios, [None] * len(points)
    found = [None if r.output is None else degradation_of(r.output) for r in points]
    measure = next((one[0] for one in found if one is not None), KL)
    values = [None if one is None else one[1] for one in found]
    return measure.heading, values, [None if one is None else one[2] for one in found]


def _figure(start: Run, steps: Sequence[Step]) -> Any:
    points = _reports(start, steps)
    labels = [label for label, _, _ in points]
    title_of_error, moved, spans = _moved([report for *_, report in points])
    answers = [answering_output(report) for *_, report in points]
    shares = [_accuracy(output) for output in answers]
    hover = [
        f"<b>{label}</b><br>{degradation_text(report)}<br>"
        f"{'' if share is None else share_text(share, samples)}"
        for (label, _, report), (share, samples) in zip(points, shares, strict=True)
    ]
    kept = [is_kept for _, is_kept, _ in points]
    has_answers = any(share is not None for share, _ in shares)
    shown = [value if value else None for value in moved]  # 0 has no place on a logarithmic axis
    traces = _panel(labels, shown, kept, hover, ERROR, whiskers(shown, spans), "y")
    ends = [value for span in spans if span for value in span] + [v for v in shown if v]
    layout: dict[str, Any] = {
        "yaxis": axis(title_of_error, domain=[0.46 if has_answers else 0.0, 1.0], **log_axis(ends)),
        "xaxis": axis("", type="category", anchor="y2" if has_answers else "y"),
    }
    title = two_lines(
        f"Degradation{' and accuracy' if has_answers else ''} after each remedy",
        "95 % intervals; open: undone",
    )
    if not has_answers:
        return new_figure(title, traces=traces, height=300, layout=layout)
    values = [percent(share) for share, _ in shares]
    intervals = [
        None if (ends_ := share_interval(*pair)) is None else tuple(map(percent, ends_))
        for pair in shares
    ]
    bars = whiskers(values, [(i[0], i[1]) if i else None for i in intervals])
    traces += _panel(labels, values, kept, hover, INT8, bars, "y2")
    output = answers[0]
    if output is not None and output.accuracy_float is not None:
        goal = output.accuracy_float
        name = f"float accuracy: {format_accuracy(goal)}"
        traces.append(
            line(labels, [100 * goal] * len(labels), FLOAT, name=name, dash="dash", yaxis="y2")
        )
    what = prefix_of(output, start.report)
    is_labelled = all(o is not None and o.accuracy_quantized is not None for o in answers)
    what += "Accuracy (%)" if is_labelled else "Same answer as float (%)"
    layout["yaxis2"] = axis(what, domain=[0.0, 0.36], anchor="x", rangemode="tozero")
    return new_figure(title, traces=traces, height=460, layout=layout)


def _panel(
    labels: Sequence[str],
    values: Sequence[float | None],
    kept: Sequence[bool],
    hover: Sequence[str],
    color: str,
    bars: dict[str, Any],
    yaxis: str,
) -> list[Trace]:
    """Return a line through the points that were kept, and all points with their whiskers."""
    path = [index for index, is_kept in enumerate(kept) if is_kept]
    symbols = ["circle" if is_kept else "circle-open" for is_kept in kept]
    return [
        line([labels[i] for i in path], [values[i] for i in path], color, yaxis=yaxis),
        dots(labels, values, color, hover=hover, symbol=symbols, error_y=bars, yaxis=yaxis),
    ]


def _accuracy(output: OutputReport | None) -> tuple[float | None, int]:
    """Return the share of right answers, else of answers like float's, and of how many samples.

    The number is 0 where a sample has several answers.
    """
    if output is None:
        return None, 0
    is_whole = has_whole_answers(output)
    if output.accuracy_quantized is not None:
        return output.accuracy_quantized, output.labelled_samples if is_whole else 0
    return output.top1_agreement, output.samples if is_whole else 0


def _rows(start: Run, steps: Sequence[Step]) -> Rows:
    verdicts = ["start", *(verdict_words(step) for step in steps if step.run is not None)]
    rows = []
    for (label, _, report), verdict in zip(_reports(start, steps), verdicts, strict=True):
        columns: dict[str, str | float | None] = {"step": label, "verdict": verdict}
        for output in outputs_of(report) or (None,):
            name = f"{output.name}_" if output and prefix_of(output, report) else ""
            columns |= {f"{name}{key}": value for key, value in _columns(output).items()}
        rows.append(columns)
    return rows


def _columns(output: OutputReport | None) -> dict[str, float | None]:
    """Return the numbers of one output of a point."""
    share, samples = _accuracy(output)
    low, high = share_interval(share, samples) or (None, None)
    measure, value, interval = (KL, None, None) if output is None else degradation_of(output)
    edges = interval or (None, None)
    return {
        measure.column: value,
        f"{measure.column}_low": edges[0],
        f"{measure.column}_high": edges[1],
        NMSE.column: None if output is None else output.error.nmse,
        "accuracy_percent": percent(share),
        "accuracy_low_percent": percent(low),
        "accuracy_high_percent": percent(high),
    }
