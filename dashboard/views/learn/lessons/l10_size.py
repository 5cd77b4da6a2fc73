"""Smaller, faster? Nearly four times smaller, and faster only with a kernel that pays."""

from __future__ import annotations

from dashboard.data.runs import Run
from dashboard.facts.cost.executions import (
    SIMULATED,
    batch_sizes,
    fastest_integer,
    format_ratio,
    ratio_to_baseline,
)
from dashboard.facts.cost.size import FOLDED, size_steps
from dashboard.figures.cost.size import model_size_picture
from dashboard.figures.cost.timing import model_timing_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_bytes, format_number
from dashboard.work import service
from quant_engine.report import SizeReport, TimingReport

_ASKED = "mobilenet"
_NETWORKS = ("mlp", "mobilenet", "resnet", "transformer", "vit")
_ONE, _MANY = "one image", "a batch"
_FOUR = 3.995
"""From this factor on a size is a quarter."""
_BOTH, _SMALLER_ONLY, _LESS_SMALLER_FASTER, _NEITHER = 0, 1, 2, 3


def show(values: Values) -> Outcome:
    """Return where the bytes go, and how long each way to run the network took."""
    run, size, timing = _stored(values["network"])
    asked, asked_size, asked_timing = _stored(_ASKED)
    batch = batch_sizes(timing)[0 if values["batch"] == _ONE else -1]
    factor = asked_size.float_bytes / asked_size.quantized_bytes
    one = batch_sizes(asked_timing)[0]
    simulated, integer = _ratios(asked_timing, one)
    price = size.scale_bytes + size.zero_point_bytes
    return Outcome(
        right=_right(factor, min(simulated, integer)),
        truth=(
            f"{service.model_info(_ASKED).title} shrinks from "
            f"{format_bytes(asked_size.float_bytes)} to {format_bytes(asked_size.quantized_bytes)},"
            f" {format_number(factor)} times{_folding(asked)}. For one image, simulated int8 took "
            f"{format_ratio(simulated)} the time of float, the fastest integer arithmetic "
            f"{format_ratio(integer)}."
        ),
        pictures=(model_size_picture(run.report), model_timing_picture(timing, batch)),
        insight=(
            f"Codes are a quarter, but scales and zero points come on top (here "
            f"{format_bytes(price)}) and some numbers stay float, and few bits alone do not make a "
            f"fast network: "
            f"{_speeds()}"
        ),
        computed=(
            f"Read from the stored run of {run.model_name}, int8 per channel. Times are those of "
            f"the machine that stored it ({run.report.environment.cpu}) and of this engine's own "
            "kernels; nothing is timed now, and other hardware gives other times."
        ),
    )


def _stored(name: str) -> tuple[Run, SizeReport, TimingReport]:
    """The stored run of a model, with what was measured on it."""
    run = service.example_run(name)
    if run is None or run.report.size is None or run.report.timing is None:
        raise FileNotFoundError(f"the stored run of {name} is needed, with its size and times")
    return run, run.report.size, run.report.timing


def _folding(run: Run) -> str:
    """Say which part of the shrinking any float network may have without a single code."""
    size = run.report.size
    folded = -sum(step.bytes for step in size_steps(run.report) if step.label == FOLDED)
    if size is None or not folded:
        return ""
    alone = (size.float_bytes - folded) / size.quantized_bytes
    return (
        f", {format_bytes(folded)} of it because its BatchNorms (layers that only scale and shift) "
        f"become part of their neighbours; codes alone give {format_number(alone)} times"
    )


def _ratios(timing: TimingReport, batch: int) -> tuple[float, float]:
    """Times over float's: simulated, and the fastest integer arithmetic."""
    entries = (timing.model(SIMULATED, batch), fastest_integer(timing, batch))
    found = [None if entry is None else ratio_to_baseline(timing, entry) for entry in entries]
    simulated, integer = found
    if simulated is None or integer is None:
        raise ValueError(f"the stored run has no int8 times for batches of {batch}")
    return simulated, integer


def _speeds() -> str:
    """How the fastest integer arithmetic compares with float, in all networks on offer."""
    timings = [_stored(name)[2] for name in _NETWORKS]
    found = [_ratios(t, batch)[1] for t in timings for batch in batch_sizes(t)]
    faster = sum(ratio < 1 for ratio in found)
    return (
        f"in {faster} of {len(found)} cases stored for these {len(timings)} networks was integer "
        f"arithmetic faster than float; it took {format_ratio(min(found))} to "
        f"{format_ratio(max(found))} its time."
    )


def _right(factor: float, fastest: float) -> int:
    """Which answer a factor of the size and a ratio of times fit."""
    is_faster = fastest < 1
    if factor >= _FOUR:
        return _BOTH if is_faster else _SMALLER_ONLY
    return _LESS_SMALLER_FASTER if is_faster else _NEITHER


LESSON = Lesson(
    name="size",
    title="Smaller, faster?",
    text=(
        "A float number takes 32 bits, an int8 code 8. So a network stored in int8 should be a "
        "quarter as large.\n\n"
        "To read the codes one also needs each ruler: its **scale** (the step between two marks) "
        "and its **zero point** (the code that means 0).\n\n"
        "There are two ways to run such a network. **Simulated**: round every number to its mark, "
        "but keep computing in float. That shows how good the answers will be. **Integer**: "
        "multiply the codes themselves, then turn the sums back into float.\n\n"
        "We take a small network with 24 layers, stored and timed on an ordinary processor, one "
        "image at a time."
    ),
    question="How much smaller does it get, and is either way faster than float here?",
    answers=(
        "Exactly 4 times smaller, and faster: there is a quarter to move and multiply",
        "Exactly 4 times smaller, but not faster",
        "Less than 4 times smaller, and faster",
        "Less than 4 times smaller, and not faster",
    ),
    controls=(
        Control(
            "network",
            "Network",
            _NETWORKS,
            _ASKED,
            "Trained networks of different sizes, all in int8.",
        ),
        Control(
            "batch",
            "Run on",
            (_ONE, _MANY),
            _ONE,
            "How many samples go through the network at once.",
        ),
    ),
    show=show,
    page="views/size_time/size_time.py",
    link={"run": "mobilenet int8_per_channel"},
    terms=("model size", "scale", "zero point", "simulated int8", "integer int8"),
)
