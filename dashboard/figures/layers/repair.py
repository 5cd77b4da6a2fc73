"""The repair of a model step by step: degradation above accuracy, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard.data.runs import Run
from dashboard.facts.accuracy import share_interval, share_text
from dashboard.facts.comparison import degradation_text
from dashboard.facts.repair import Step, describe_repair
from dashboard.figures.kit.axes import log_axis, two_lines
from dashboard.figures.kit.marks import Trace, dots, line, whiskers
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import ERROR, ERROR_EDGE, FLOAT, INT8, INT8_EDGE, axis, new_figure
from dashboard.words.formatting import format_accuracy, percent
from quant_engine.report import OutputReport

_VERDICTS = {"better": "kept", "none": "no effect, undone", "worse": "worse, undone"}


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


def verdict_words(step: Step) -> str:
    """Return what became of a step."""
    return _VERDICTS.get(step.verdict, "cannot be compared, undone")


def _outputs(start: Run, steps: Sequence[Step]) -> list[tuple[str, bool, OutputReport | None]]:
    """Return for each point what to call it, whether it was kept, and its output."""
    points = [("as it was", True, start.report.output)]
    for number, step in enumerate(steps, start=1):
        if step.run is not None:
            points.append((f"{number}. {step.label}", step.is_kept, step.run.report.output))
    return points


def _figure(start: Run, steps: Sequence[Step]) -> Any:
    points = _outputs(start, steps)
    labels = [label for label, _, _ in points]
    has_kl = all(output is not None and output.kl_divergence is not None for *_, output in points)
    moved = [None if o is None else _moved(o, has_kl) for *_, o in points]
    spans = [None if o is None or not has_kl else o.kl_interval for *_, o in points]
    hover = [
        f"<b>{label}</b><br>{degradation_text(output)}<br>{_accuracy_words(output)}"
        for label, _, output in points
    ]
    kept = [is_kept for _, is_kept, _ in points]
    shown = [value if value else None for value in moved]  # 0 has no place on a logarithmic axis
    traces = _panel(labels, shown, kept, hover, (ERROR, ERROR_EDGE), whiskers(shown, spans), "y")
    ends = [value for span in spans if span for value in span] + [v for v in shown if v]
    layout: dict[str, Any] = {
        "yaxis": axis(
            "KL divergence (nats)" if has_kl else "Output NMSE",
            domain=[0.46, 1.0],
            **log_axis(ends),
        ),
        "xaxis": axis("", type="category", anchor="y2"),
    }
    shares = [_accuracy(output) for *_, output in points]
    values = [percent(share) for share, _ in shares]
    intervals = [
        None if (ends_ := share_interval(*pair)) is None else tuple(map(percent, ends_))
        for pair in shares
    ]
    bars = whiskers(values, [(i[0], i[1]) if i else None for i in intervals])
    traces += _panel(labels, values, kept, hover, (INT8, INT8_EDGE), bars, "y2")
    output = points[0][2]
    if output is not None and output.accuracy_float is not None:
        goal = output.accuracy_float
        name = f"float accuracy: {format_accuracy(goal)}"
        traces.append(
            line(labels, [100 * goal] * len(labels), FLOAT, name=name, dash="dash", yaxis="y2")
        )
    what = "Accuracy (%)" if _is_labelled(points) else "Same answer as float (%)"
    layout["yaxis2"] = axis(what, domain=[0.0, 0.36], anchor="x", rangemode="tozero")
    title = two_lines("Degradation and accuracy after each remedy", "95 % intervals; open: undone")
    return new_figure(title, traces=traces, height=460, layout=layout)


def _panel(
    labels: Sequence[str],
    values: Sequence[float | None],
    kept: Sequence[bool],
    hover: Sequence[str],
    colors: tuple[str, str],
    bars: dict[str, Any],
    yaxis: str,
) -> list[Trace]:
    """Return a line through the points that were kept, and all points with their whiskers."""
    color, edge = colors
    path = [index for index, is_kept in enumerate(kept) if is_kept]
    symbols = ["circle" if is_kept else "circle-open" for is_kept in kept]
    return [
        line([labels[i] for i in path], [values[i] for i in path], color, yaxis=yaxis),
        dots(
            labels,
            values,
            color,
            hover=hover,
            edge=edge,
            symbol=symbols,
            error_y=bars,
            yaxis=yaxis,
        ),
    ]


def _moved(output: OutputReport, has_kl: bool) -> float:
    kl = output.kl_divergence if has_kl else None
    return output.error.nmse if kl is None else kl


def _is_labelled(points: Sequence[tuple[str, bool, OutputReport | None]]) -> bool:
    return all(o is not None and o.accuracy_quantized is not None for *_, o in points)


def _accuracy(output: OutputReport | None) -> tuple[float | None, int]:
    """Return the share of right answers, else of answers like float's, and of how many."""
    if output is None:
        return None, 0
    if output.accuracy_quantized is not None:
        return output.accuracy_quantized, output.labelled_samples
    return output.top1_agreement, output.samples


def _accuracy_words(output: OutputReport | None) -> str:
    share, samples = _accuracy(output)
    return "" if share is None else share_text(share, samples)


def _rows(start: Run, steps: Sequence[Step]) -> Rows:
    verdicts = ["start", *(verdict_words(step) for step in steps if step.run is not None)]
    rows = []
    for (label, _, output), verdict in zip(_outputs(start, steps), verdicts, strict=True):
        share, samples = _accuracy(output)
        low, high = share_interval(share, samples) or (None, None)
        interval = (None, None) if output is None else output.kl_interval or (None, None)
        rows.append(
            {
                "step": label,
                "verdict": verdict,
                "kl_divergence_nats": None if output is None else output.kl_divergence,
                "kl_low_nats": interval[0],
                "kl_high_nats": interval[1],
                "output_nmse": None if output is None else output.error.nmse,
                "accuracy_percent": percent(share),
                "accuracy_low_percent": percent(low),
                "accuracy_high_percent": percent(high),
            }
        )
    return rows
