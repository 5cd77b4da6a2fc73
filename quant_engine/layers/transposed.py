"""Quantized transposed 2d convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.errors import DataError
from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.convolution import CONVOLUTION_ARGUMENTS, convolution_repr
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme


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
