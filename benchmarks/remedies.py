"""The table of `docs/remedies.md`: `python -m benchmarks.remedies` prints it.

Inputs have 8 bits, asymmetric; ranges come from 200 calibration samples, accuracy and degradation
from the test split.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn

from quant_engine import quantize_model
from quant_engine.metrics.output import OutputStats
from quant_engine.report import OutputReport
from quant_engine.scheme import (
    GRANULARITIES,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    Recipe,
    Remedy,
    SmoothQuant,
    TensorScheme,
)
from sample_models import get_model_info, list_models

CHAINS: dict[str, tuple[Remedy, ...]] = {
    "none": (),
    "equalization": (CrossLayerEqualization(),),
    "smoothing": (SmoothQuant(),),
    "GPTQ": (Gptq(),),
    "bias correction": (BiasCorrection(),),
    "all": (CrossLayerEqualization(), SmoothQuant(), Gptq(), BiasCorrection()),
}
CALIBRATION_SAMPLES = 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown, a row for each sample, width and granularity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    options = parser.parse_args(arguments)
    print(f"| model, weights | {' | '.join(CHAINS)} |")
    print(f"|---|{'---|' * len(CHAINS)}")
    for name in options.models:
        for bits in options.bits:
            for granularity in GRANULARITIES:
                scheme = TensorScheme(bits=bits, granularity=granularity)
                cells = [describe(run(name, scheme, chain)) for chain in CHAINS.values()]
                where = f"{name}, {bits} bits {granularity.replace('_', ' ')}"
                print(f"| {where} | {' | '.join(cells)} |", flush=True)


def run(name: str, weight: TensorScheme, remedies: tuple[Remedy, ...]) -> OutputReport:
    """Quantize a sample and compare its answers on the test split with the float model's."""
    info = get_model_info(name)
    model: nn.Module = info.load()
    recipe = Recipe(weight, TensorScheme(symmetric=False), remedies=remedies)
    calibration = info.load_inputs("calibration")[0][:CALIBRATION_SAMPLES]
    inputs, labels = info.load_inputs("test")
    stats = OutputStats()
    with torch.no_grad():
        stats.update(model(inputs), quantize_model(model, calibration, recipe)(inputs), labels)
    return stats.report()


def describe(output: OutputReport) -> str:
    """Return accuracy in percent and KL divergence in nats."""
    assert output.accuracy_quantized is not None
    return f"{100 * output.accuracy_quantized:.1f} / {output.kl_divergence:.1e}"


if __name__ == "__main__":
    main()
