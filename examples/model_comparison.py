"""Trained models before and after quantization: size, time, answers, layers, and retraining.

Run it with `python examples/model_comparison.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dashboard.facts.diagnosis.culprit import find_culprit
from quant_engine import (
    PRESETS,
    Int8Quantizer,
    Recipe,
    SensitivityReport,
    TensorScheme,
    compare_models,
    measure_sensitivity,
    quantize_model,
)
from sample_models import get_model_info, load_model

SCHEMES: Mapping[str, Mapping[str, bool]] = {
    "symmetric, one scale": {"symmetric": True, "per_channel": False},
    "asymmetric, one scale": {"symmetric": False, "per_channel": False},
    "symmetric, scale per output": {"symmetric": True, "per_channel": True},
    "asymmetric, scale per output": {"symmetric": False, "per_channel": True},
}


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of samples a model gets right."""
    with torch.no_grad():
        return (model(inputs).argmax(dim=1) == labels).float().mean().item()


def compare_before_and_after(name: str) -> dict[str, Any]:
    """Quantize a trained model and print what changed."""
    info, model = get_model_info(name), load_model(name)
    calibration, _ = info.load_inputs("calibration")
    inputs, labels = info.load_inputs("test")
    quantized = quantize_model(model, calibration)
    batch = inputs[:32]  # what is timed, a hundred times
    found = compare_models(model, quantized, batch, num_classes=info.num_classes)

    before, after = found["original_size"]["total_mb"], found["quantized_size"]["total_mb"]
    fast, slow = found["original_timing"], found["quantized_timing"]
    print(f"{info.title}, int8 weights and inputs")
    print(f"  size       {before:.3f} MB, now {after:.3f} MB: {before / after:.2f} times less")
    print(
        f"  accuracy   {accuracy(model, inputs, labels):.2%}, "
        f"now {accuracy(quantized, inputs, labels):.2%}, of {len(inputs)} test images"
    )
    print(
        f"  output     SNR {found['output_error']['snr_db']:.1f} dB, same answer on "
        f"{found['prediction_agreement']:.2%} of {len(batch)} images"
    )
    print(
        f"  time       {fast['median_ms']:.2f} ms for them in float, {slow['median_ms']:.2f} ms "
        "simulated: codes are turned back into floats first, so this is no speed-up"
    )
    return found


def compare_weight_schemes(name: str) -> dict[tuple[str, str], float]:
    """Round each Linear's weight in four ways; returns the mean squared error of each."""
    model = load_model(name)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    found = {}
    print(f"Mean squared error of the weights of {name}\n")
    print(f"{'scheme':<30}" + "".join(f"{layer:>14}" for layer in layers) + f"{'mean':>14}")
    for scheme, arguments in SCHEMES.items():
        errors = []
        for layer, module in layers.items():
            quantizer = Int8Quantizer(**arguments)
            quantizer.calibrate(module.weight)
            restored = quantizer.dequantize(quantizer.quantize(module.weight))
            errors.append((module.weight - restored).square().mean().item())
            found[scheme, layer] = errors[-1]
        errors.append(sum(errors) / len(errors))
        print(f"{scheme:<30}" + "".join(f"{error:>14.3e}" for error in errors))
    return found


class RoundedWeight(nn.Module):
    """Rounds a weight in forward and lets the gradient through unchanged (straight-through)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on its grid, one scale for each output."""
        quantizer = Int8Quantizer(per_channel=True, bits=self.bits)
        quantizer.calibrate(weight)
        restored = quantizer.dequantize(quantizer.quantize(weight))
        return weight + (restored - weight).detach()


def train_for_few_bits(name: str, bits: int, steps: int = 60) -> dict[str, float]:
    """Train a model on while its weights are rounded; returns accuracies before and after."""
    info, model = get_model_info(name), load_model(name)
    inputs, labels = info.load_inputs("train")
    test_inputs, test_labels = info.load_inputs("test")
    scheme = TensorScheme(bits=bits, granularity="per_channel")
    recipe = Recipe(scheme, activation=None)

    def quantized_accuracy() -> float:
        return accuracy(quantize_model(model, None, recipe), test_inputs, test_labels)

    found = {"float": accuracy(model, test_inputs, test_labels), "rounded": quantized_accuracy()}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight(bits))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    found["trained for it"] = quantized_accuracy()

    print(f"{info.title} with {bits}-bit weights, accuracy on the test images")
    for what, value in found.items():
        print(f"  {what:<16}{value:.2%}")
    return found


def rank_layers(name: str, recipe: Recipe) -> SensitivityReport:
    """Quantize one layer at a time and print which ones move the output most and least."""
    info, model = get_model_info(name), load_model(name)
    calibration, _ = info.load_inputs("calibration")
    report = measure_sensitivity(
        model, calibration, recipe, evaluation_data=[info.load_inputs("test")], model_name=name
    )
    ranked = sorted(report.layers, key=lambda layer: layer.kl_divergence, reverse=True)
    print(f"{info.title}, {recipe.name}: one layer quantized, the rest float\n")
    print(f"{'layer':<22}{'KL (nats)':>11}{'95 % interval':>24}{'same answer':>13}")
    for layer in (*ranked[:3], None, *ranked[-3:]):
        if layer is None:
            print("...")
            continue
        low, high = layer.interval
        interval = f"{low:.2e} to {high:.2e}"
        print(
            f"{layer.name:<22}{layer.kl_divergence:>11.2e}{interval:>24}"
            f"{layer.top1_agreement:>13.2%}"
        )
    culprit = find_culprit(None, [report])
    if culprit is not None:
        print(f"Culprit: {culprit.sentence}")
    return report


def main() -> None:
    """Run all comparisons."""
    for name in ("mlp", "cnn"):
        compare_before_and_after(name)
        print()
    compare_weight_schemes("mlp")
    print()
    train_for_few_bits("mlp", bits=2)
    print()
    rank_layers("mobilenet_unequal_channels", PRESETS["int8_per_tensor"])


if __name__ == "__main__":
    main()
