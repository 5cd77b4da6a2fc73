"""What remedies cost on the MobileNet (24 layers, 200 images); `python -m benchmarks.remedy_times`.

Processor time of two threads beyond that of quantizing without remedies, the smallest of some
rounds in which all take turns; beside the aims.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from benchmarks.remedies import CALIBRATION_SAMPLES, CHAINS
from quant_engine import quantize_model
from quant_engine.scheme import Recipe, Remedy, TensorScheme
from sample_models import get_model_info

AIMS = {"equalization": 0.1, "smoothing": 0.1, "bias correction": 1.0, "GPTQ": 2.5}
"""Seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each remedy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(2)
    measured = [{name: _seconds(CHAINS[name]) for name in ("none", *AIMS)} for _ in range(rounds)]
    least = {name: min(turn[name] for turn in measured) for name in measured[0]}
    print(f"quantizing alone: {least['none']:.2f} s\n\n| remedy | seconds | aim |\n|---|---|---|")
    for name, aim in AIMS.items():
        print(f"| {name} | {least[name] - least['none']:.2f} | {aim:g} |")


def _seconds(remedies: tuple[Remedy, ...]) -> float:
    info = get_model_info("mobilenet")
    model = info.load()
    calibration = info.load_inputs("calibration")[0][:CALIBRATION_SAMPLES]
    weight = TensorScheme(4, granularity="per_channel")
    recipe = Recipe(weight, TensorScheme(symmetric=False), remedies=remedies)
    start = time.process_time()
    quantize_model(model, calibration, recipe)
    return time.process_time() - start


if __name__ == "__main__":
    main()
