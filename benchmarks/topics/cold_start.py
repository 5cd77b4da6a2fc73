"""Seconds from the start of a fresh Python to the finished analysis of one sample model."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Spread, run_python
from benchmarks.registry import Options, register_topic

AIM_SECONDS = 10.0

# What the product does on a first click: the real calibration and test data, times measured too.
_SCRIPT = """
import json, sys, time
start = time.perf_counter()
from quant_engine import Recipe, analyze
from sample_models import get_model_info, load_model
imported = time.perf_counter()
info, model = get_model_info(sys.argv[1]), load_model(sys.argv[1])
calibration, _ = info.load_inputs("calibration")
loaded = time.perf_counter()
analyze(model, calibration, Recipe.default(), evaluation_data=[info.load_inputs("test")])
done = time.perf_counter()
print(json.dumps([imported - start, loaded - imported, done - loaded]))
"""


@dataclass(frozen=True)
class ColdStart:
    """Times of fresh processes, in seconds.

    Attributes:
        total: From starting Python to its end.
        imports: Importing engine and models.
        load: Loading model and data.
        analyze: The analysis, with times measured.
    """

    total: Spread
    imports: Spread
    load: Spread
    analyze: Spread


@register_topic("cold_start")
def measure(options: Options) -> dict[str, Any]:
    """Seconds from a fresh Python to the finished analysis with times."""
    result: dict[str, Any] = {}
    if options.cold_rounds < 1:
        return result
    print("\nFrom a fresh Python to the finished analysis with times, in seconds.")
    print(f"Aim: under {AIM_SECONDS:g}.\n")
    print(f"{'model':<28}{'total':>8}{'imports':>9}{'load':>7}{'analyze':>9}")
    for name in options.models:
        cold = measure_cold_start(name, options.cold_rounds)
        result[name] = asdict(cold)
        print(
            f"{name:<28}{cold.total.median:>8.2f}{cold.imports.median:>9.2f}"
            f"{cold.load.median:>7.2f}{cold.analyze.median:>9.2f}"
        )
    return result


def measure_cold_start(model: str, rounds: int) -> ColdStart:
    """Analyse a model in fresh processes, one after the other."""
    totals: list[float] = []
    parts: list[list[float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        printed = run_python(_SCRIPT, model)
        totals.append(time.perf_counter() - start)
        parts.append(json.loads(printed))
    imports, load, analyze = (Spread.of(list(part)) for part in zip(*parts, strict=True))
    return ColdStart(Spread.of(totals), imports, load, analyze)
