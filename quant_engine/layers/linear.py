"""Quantized fully connected layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme


@register_quantized_layer(nn.Linear)
class QuantizedLinear(QuantizedLayer):
    """`nn.Linear` with an int8 weight: y = x̂ ŵᵀ + b.

    Input (..., in_features), output (..., out_features), weight (out_features, in_features).

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        bias: Whether to add a learned offset; it stays float.
        scheme: How to quantize; by default the weight only, per channel.
    """

    float_arguments = ("in_features", "out_features")

    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(nn.Linear(in_features, out_features, bias))

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x wᵀ + b."""
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        """Show sizes and scheme in `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"
