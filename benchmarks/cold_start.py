"""Seconds from the start of a fresh Python to the finished analysis of one sample model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Spread

ROOT = Path(__file__).resolve().parents[1]

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


def measure_cold_start(model: str, rounds: int) -> ColdStart:
    """Analyse a model in fresh processes, one after the other."""
    totals: list[float] = []
    parts: list[list[float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, model],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        totals.append(time.perf_counter() - start)
        parts.append(json.loads(done.stdout))
    imports, load, analyze = (Spread.of(list(part)) for part in zip(*parts, strict=True))
    return ColdStart(Spread.of(totals), imports, load, analyze)
