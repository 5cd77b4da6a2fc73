"""`python -m benchmarks`: print the figures, and store them as JSON where asked to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cold_start import measure_cold_start
from benchmarks.measure import Measurement, measure_in_turn
from benchmarks.workloads import ANALYSIS, CALIBRATION, FLOAT, make_batches, make_tasks
from quant_engine.timing import describe_environment
from sample_models import list_models

AIMS = {CALIBRATION: 2.0, ANALYSIS: 6.0}
COLD_AIM_SECONDS = 10.0
REAL_SAMPLES = 400


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _parse(arguments)
    environment = asdict(describe_environment())
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    result: dict[str, Any] = {"environment": environment, "ratios": [], "cold_start": {}}
    streams = [("test set", REAL_SAMPLES), ("long stream", options.samples)]
    print(f"\nRatios to a float pass over the same data, batches of {options.batch_size}.")
    print(f"Median and quartiles of {options.rounds} rounds; aims in brackets.\n")
    print(
        f"{'model':<28}{'data':<22}{'task':<22}{'seconds':>9}{'ratio':>8}{'':15}{'cpu ratio':>10}"
    )
    for name in options.models:
        for stream, samples in streams:
            batches = make_batches(name, samples, options.batch_size)
            measured = measure_in_turn(make_tasks(name, batches), FLOAT, options.rounds)
            result["ratios"].append(
                {
                    "model": name,
                    "stream": stream,
                    "samples": samples,
                    "tasks": {task: asdict(found) for task, found in measured.items()},
                }
            )
            for task, found in measured.items():
                print(_row(name, f"{stream} ({samples})", task, found))
    if options.cold_rounds:
        print("\nFrom a fresh Python to the finished analysis with times, in seconds.")
        print(f"Aim: under {COLD_AIM_SECONDS:g}.\n")
        print(f"{'model':<28}{'total':>8}{'imports':>9}{'load':>7}{'analyze':>9}")
        for name in options.models:
            cold = measure_cold_start(name, options.cold_rounds)
            result["cold_start"][name] = asdict(cold)
            print(
                f"{name:<28}{cold.total.median:>8.2f}{cold.imports.median:>9.2f}"
                f"{cold.load.median:>7.2f}{cold.analyze.median:>9.2f}"
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = list_models()
    parser.add_argument("--models", nargs="+", choices=names, default=["resnet"])
    parser.add_argument("--all", action="store_true", help="all sample models")
    parser.add_argument("--rounds", type=_positive, default=5, help="timed rounds (5)")
    parser.add_argument("--samples", type=_positive, default=20_000, help="long stream (20000)")
    parser.add_argument("--batch-size", type=_positive, default=256, help="samples a batch (256)")
    parser.add_argument(
        "--cold-rounds", type=int, default=3, help="fresh processes a model (3); 0 for none"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(arguments)
    if options.all:
        options.models = names
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _row(model: str, data: str, task: str, found: Measurement) -> str:
    aim = f"[< {AIMS[task]:g}]" if task in AIMS else ""
    quartiles = f" {found.ratio.q1:.2f}-{found.ratio.q3:.2f} {aim}"
    return (
        f"{model:<28}{data:<22}{task:<22}{found.seconds.median:>9.3f}{found.ratio.median:>8.2f}"
        f"{quartiles:<17}{found.cpu_ratio.median:>8.2f}"
    )


if __name__ == "__main__":
    main()
