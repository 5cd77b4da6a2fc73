"""The first steps: one tensor, one layer after the other, then a whole model in one call.

Run it with `python examples/quick_start.py`.
"""

from __future__ import annotations

import torch

from quant_engine import (
    Int8Quantizer,
    QuantizedLinear,
    benchmark_inference,
    calculate_model_size,
    quantize_model,
)
from sample_models import SimpleMLPClassifier, generate_sample_data


def quantize_a_tensor() -> float:
    """Map a tensor to int8 and back; returns the mean squared error."""
    torch.manual_seed(0)
    tensor = torch.randn(100, 50) * 2.0

    quantizer = Int8Quantizer(symmetric=True, per_channel=False)
    quantizer.calibrate(tensor)
    codes = quantizer.quantize(tensor)
    restored = quantizer.dequantize(codes)

    mse = torch.mean((tensor - restored) ** 2).item()
    print("One tensor")
    print(f"  scale {quantizer.scale:.6f}, codes {int(codes.min())} to {int(codes.max())}")
    print(f"  mean squared error {mse:.8f}")
    return mse


def replace_layers_by_hand() -> tuple[float, float]:
    """Put a QuantizedLinear where each Linear was; returns the size before and after, in MB."""
    model = SimpleMLPClassifier(784, [256, 128], 10)
    before = calculate_model_size(model)["total_mb"]

    for index, layer in enumerate(model.network):
        if isinstance(layer, torch.nn.Linear):
            replacement = QuantizedLinear(layer.in_features, layer.out_features)
            replacement.weight.data = layer.weight.data.clone()
            replacement.bias.data = layer.bias.data.clone()
            replacement.quantize_weights()
            model.network[index] = replacement

    after = calculate_model_size(model)["total_mb"]
    print("A perceptron, layer by layer: int8 weights, float inputs")
    print(f"  {before:.2f} MB in float, {after:.2f} MB quantized ({before / after:.2f} times less)")
    return before, after


def quantize_a_model() -> torch.nn.Module:
    """Quantize weights and inputs of a whole model at once."""
    model = SimpleMLPClassifier(784, [256, 128], 10)
    images = generate_sample_data("mlp", batch_size=100)
    quantized = quantize_model(model, images)

    timing = benchmark_inference(quantized, images, num_runs=20)
    print("The same perceptron in one call: int8 weights, int8 inputs")
    print(f"  {calculate_model_size(quantized)['total_mb']:.2f} MB")
    print(f"  {timing['median_ms']:.2f} ms for 100 images, in simulated execution")
    return quantized


if __name__ == "__main__":
    quantize_a_tensor()
    replace_layers_by_hand()
    quantize_a_model()
