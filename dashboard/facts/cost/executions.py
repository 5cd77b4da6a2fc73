"""Ways to run a model, and measured times in words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from dashboard.words.formatting import MISSING, format_ms, format_number, format_percent, plural
from quant_engine.report import LayerExecution, TimingEntry, TimingReport

FLOAT_EXECUTION = "float"
CHANNELS_LAST = "float_channels_last"
FLOATS = (FLOAT_EXECUTION, CHANNELS_LAST)
SIMULATED = "simulated"
INTEGER = "integer"
LOWERED = "integer_lowered"


@dataclass(frozen=True, slots=True)
class Execution:
    """One way to run the model.

    Attributes:
        label: Name shown to people.
        about: What really ran.
    """

    label: str
    about: str


EXECUTIONS: dict[str, Execution] = {
    FLOAT_EXECUTION: Execution("float", "the float model as it is"),
    CHANNELS_LAST: Execution(
        "float (channels last)",
        "the same float model with the channels of each pixel side by side in memory, "
        "often the faster layout for convolutions",
    ),
    SIMULATED: Execution(
        "simulated int8",
        "int8 values, computed in float: every layer rounds its input, multiplies in float, "
        "so it is slower than float by design",
    ),
    INTEGER: Execution(
        "integer int8",
        "int8 values multiplied and summed as integers; between layers values are float again",
    ),
    LOWERED: Execution(
        "integer int8 (lowered)",
        "the same, and where the model allows it values stay int8 between layers too",
    ),
}
"""The known executions; others are shown under their own name."""


def execution(name: str) -> Execution:
    """Return the name and the meaning of an execution.

    Example:
        >>> execution("simulated").label, execution("new_kernel").label
        ('simulated int8', 'new kernel')
    """
    return EXECUTIONS.get(name) or Execution(name.replace("_", " "), "")


def batch_sizes(timing: TimingReport) -> tuple[int, ...]:
    """Return the batch sizes that whole models were timed with, smallest first."""
    return tuple(sorted({entry.batch_size for entry in timing.models}))


def baseline_of(timing: TimingReport, batch_size: int) -> TimingEntry | None:
    """Return what all times at a batch size are compared with: float in its faster layout."""
    return timing.float_baseline.get(batch_size)


def fastest_integer(timing: TimingReport, batch_size: int) -> TimingEntry | None:
    """Return the fastest time of those that multiply integers, lowered or not."""
    found = [timing.model(kind, batch_size) for kind in (INTEGER, LOWERED)]
    return min((e for e in found if e is not None), key=lambda e: e.median_ms, default=None)


def ratio_to_baseline(timing: TimingReport, entry: TimingEntry) -> float | None:
    """Return an entry's median over the baseline's at the same batch size, or None."""
    base = baseline_of(timing, entry.batch_size)
    if base is None or base.median_ms <= 0:
        return None
    return entry.median_ms / base.median_ms


def is_baseline(timing: TimingReport, entry: TimingEntry) -> bool:
    """Whether the other times of its batch size are compared with this one."""
    return entry == baseline_of(timing, entry.batch_size)


def baseline_text(timing: TimingReport, batch_size: int) -> str:
    """Return what the baseline is, in one sentence; empty without one."""
    base = baseline_of(timing, batch_size)
    if base is None:
        return ""
    has_both = all(timing.model(name, batch_size) is not None for name in FLOATS)
    why = ", the faster of the two float layouts" if has_both else ""
    return f"Baseline: {execution(base.execution).label}{why}."


def format_ratio(ratio: float) -> str:
    """Return how many times as long, with two decimals where they say something.

    Example:
        >>> format_ratio(0.5082), format_ratio(1.0), format_ratio(12.34)
        ('0.51 ×', '1.00 ×', '12.3 ×')
    """
    return f"{ratio:.2f} ×" if ratio < 10 else f"{format_number(ratio)} ×"


def comparison_text(timing: TimingReport, entry: TimingEntry) -> str:
    """Return an entry's time against the baseline in a few words; empty without a baseline."""
    ratio = ratio_to_baseline(timing, entry)
    if ratio is None:
        return ""
    return "baseline" if is_baseline(timing, entry) else f"{format_ratio(ratio)} baseline"


