"""The table of `docs/remedies.md`: `python -m benchmarks.remedies` prints it.

Inputs have 8 bits, asymmetric; ranges come from 200 calibration samples, accuracy and degradation
from the test split.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import nn

from quant_engine import quantize_model
from quant_engine.metrics.functions import kl_divergence
from quant_engine.scheme import (
    BATCH_NORM,
    AdaRound,
    Awq,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    OutputMse,
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
    "AWQ": (Awq(),),
    "AWQ, GPTQ": (Awq(), Gptq()),
    "output error": (OutputMse(),),
    "GPTQ": (Gptq(),),
    "AdaRound": (AdaRound(),),
    "output error, GPTQ": (OutputMse(), Gptq()),
    "bias correction": (BiasCorrection(),),
    "bias correction by BatchNorm": (BiasCorrection(means=BATCH_NORM),),
    "all": (CrossLayerEqualization(), SmoothQuant(), Gptq(), BiasCorrection()),
}
RANGES: dict[str, TensorScheme] = {
    "mse": TensorScheme(observer="mse"),
    "asymmetric min-max": TensorScheme(symmetric=False),
    "asymmetric mse": TensorScheme(symmetric=False, observer="mse"),
    "hqq": TensorScheme(symmetric=False, observer="hqq"),
}
"""Ranges and zero points of weights without remedies; all other columns are symmetric, min-max."""

SCALES = (
    TensorScheme(),
    TensorScheme(granularity="per_channel"),
    TensorScheme(granularity="per_group", group_size=32),
)
CALIBRATION_SAMPLES = 200


def main() -> None:
    """Print the table as Markdown, a row for each sample, width and granularity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list_models())
    parser.add_argument("--bits", nargs="*", type=int, default=[8, 4])
    columns = [*CHAINS, *RANGES]
    parser.add_argument("--remedies", nargs="*", choices=columns, default=list(CHAINS))
    granularities = [scales.granularity for scales in SCALES]
    parser.add_argument("--scales", nargs="*", choices=granularities, default=granularities)
    options = parser.parse_args()
    print(f"| model, weights | {' | '.join(options.remedies)} |")
    print(f"|---|{'---|' * len(options.remedies)}")
    for name in options.models:
        for bits in options.bits:
            for scheme in (replace(scales, bits=bits) for scales in SCALES):
                if scheme.granularity not in options.scales:
                    continue
                if bits == 8 and scheme.group_size is not None:
                    continue  # groups are for few bits
                cells = [_cell(name, scheme, column) for column in options.remedies]
                where = f"{name}, {bits} bits {scheme.granularity_name}"
                print(f"| {where} | {' | '.join(cells)} |", flush=True)


def _cell(name: str, weight: TensorScheme, column: str) -> str:
    ranges = RANGES.get(column, weight)
    scheme = replace(weight, symmetric=ranges.symmetric, observer=ranges.observer)
    return run(name, scheme, CHAINS.get(column, ()))


def run(name: str, weight: TensorScheme, remedies: tuple[Remedy, ...]) -> str:
    """Return accuracy in percent and KL divergence in nats of a quantized sample."""
    info = get_model_info(name)
    model: nn.Module = info.load()
    recipe = Recipe(weight, TensorScheme(symmetric=False), remedies=remedies)
    calibration = info.load_inputs("calibration")[0][:CALIBRATION_SAMPLES]
    inputs, labels = info.load_inputs("test")
    with torch.no_grad():
        expected, found = model(inputs), quantize_model(model, calibration, recipe)(inputs)
    accuracy = (found.argmax(dim=1) == labels).double().mean().item()
    return f"{100 * accuracy:.1f} / {kl_divergence(expected, found):.1e}"


if __name__ == "__main__":
    main()
