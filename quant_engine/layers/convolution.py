"""Quantized 1d and 2d convolutions, with every argument that torch's have."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme

CONVOLUTION_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


@register_quantized_layer(nn.Conv1d)
class QuantizedConv1d(QuantizedLayer):
    """`nn.Conv1d` with an int8 weight.

    Input (N, C, L) or (C, L), weight (out_channels, in_channels / groups, kernel). The input is
    rounded before it is padded; 0.0 is on every grid, so padding is exact.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Width of the kernel.
        stride: Step of the kernel.
        padding: Values added at both ends, or "same" or "valid".
        bias: Whether to add a learned offset; it stays float.
        dilation: Distance between kernel elements.
        groups: Blocks of channels that do not see each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        scheme: How to quantize; by default the weight only, per channel.
    """

    output_axis = -2
    float_arguments = CONVOLUTION_ARGUMENTS

    kernel_size: tuple[int]
    stride: tuple[int]
    padding: tuple[int] | str
    dilation: tuple[int]
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0,
        bias: bool = True,
        *,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            nn.Conv1d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias,
                padding_mode,  # type: ignore[arg-type]
            )
        )

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pad and convolve."""
        padding = self.padding
        if self.padding_mode != "zeros":
            edges = edge_padding(padding, self.kernel_size, self.dilation)
            x, padding = F.pad(x, edges, mode=self.padding_mode), (0,)
        return F.conv1d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{convolution_repr(self)}, {super().extra_repr()}"


@register_quantized_layer(nn.Conv2d)
class QuantizedConv2d(QuantizedLayer):
    """`nn.Conv2d` with an int8 weight.

    Input (N, C, H, W) or (C, H, W), weight (out_channels, in_channels / groups, kernel height,
    kernel width). The input is rounded before it is padded; 0.0 is on every grid, so padding is
    exact.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or (height, width).
        stride: Step of the kernel, likewise.
        padding: Rows and columns added on every side, likewise, or "same" or "valid".
        bias: Whether to add a learned offset; it stays float.
        dilation: Distance between kernel elements, likewise.
        groups: Blocks of channels that do not see each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        scheme: How to quantize; by default the weight only, per channel.
    """

    output_axis = -3
    float_arguments = CONVOLUTION_ARGUMENTS

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        bias: bool = True,
        *,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias,
                padding_mode,  # type: ignore[arg-type]
            )
        )

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pad and convolve."""
        padding = self.padding
        if self.padding_mode != "zeros":
            edges = edge_padding(padding, self.kernel_size, self.dilation)
            x, padding = F.pad(x, edges, mode=self.padding_mode), (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{convolution_repr(self)}, {super().extra_repr()}"


def edge_padding(
    padding: tuple[int, ...] | str, kernel_size: tuple[int, ...], dilation: tuple[int, ...]
) -> list[int]:
    """Return how much to pad at each edge, in the order of `F.pad`: last axis first.

    "same" adds dilation · (kernel - 1) values in all; the odd one goes to the end.

    Example:
        >>> edge_padding("same", (2, 3), (1, 1))
        [1, 1, 0, 1]
        >>> edge_padding((4, 5), (2, 3), (1, 1))
        [5, 5, 4, 4]
    """
    edges: list[int] = []
    for axis in reversed(range(len(kernel_size))):
        if padding == "valid":
            before = after = 0
        elif padding == "same":
            total = dilation[axis] * (kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(padding[axis])
        edges += [before, after]
    return edges


def convolution_repr(layer: QuantizedLayer) -> str:
    """Return the arguments of a convolution as text."""
    names = [name for name in layer.float_arguments if not name.endswith("_channels")]
    arguments = ", ".join(f"{name}={getattr(layer, name)}" for name in names)
    return f"{layer.in_channels}, {layer.out_channels}, {arguments}"