def gap_text(timing: TimingReport, name: str) -> str:
    """Return by what share of the quantization error an execution's answers differ from simulated.

    Empty if not known; of several outputs each with its name.
    """
    gaps = [gap for gap in timing.gaps if gap.execution == name]
    texts = []
    for gap in gaps:
        is_share = math.isfinite(gap.share)
        share = format_percent(gap.share) if is_share else "more than all (there is none)"
        texts.append(f"{gap.output} {share}" if len(gaps) > 1 else share)
    return ", ".join(texts)


def conditions_text(timing: TimingReport) -> str:
    """Return where and how the times were measured, and what there is to doubt about them."""
    environment = timing.environment
    runs = sorted({entry.runs for entry in (*timing.models, *timing.layers)})
    counted = f"{runs[0]}" if len(set(runs)) == 1 else f"{runs[0]} to {runs[-1]}" if runs else "no"
    measured = (
        f"{environment.cpu}, {plural(environment.threads, 'thread')}, "
        f"{environment.platform}, PyTorch {environment.torch_version}; "
        f"{counted} timed runs each after {plural(timing.warmup_runs, 'warm-up run')}, "
        "the models in turn; medians with quartiles."
    )
    parts = (measured, threads_text(timing), unreliable_text(timing), *timing.limits)
    return " ".join(part for part in parts if part)


def threads_text(timing: TimingReport) -> str:
    """Return why this many threads computed; empty where there was no choice."""
    if len(timing.thread_trials) < 2:
        return ""
    used, other = timing.thread_trials[:2]
    return (
        f"The float model takes {format_ms(used.median_ms)} with {plural(used.threads, 'thread')} "
        f"and {format_ms(other.median_ms)} with {other.threads}, so all was timed with "
        f"{used.threads}."
    )


def unreliable_text(timing: TimingReport) -> str:
    """Return which times are unreliable, in one sentence; empty where none is."""
    models = [entry for entry in timing.models if entry.is_unreliable]
    layers = {entry.layer for entry in timing.layers if entry.is_unreliable}
    found = [f"{execution(e.execution).label} at batch size {e.batch_size}" for e in models]
    found += [plural(len(layers), "layer")] if layers else []
    why = "Unreliable (quartiles over 30 % of the median apart, or under three runs)"
    return f"{why}: {', '.join(found)}." if found else ""


def describe_times(timing: TimingReport, batch_size: int) -> str:
    """Return the times at one batch size in a sentence: integers against float where both ran."""
    entries = [entry for entry in timing.models if entry.batch_size == batch_size]
    if not entries:
        return f"Nothing was timed at batch size {batch_size}."
    best, base = fastest_integer(timing, batch_size), baseline_of(timing, batch_size)
    if best is None or base is None or base.median_ms <= 0:
        times = [f"{execution(e.execution).label} {format_ms(e.median_ms)}" for e in entries]
        return f"Median time of a pass at batch size {batch_size}: {', '.join(times)}."
    return (
        f"At batch size {batch_size}, {execution(best.execution).label} takes "
        f"{format_ms(best.median_ms)}: {format_ratio(best.median_ms / base.median_ms)} the "
        f"{format_ms(base.median_ms)} of {execution(base.execution).label}."
    )


def what_was_timed(timing: TimingReport) -> str:
    """Return in plain words what each bar really ran."""
    kinds = dict.fromkeys(entry.execution for entry in (*timing.models, *timing.layers))
    parts = [f"{look.label}: {look.about}" for look in map(execution, kinds) if look.about]
    return "Timed: a whole forward pass, wall clock. " + "; ".join(parts) + "."


WORDS = {
    INTEGER: "integers",
    "weights_only": "int8 weights times float inputs",
    "lookup": "codes looked up, nothing multiplied",
    "simulated": "simulated: float",
}


KERNELS = {"onednn": "oneDNN"}


def execution_words(entry: LayerExecution | None) -> str:
    """Return how a layer ran, with its kernel.

    Example:
        >>> execution_words(LayerExecution("fc", "integer", "onednn"))
        'integers, oneDNN'
    """
    if entry is None:
        return MISSING
    words = _computed_on(entry)
    return f"{words}, {kernel_name(entry.kernel)}" if entry.kernel else words


