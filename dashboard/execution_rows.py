"""How each quantized layer was computed when the model ran on integers, in words and as rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dashboard.figures.formatting import MISSING, plural
from quant_engine.report import LayerExecution, TimingReport

INTEGER = "integer"
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
    words = WORDS.get(entry.execution, entry.execution.replace("_", " "))
    return f"{words}, {kernel_name(entry.kernel)}" if entry.kernel else words


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
    """Return one row a layer for people."""
    return [
        {
            "Layer": entry.name,
            "Computed on": WORDS.get(entry.execution, entry.execution.replace("_", " ")),
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
        "integer_execution": None if entry is None else entry.execution,
        "integer_kernel": None if entry is None else entry.kernel or None,
        "integer_reason": None if entry is None else entry.reason or None,
        "lowered_int8_input": None if entry is None else entry.has_code_input,
        "lowered_int8_output": None if entry is None else entry.has_code_output,
    }
