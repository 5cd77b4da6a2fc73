"""Quantized 1d and 2d convolutions, with every argument that torch's have."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.errors import DataError
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


@register_quantized_layer(nn.ConvTranspose2d)
class QuantizedConvTranspose2d(QuantizedLayer):
    """`nn.ConvTranspose2d` with an int8 weight.

    Input (N, C, H, W) or (C, H, W), weight (in_channels, out_channels / groups, kernel height,
    kernel width). Output channels lie on axis 1 of the weight; with groups, channel j of every
    group has the scale of entry j, so there are out_channels / groups scales.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or (height, width).
        stride: Distance between the places where input pixels land, likewise.
        padding: Rows and columns cut off on every side, likewise.
        bias: Whether to add a learned offset; it stays float.
        output_padding: Rows and columns added at the end of the output, likewise.
        groups: Blocks of channels that do not see each other.
        dilation: Distance between kernel elements, likewise.
        scheme: How to quantize; by default the weight only, per channel.
    """

    channel_axis = 1
    output_axis = -3
    float_arguments = (*CONVOLUTION_ARGUMENTS, "output_padding")

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    output_padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        *,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        dilation: int | tuple[int, int] = 1,
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            nn.ConvTranspose2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                output_padding,
                groups,
                bias,
                dilation,
            )
        )

    def compute(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output_padding: tuple[int, int] | None = None,
    ) -> Tensor:
        """Convolve transposed; `output_padding` stands in for the layer's own."""
        return F.conv_transpose2d(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            output_padding or self.output_padding,
            self.groups,
            self.dilation,
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Run the layer; input and output as in the float layer.

        Args:
            input: As in the float layer.
            output_size: Height and width to choose among those that the stride allows.
        """
        output_padding = None if output_size is None else self._padding_for(input, output_size)
        return self.run(input, output_padding)

    def _padding_for(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, int]:
        """Return the output padding that leads to (height, width), given with or without N, C."""
        wanted = [int(size) for size in output_size]
        if len(wanted) not in (2, x.dim()):
            raise DataError(
                f"output_size has {len(wanted)} entries. Give height and width, or all "
                f"{x.dim()} sizes of the output."
            )
        added = []
        for axis, size in enumerate(wanted[-2:]):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            steps = self.stride[axis] * (x.shape[axis - 2] - 1)
            smallest = steps - 2 * self.padding[axis] + reach
            if not smallest <= size < smallest + self.stride[axis]:
                raise DataError(
                    f"output_size asks for {size} on axis {axis - 2}. This input allows "
                    f"{smallest} to {smallest + self.stride[axis] - 1}."
                )
            added.append(size - smallest)
        return added[0], added[1]

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{convolution_repr(self)}, {super().extra_repr()}"
