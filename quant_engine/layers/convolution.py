"""Quantized convolutions of 1 to 3 axes, with every argument that torch's have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.errors import DataError
from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme

Triple: TypeAlias = tuple[int, int, int]
Size = TypeVar("Size", tuple[int], tuple[int, int], Triple)

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


class _Convolution(QuantizedLayer, Generic[Size]):
    """A convolution of any number of axes."""

    float_arguments = CONVOLUTION_ARGUMENTS
    float_type: ClassVar[Callable[..., nn.Module]]
    operation: ClassVar[Callable[..., Tensor]]

    kernel_size: Size
    stride: Size
    padding: Size | str
    dilation: Size
    groups: int
    padding_mode: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Size,
        stride: int | Size = 1,
        padding: int | Size | str = 0,
        bias: bool = True,
        *,
        dilation: int | Size = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            self.float_type(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias,
                padding_mode,
            )
        )

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Pad and convolve."""
        padding: tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            edges = edge_padding(padding, self.kernel_size, self.dilation)
            x, padding = F.pad(x, edges, mode=self.padding_mode), (0,) * len(self.kernel_size)
        return self.operation(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{convolution_repr(self)}, {super().extra_repr()}"


@register_quantized_layer(nn.Conv1d)
class QuantizedConv1d(_Convolution[tuple[int]]):
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
    float_type = nn.Conv1d
    operation = staticmethod(F.conv1d)


@register_quantized_layer(nn.Conv2d)
class QuantizedConv2d(_Convolution[tuple[int, int]]):
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
    float_type = nn.Conv2d
    operation = staticmethod(F.conv2d)


@register_quantized_layer(nn.Conv3d)
class QuantizedConv3d(_Convolution[Triple]):
    """`nn.Conv3d` with an int8 weight.

    Input (N, C, D, H, W) or (C, D, H, W), weight (out_channels, in_channels / groups, kernel depth,
    kernel height, kernel width). The input is rounded before it is padded; 0.0 is on every grid, so
    padding is exact.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, one number or (depth, height, width).
        stride: Step of the kernel, likewise.
        padding: Values added on every side, likewise, or "same" or "valid".
        bias: Whether to add a learned offset; it stays float.
        dilation: Distance between kernel elements, likewise.
        groups: Blocks of channels that do not see each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        scheme: How to quantize; by default the weight only, per channel.
    """

    output_axis = -4
    float_type = nn.Conv3d
    operation = staticmethod(F.conv3d)


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
    """`nn.Conv2d` that pads by the size of its input, as TensorFlow's do under "SAME".

    Zeros are added so that the output has ⌈size / stride⌉ values along each axis.

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


class _TransposedConvolution(QuantizedLayer, Generic[Size]):
    """A transposed convolution of any number of axes."""

    channel_axis = 1
    float_arguments = (*CONVOLUTION_ARGUMENTS, "output_padding")
    float_type: ClassVar[Callable[..., nn.Module]]
    operation: ClassVar[Callable[..., Tensor]]

    kernel_size: Size
    stride: Size
    padding: Size
    output_padding: Size
    dilation: Size
    groups: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Size,
        stride: int | Size = 1,
        padding: int | Size = 0,
        bias: bool = True,
        *,
        output_padding: int | Size = 0,
        groups: int = 1,
        dilation: int | Size = 1,
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            self.float_type(
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
        self, x: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Size | None = None
    ) -> Tensor:
        """Convolve transposed; `output_padding` stands in for the layer's own."""
        return self.operation(
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
            output_size: Sizes to choose among those that the stride allows.
        """
        return self.run(input, chosen_padding(self, input, output_size))

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{convolution_repr(self)}, {super().extra_repr()}"


@register_quantized_layer(nn.ConvTranspose1d)
class QuantizedConvTranspose1d(_TransposedConvolution[tuple[int]]):
    """`nn.ConvTranspose1d` with an int8 weight.

    Input (N, C, L) or (C, L), weight (in_channels, out_channels / groups, kernel). Scales as in
    `QuantizedConvTranspose2d`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Width of the kernel.
        stride: Distance between the places where input values land.
        padding: Values cut off at both ends.
        bias: Whether to add a learned offset; it stays float.
        output_padding: Values added at the end of the output.
        groups: Blocks of channels that do not see each other.
        dilation: Distance between kernel elements.
        scheme: How to quantize; by default the weight only, per channel.
    """

    output_axis = -2
    float_type = nn.ConvTranspose1d
    operation = staticmethod(F.conv_transpose1d)


@register_quantized_layer(nn.ConvTranspose2d)
class QuantizedConvTranspose2d(_TransposedConvolution[tuple[int, int]]):
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

    output_axis = -3
    float_type = nn.ConvTranspose2d
    operation = staticmethod(F.conv_transpose2d)


def chosen_padding(
    layer: Any, x: Tensor, output_size: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Return the output padding that leads to a size, given with or without N and C.

    Args:
        layer: A transposed convolution.
        x: Its input.
        output_size: The size; None for the layer's own output padding.

    Raises:
        DataError: If the stride does not allow the size.
    """
    if output_size is None:
        return None
    axes, wanted = len(layer.stride), [int(size) for size in output_size]
    if len(wanted) not in (axes, x.dim()):
        raise DataError(
            f"output_size has {len(wanted)} entries. Give those of the last {axes} axes, or all "
            f"{x.dim()} sizes of the output."
        )
    added = []
    for axis, size in enumerate(wanted[-axes:]):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        steps = layer.stride[axis] * (x.shape[axis - axes] - 1)
        smallest = steps - 2 * layer.padding[axis] + reach
        if not smallest <= size < smallest + layer.stride[axis]:
            raise DataError(
                f"output_size asks for {size} on axis {axis - axes}. This input allows "
                f"{smallest} to {smallest + layer.stride[axis] - 1}."
            )
        added.append(size - smallest)
    return tuple(added)
