"""Lowered models against ONNX Runtime's int8, in pairs, and where a lowered model's time goes."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmarks.measure import measure_in_turn
from benchmarks.onnx_models import onnx_runs
from benchmarks.registry import Options, register_topic
from benchmarks.topics.execution import workloads
from quant_engine import Recipe, convert_execution, quantize_model
from quant_engine.execution.lowering.lower import LoweredModel
from quant_engine.preparation.folding_check import prepare_for

PAIRS = 20
PROFILED_PASSES = 7
AIMS = {("ResNet-18", 8): 0.95, ("encoder", 8): 0.75}  # at batch 1 all: 1
LOWERED, ONNX_INT8, FLOAT = "lowered", "ONNX Runtime int8", "float"


@register_topic("onnx-pairs")
@torch.no_grad()
def measure(options: Options) -> list[dict[str, Any]]:
    """Lowered models against ONNX Runtime's int8 in pairs, and where their time goes."""
    print(f"\nProcessor time of a pass, and its median ratio to that of another in {PAIRS} runs")
    print(
        f"in turn; {torch.get_num_threads()} threads. Below: shares of the lowered model's time.\n"
    )
    head = f"{'model':<12}{'batch':>6}{'lowered ms':>12}{'/ ONNX int8':>13}{'quartiles':>14}"
    print(f"{head}{'aim':>7}{'/ float':>9}")
    return [_measure_one(*workload) for workload in workloads()]


def _measure_one(name: str, batch: int, model: nn.Module, x: Tensor) -> dict[str, Any]:
    floats = prepare_for(model, x)[0].model
    lowered = convert_execution(quantize_model(model, x, Recipe.default()), lowered=True)
    laid_out = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    if x.dim() == 4:
        floats = floats.to(memory_format=torch.channels_last)
    tasks: dict[str, Callable[[], object]] = {
        LOWERED: lambda: lowered(laid_out),
        ONNX_INT8: onnx_runs(model, x)["int8"],
        FLOAT: lambda: floats(laid_out),
    }
    tasks[LOWERED]()
    found = measure_in_turn(tasks, ONNX_INT8, PAIRS)
    to_float = measure_in_turn({k: tasks[k] for k in (LOWERED, FLOAT)}, FLOAT, PAIRS)[LOWERED]
    ratio = found[LOWERED].cpu_ratio
    aim = AIMS.get((name, batch), 1.0 if batch == 1 else None)
    seconds = found[LOWERED].cpu_seconds.median
    print(
        f"{name:<12}{batch:>6}{seconds * 1e3:>12.2f}{ratio.median:>13.2f}"
        f"{f'{ratio.q1:.2f} to {ratio.q3:.2f}':>14}{aim or '–':>7}"
        f"{to_float.cpu_ratio.median:>9.2f}"
    )
    shares = profile(lowered, laid_out) if isinstance(lowered, LoweredModel) else {}
    print("    " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))
    return {"model": name, "batch": batch, "ratio": ratio.median, "shares": shares}


def profile(lowered: LoweredModel, x: Tensor) -> dict[str, float]:
    """Return the share of processor time of every kind of operation in a lowered model's list.

    The list is run node by node; what the interpreter needs between nodes is not counted.
    """
    lowered(x)
    (call,) = lowered._bound.calls.values()
    assert isinstance(call.run, fx.GraphModule)
    watch = _Watch(call.run)
    watch.run(x)
    watch.seconds.clear()
    for _ in range(PROFILED_PASSES):
        gc.collect()
        watch.run(x)
    total = sum(watch.seconds.values())
    ordered = sorted(watch.seconds.items(), key=lambda item: -item[1])
    return {kind: seconds / total for kind, seconds in ordered if seconds > 0.01 * total}


class _Watch(fx.Interpreter):
    """Runs a list of operations and adds up the processor time of each kind."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seconds: dict[str, float] = defaultdict(float)

    def run_node(self, n: fx.Node) -> Any:
        """Time one operation."""
        start = time.process_time()
        result = super().run_node(n)
        if n.op in ("call_function", "call_method"):
            name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
            self.seconds[str(name)] += time.process_time() - start
        return result
