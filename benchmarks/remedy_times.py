"""What remedies cost on the MobileNet (24 layers, 200 images); `python -m benchmarks.remedy_times`.

Processor time of one thread beyond that of quantizing without remedies, the smallest of some
rounds in which all take turns; beside the aims, and how much of it is spent on capturing the graph.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.remedies import CALIBRATION_SAMPLES, CHAINS
from quant_engine import quantize_model
from quant_engine.graph.capture import capture_graph
from quant_engine.preparation import folding_check
from quant_engine.remedies import apply
from quant_engine.scheme import Recipe, Remedy, TensorScheme
from sample_models import get_model_info

AIMS = {"equalization": 0.1, "smoothing": 0.1, "bias correction": 1.0, "GPTQ": 2.5}
"""Seconds."""


def main() -> None:
    """Print a row for each remedy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    measured = [{name: _seconds(CHAINS[name]) for name in ("none", *AIMS)} for _ in range(rounds)]
    least = {name: min(turn[name] for turn in measured) for name in measured[0]}
    alone, alone_captures = least["none"]
    print(f"quantizing alone: {alone:.2f} s, {alone_captures:.2f} s of it captures\n")
    print("| remedy | seconds | of them captures | aim |\n|---|---|---|---|")
    for name, aim in AIMS.items():
        seconds, captures = least[name]
        print(f"| {name} | {seconds - alone:.2f} | {captures - alone_captures:.2f} | {aim:g} |")


def _seconds(remedies: tuple[Remedy, ...]) -> tuple[float, float]:
    """Seconds in all, and those spent on capturing graphs."""
    info = get_model_info("mobilenet")
    model = info.load()
    calibration = info.load_inputs("calibration")[0][:CALIBRATION_SAMPLES]
    weight = TensorScheme(4, granularity="per_channel")
    recipe = Recipe(weight, TensorScheme(symmetric=False), remedies=remedies)
    captures: list[float] = []

    def timed(*arguments: Any) -> Any:
        begun = time.process_time()
        try:
            return capture_graph(*arguments)
        finally:
            captures.append(time.process_time() - begun)

    with (
        patch.object(folding_check, "capture_graph", timed),
        patch.object(apply, "capture_graph", timed),
    ):
        start = time.process_time()
        quantize_model(model, calibration, recipe)
        return time.process_time() - start, sum(captures)


if __name__ == "__main__":
    main()