def _computed_on(entry: LayerExecution) -> str:
    return WORDS.get(entry.execution, entry.execution.replace("_", " "))


def kernel_name(kernel: str) -> str:
    """Return a kernel's name for people."""
    return KERNELS.get(kernel, kernel)


def execution_of(timing: TimingReport | None, layer: str) -> LayerExecution | None:
    """Return how a layer ran on integers, or None where that is not known."""
    entries = () if timing is None else timing.executions
    return next((entry for entry in entries if entry.name == layer), None)


def describe_executions(timing: TimingReport) -> str:
    """Return how many layers ran on integers, and with which kernels; empty if not known."""
    entries = timing.executions
    if not entries:
        return ""
    kernels = Counter(kernel_name(e.kernel) for e in entries if e.execution == INTEGER and e.kernel)
    ran = sum(entry.execution == INTEGER for entry in entries)
    names = [name if len(kernels) == 1 else f"{name} {n}" for name, n in kernels.most_common()]
    text = f"{ran} of {plural(len(entries), 'quantized layer')} computed on integers"
    text += f", by kernel: {', '.join(names)}." if names else "."
    others = [entry for entry in entries if entry.execution != INTEGER]
    if others:
        text += f" Not on integers: {_reasons(others)}"
    return text


def _reasons(entries: list[LayerExecution]) -> str:
    """Name the layers by their common reason."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(entry.reason or execution_words(entry), []).append(entry.name)
    return " ".join(
        f"{', '.join(group) if len(group) <= 3 else plural(len(group), 'layer')} – "
        f"{reason.rstrip('.')}."
        for reason, group in names.items()
    )


def execution_rows(timing: TimingReport) -> list[dict[str, Any]]:
    """Return one row per layer for people."""
    return [
        {
            "Layer": entry.name,
            "Computed on": _computed_on(entry),
            "Kernel": kernel_name(entry.kernel) or MISSING,
            "Input arrives as": "int8" if entry.has_code_input else "float32",
            "Output leaves as": "int8" if entry.has_code_output else "float32",
            "Why not on integers": entry.reason or MISSING,
        }
        for entry in timing.executions
    ]


def execution_columns(name: str, timing: TimingReport | None) -> dict[str, Any]:
    """Return how a layer ran, as the columns of a file; empty where nothing is known."""
    if timing is None or not timing.executions:
        return {}
    entry = execution_of(timing, name)
    return {
        "integer_execution": entry and entry.execution,
        "integer_kernel": (entry and entry.kernel) or None,
        "integer_reason": (entry and entry.reason) or None,
        "lowered_int8_input": entry and entry.has_code_input,
        "lowered_int8_output": entry and entry.has_code_output,
    }


def time_columns(entry: TimingEntry) -> dict[str, Any]:
    """Return a measured time as the columns of a file."""
    return {
        "layer": entry.layer or "(whole model)",
        "execution": entry.execution,
        "batch_size": entry.batch_size,
        "median_ms": entry.median_ms,
        "q1_ms": entry.q1_ms,
        "q3_ms": entry.q3_ms,
        "runs": entry.runs,
    }


def time_rows(timing: TimingReport) -> list[dict[str, Any]]:
    """Return every measured time, whole models first, as the rows of a file."""
    shares: dict[tuple[str, int, str], float] = {}
    for gap in timing.gaps:
        key = (gap.execution, gap.samples, "")
        shares[key] = max(gap.share, shares.get(key, gap.share))
    return [
        {
            **time_columns(entry),
            "is_unreliable": entry.is_unreliable,
            "warmup_runs": timing.warmup_runs,
            "ratio_to_baseline": None if entry.layer else ratio_to_baseline(timing, entry),
            "is_baseline": not entry.layer and is_baseline(timing, entry),
            "largest_difference_from_simulated_share": shares.get(
                (entry.execution, entry.batch_size, entry.layer)
            ),
            "threads": timing.environment.threads,
            "cpu": timing.environment.cpu,
        }
        for entry in (*timing.models, *timing.layers)
    ]
