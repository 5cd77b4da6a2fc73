"""Measured times, and where they were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MOST_SPREAD = 0.3
"""Quartiles further apart than this share of the median make a time unreliable."""

NOT_COMPARED = "Answers on integers were not compared with the simulation's"
"""Beginning of the note that says why a report with times has no gaps."""

LEAST_RUNS = 3
"""Fewer runs say nothing about the spread."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where something was measured.

    Attributes:
        cpu: Name of the processor.
        threads: Threads torch used.
        torch_version: Version of torch.
        platform: Operating system and machine.
    """

    cpu: str
    threads: int
    torch_version: str
    platform: str


@dataclass(frozen=True, slots=True)
class LayerExecution:
    """How one quantized layer is computed.

    Attributes:
        name: Name of the layer.
        execution: "integer" (products of codes, summed in int32), "weights_only" (codes times
            float inputs), "lookup" (codes are picked, not multiplied) or "simulated".
        kernel: The integer kernel that ran last; empty where none did.
        reason: Why it is not "integer"; empty where it is.
        has_code_input: Whether its input comes as codes, so that it rounds nothing itself.
        has_code_output: Whether it hands codes on.
    """

    name: str
    execution: str
    kernel: str = ""
    reason: str = ""
    has_code_input: bool = False
    has_code_output: bool = False


@dataclass(frozen=True, slots=True)
class TimingEntry:
    """Wall-clock time of one thing, over repeated runs.

    Attributes:
        execution: "float", "float_channels_last", "simulated", "integer" (int8 sums, float32
            between layers) or "integer_lowered" (int8 between layers too).
        batch_size: Samples in one run.
        median_ms: Median over the runs, in ms.
        q1_ms: First quartile, in ms.
        q3_ms: Third quartile, in ms.
        runs: Number of timed runs.
        layer: Name of the layer, or "" for the whole model.
    """

    execution: str
    batch_size: int
    median_ms: float
    q1_ms: float
    q3_ms: float
    runs: int
    layer: str = ""

    @property
    def is_unreliable(self) -> bool:
        """Whether the quartiles lie over 30 % of the median apart, or the runs are under three."""
        return self.runs < LEAST_RUNS or self.q3_ms - self.q1_ms > MOST_SPREAD * self.median_ms


@dataclass(frozen=True, slots=True)
class ExecutionGap:
    """How far one output, computed on integers, lies from the simulated one, on one batch.

    Integers and simulation round the same values to the same grids; float32 sums now and then put
    a value on the other side of a tie, and the layers behind it carry the difference on. Lowered
    execution also rounds residuals once more.

    Attributes:
        execution: "integer" or "integer_lowered".
        output: Name of the output.
        samples: Samples in the batch.
        difference: Root mean square of integer minus simulated, over the values that count; in the
            output's own unit, as the two below.
        quantization_error: That of simulated minus float.
        signal: That of the float output.
    """

    execution: str
    output: str
    samples: int
    difference: float
    quantization_error: float
    signal: float

    @property
    def share(self) -> float:
        """The difference over the quantization error, both as root mean squares; inf without one.

        Example:
            >>> ExecutionGap("integer", "logits", 8, 0.3, 1.2, 10.0).share
            0.25
        """
        if self.difference == 0.0:
            return 0.0
        error = self.quantization_error
        return self.difference / error if error > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class ThreadTrial:
    """How long the float model takes with a number of threads.

    Attributes:
        threads: Number of threads.
        median_ms: Median of a few passes of the largest timed batch, in ms.
    """

    threads: int
    median_ms: float


@dataclass(frozen=True, slots=True)
class TimingReport:
    """How long the models take, measured in turn on one machine.

    Attributes:
        environment: Where it was measured, and with how many threads.
        warmup_runs: Untimed runs before each measurement.
        models: Whole models.
        layers: Single layers inside a whole run.
        executions: How each quantized layer was computed when the model ran on integers.
        notes: What could not be done, and why.
        budget_s: Most seconds that timing was to take; None without a bound.
        limits: What the budget left out.
        thread_trials: The float model with one thread and with the number that was set. All times
            were taken with the faster one.
        gaps: How far the outputs on integers lie from the simulated ones, on the largest batch
            timed. Empty where that was not measured.
    """

    environment: Environment
    warmup_runs: int
    models: tuple[TimingEntry, ...]
    layers: tuple[TimingEntry, ...]
    executions: tuple[LayerExecution, ...] = ()
    notes: tuple[str, ...] = ()
    budget_s: float | None = None
    limits: tuple[str, ...] = ()
    thread_trials: tuple[ThreadTrial, ...] = ()
    gaps: tuple[ExecutionGap, ...] = ()

    @property
    def unreliable(self) -> tuple[TimingEntry, ...]:
        """The times, of whole models and of layers, whose runs differ too much to rely on."""
        return tuple(entry for entry in (*self.models, *self.layers) if entry.is_unreliable)

    @property
    def float_baseline(self) -> Mapping[int, TimingEntry]:
        """Batch size -> the faster of the float model's two memory layouts."""
        entries = [entry for entry in self.models if entry.execution.startswith("float")]
        return {
            size: min(
                (entry for entry in entries if entry.batch_size == size),
                key=lambda entry: entry.median_ms,
            )
            for size in sorted({entry.batch_size for entry in entries})
        }

    def model(self, execution: str, batch_size: int) -> TimingEntry | None:
        """Return the whole-model entry of an execution and batch size, or None."""
        for entry in self.models:
            if entry.execution == execution and entry.batch_size == batch_size:
                return entry
        return None
