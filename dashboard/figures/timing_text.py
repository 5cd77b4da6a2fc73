"""Ways to run a model, and measured times in words."""

from __future__ import annotations

from dataclasses import dataclass

from dashboard.figures.formatting import format_ms, plural
from dashboard.figures.theme import FLOAT, INT8, NEUTRAL
from quant_engine.report import TimingEntry, TimingReport

FLOAT_EXECUTION = "float"
SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Execution:
    """One way to run the model.

    Attributes:
        label: Name shown to people.
        about: What really ran.
        color: Colour of its bars.
        pattern: Plotly's fill pattern; empty for a plain bar.
    """

    label: str
    about: str
    color: str
    pattern: str = ""


EXECUTIONS: dict[str, Execution] = {
    FLOAT_EXECUTION: Execution("float", "the float model as it is", FLOAT),
    "float_channels_last": Execution(
        "float, channels last",
        "the same float model with the channels of each pixel side by side in memory, "
        "often the faster layout for convolutions",
        FLOAT,
        ".",
    ),
    SIMULATED: Execution(
        "simulated int8",
        "int8 values, computed in float: every layer rounds its input, multiplies in float, "
        "so it is slower than float by design",
        INT8,
        "x",
    ),
    "integer": Execution("integer int8", "int8 values multiplied and summed as integers", INT8),
}
"""How the known executions are shown; others are shown under their own name."""


def execution(name: str) -> Execution:
    """Return how an execution is shown.

    Example:
        >>> execution("simulated").label, execution("new_kernel").label
        ('simulated int8', 'new kernel')
    """
    return EXECUTIONS.get(name) or Execution(name.replace("_", " "), "", NEUTRAL)


def batch_sizes(timing: TimingReport) -> tuple[int, ...]:
    """Return the batch sizes that whole models were timed with, smallest first."""
    return tuple(sorted({entry.batch_size for entry in timing.models}))


def ratio_to_float(timing: TimingReport, entry: TimingEntry) -> float | None:
    """Return an entry's median over the float model's at the same batch size, or None."""
    base = timing.model(FLOAT_EXECUTION, entry.batch_size)
    if base is None or base.median_ms <= 0:
        return None
    return entry.median_ms / base.median_ms


def conditions_text(timing: TimingReport) -> str:
    """Return where and how the times were measured, in one sentence."""
    environment = timing.environment
    runs = sorted({entry.runs for entry in (*timing.models, *timing.layers)})
    counted = f"{runs[0]}" if len(set(runs)) == 1 else f"{runs[0]} to {runs[-1]}" if runs else "no"
    return (
        f"{environment.cpu}, {plural(environment.threads, 'thread')}, "
        f"{environment.platform}, PyTorch {environment.torch_version}; "
        f"{counted} timed runs each after {plural(timing.warmup_runs, 'warm-up run')}, "
        "the models in turn."
    )


def verdict_text(timing: TimingReport, batch_size: int) -> str:
    """Return what the times at one batch size do and do not say, in plain words."""
    simulated = timing.model(SIMULATED, batch_size)
    ratio = None if simulated is None else ratio_to_float(timing, simulated)
    parts = []
    if ratio is not None:
        parts.append(
            f"Simulated int8 takes {ratio:.2g} × the time of float at batch size {batch_size}."
        )
    if simulated is not None:
        parts.append(
            "That is no verdict on int8: simulation computes in float and rounds on top, so it "
            "is slower than float by design. It shows what int8 does to the results; it is never "
            "a speed-up."
        )
    return " ".join(parts)


def describe_times(timing: TimingReport, batch_size: int) -> str:
    """Return the times at one batch size in a sentence."""
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    times = ", ".join(f"{execution(e.execution).label} {format_ms(e.median_ms)}" for e in entries)
    return f"Median time of one forward pass at batch size {batch_size}: {times or 'none'}."


def what_was_timed(timing: TimingReport) -> str:
    """Return in plain words what each bar really ran."""
    kinds = dict.fromkeys(entry.execution for entry in (*timing.models, *timing.layers))
    parts = [f"{look.label}: {look.about}" for look in map(execution, kinds) if look.about]
    return "Timed: a whole forward pass, wall clock. " + "; ".join(parts) + "."
