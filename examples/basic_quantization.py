"""What rounding to int8 does to tensors of different shapes, and what calibration data decides.

Run it with `python examples/basic_quantization.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quant_engine import Int8Quantizer, calculate_quantization_error, print_quantization_summary

SCHEMES: Mapping[str, Mapping[str, bool | int]] = {
    "symmetric, one scale": {"symmetric": True, "per_channel": False},
    "asymmetric, one scale": {"symmetric": False, "per_channel": False},
    "symmetric, scale per column": {"symmetric": True, "per_channel": True, "channel_axis": 1},
    "asymmetric, scale per column": {"symmetric": False, "per_channel": True, "channel_axis": 1},
}
OBSERVERS = ("minmax", "percentile", "mse", "entropy")


def make_tensors(generator: torch.Generator) -> dict[str, Tensor]:
    """Return tensors that are easy and hard to quantize, each (100, 50)."""

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, 50, generator=generator)

    columns = torch.logspace(-2, 1, 50)
    return {
        "normal": 2.0 * normal(100),
        "uniform": 10.0 * torch.rand(100, 50, generator=generator) - 5.0,
        "far from zero": 10.0 + torch.rand(100, 50, generator=generator),
        "after ReLU": normal(100).relu(),
        "a few loud rows": torch.cat([0.5 * normal(90), 5.0 * normal(10)]),
        "unequal columns": normal(100) * columns,
    }


def compare_schemes(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Quantize every tensor with every scheme; returns the SQNR in dB of each pair."""
    found = {}
    print(f"{'tensor':<17}{'scheme':<30}{'SQNR dB':>8}{'MSE':>12}{'MAE':>12}{'max error':>11}")
    for name, tensor in tensors.items():
        for scheme, arguments in SCHEMES.items():
            quantizer = Int8Quantizer(**arguments)
            quantizer.calibrate(tensor)
            codes = quantizer.quantize(tensor)
            restored = quantizer.dequantize(codes)
            error = calculate_quantization_error(tensor, codes, restored)
            found[name, scheme] = error["snr_db"]
            largest = (tensor - restored).abs().max().item()
            print(
                f"{name:<17}{scheme:<30}{error['snr_db']:>8.2f}{error['mse']:>12.2e}"
                f"{error['mae']:>12.2e}{largest:>11.4f}"
            )
    return found


def compare_calibration_data(generator: torch.Generator) -> dict[str, float]:
    """Calibrate on other data than is quantized; returns the mean squared error of each choice."""
    values = 2.0 * torch.randn(1000, 100, generator=generator)
    choices = {
        "all of it": values,
        "a tenth of it": values[:100],
        "a hundredth of it": values[:10],
        "half as wide": torch.randn(100, 100, generator=generator),
        "a quarter as wide": 0.5 * torch.randn(100, 100, generator=generator),
    }
    found = {}
    print(f"{'calibrated on':<20}{'scale':>10}{'zero point':>12}{'MSE':>12}{'clipped':>10}")
    for name, data in choices.items():
        quantizer = Int8Quantizer(symmetric=False)
        quantizer.calibrate(data)
        restored = quantizer.dequantize(quantizer.quantize(values))
        found[name] = (values - restored).square().mean().item()
        lo, hi = data.min(), data.max()
        clipped = ((values < lo) | (values > hi)).float().mean().item()
        print(
            f"{name:<20}{quantizer.scale:>10.6f}{quantizer.zero_point:>12}"
            f"{found[name]:>12.2e}{clipped:>10.2%}"
        )
    return found


def compare_observers(tensor: Tensor, bits: int) -> dict[str, float]:
    """Choose the range of one tensor by each rule; returns the SQNR in dB of each."""
    found = {}
    print(f"{'range rule':<14}{'range':>10}{'SQNR dB':>10}     ({bits} bits)")
    for observer in OBSERVERS:
        quantizer = Int8Quantizer(bits=bits, observer=observer)
        quantizer.calibrate(tensor)
        restored = quantizer.dequantize(quantizer.quantize(tensor))
        found[observer] = calculate_quantization_error(tensor, None, restored)["snr_db"]
        edge = quantizer.scale * quantizer.scheme.qmax
        print(f"{observer:<14}{f'±{edge:.2f}':>10}{found[observer]:>10.2f}")
    return found


def main() -> None:
    """Run all comparisons."""
    generator = torch.Generator().manual_seed(0)
    tensors = make_tensors(generator)
    print("Schemes\n")
    compare_schemes(tensors)
    print("\nCalibration data\n")
    compare_calibration_data(generator)
    print("\nRange rules on a tensor with a few loud rows\n")
    for bits in (8, 4):
        compare_observers(tensors["a few loud rows"], bits)
    print("\nOne quantizer in full\n")
    quantizer = Int8Quantizer(symmetric=False, per_channel=True, channel_axis=1)
    quantizer.calibrate(tensors["unequal columns"])
    print_quantization_summary(quantizer, tensors["unequal columns"])


if __name__ == "__main__":
    main()
