"""Convolutions that pad by the size of their input, as TensorFlow's do under "SAME"."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers.convolution import QuantizedConv2d
from quant_engine.layers.registry import register_quantized_layer


def same_edges(
    size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[int]:
    """Return how much to pad at each edge, in the order of `F.pad`: last axis first.

    The output has ⌈size / stride⌉ values along each axis; the odd value goes to the end.

    Example:
        >>> same_edges((9, 10), (3, 3), (2, 2), (1, 1))
        [0, 1, 1, 1]
    """
    edges = []
    for axis in reversed(range(len(kernel_size))):
        reach = dilation[axis] * (kernel_size[axis] - 1) + 1
        steps = -(-size[axis] // stride[axis]) - 1
        total = max(steps * stride[axis] + reach - size[axis], 0)
        edges += [total // 2, total - total // 2]
    return edges


class SameConv2d(nn.Conv2d):
    """`nn.Conv2d` with zeros added so that the output has ⌈size / stride⌉ values along each axis.

    Its own `padding` is not used.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pad and convolve."""
        edges = same_edges(input.shape[-2:], self.kernel_size, self.stride, self.dilation)
        x = F.pad(input, edges)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@register_quantized_layer(SameConv2d)
class QuantizedSameConv2d(QuantizedConv2d):
    """`SameConv2d` with an int8 weight; arguments and shapes as in `QuantizedConv2d`."""

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pad and convolve."""
        edges = same_edges(x.shape[-2:], self.kernel_size, self.stride, self.dilation)
        x = F.pad(x, edges)
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)
