"""Integer arithmetic of convolutions, all by 2d ones.

1d ones have height 1, 3d ones are sums of 2d ones, and transposed ones have a stretched input.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quant_engine.execution.integer.form import register_packed_layer, weights_of
from quant_engine.execution.kernels import (
    Convolution,
    Epilogue,
    Grid,
    IntegerOperation,
    IntegerWeights,
    make_convolution,
)
from quant_engine.execution.kernels.epilogue import finish, scaled_sums
from quant_engine.execution.kernels.geometry import pad_codes
from quant_engine.execution.kernels.reference import ReferenceConvolution
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedSameConv2d,
)
from quant_engine.layers.convolution import edge_padding
from quant_engine.layers.same_padding import same_edges

Pair = tuple[int, int]


class _PackedConvolution:
    """A convolution that is one integer operation."""

    _layer: QuantizedConv1d | QuantizedConv2d
    _operation: IntegerOperation

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._operation.name

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        return _output_shape(self._layer, shape)


@register_packed_layer(QuantizedConv2d)
class PackedConv2d(_PackedConvolution):
    """Runs a `QuantizedConv2d` on codes of shape (N, C, H, W) or (C, H, W).

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedConv2d, kernel: str) -> None:
        assert layer.quantized_weight is not None
        left, right, top, bottom = edge_padding(layer.padding, layer.kernel_size, layer.dilation)
        convolution = Convolution(
            layer.stride,
            (left, right, top, bottom),
            layer.dilation,
            layer.groups,
            layer.padding_mode,
        )
        self._layer = layer
        weights = weights_of(layer, layer.quantized_weight)
        self._operation = make_convolution(weights, convolution, kernel)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        if codes.dim() == 4:
            return self._operation(codes, grid, epilogue)
        epilogue = _with_skip_axis(epilogue, 0)
        return self._operation(codes.unsqueeze(0), grid, epilogue).squeeze(0)


@register_packed_layer(QuantizedSameConv2d)
class PackedSameConv2d(PackedConv2d):
    """Runs a `QuantizedSameConv2d` on codes of shape (N, C, H, W) or (C, H, W).

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedSameConv2d, kernel: str) -> None:
        assert layer.quantized_weight is not None
        self._layer = layer
        convolution = Convolution(layer.stride, (0, 0, 0, 0), layer.dilation, layer.groups)
        weights = weights_of(layer, layer.quantized_weight)
        self._operation = make_convolution(weights, convolution, kernel)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        layer = self._layer
        edges = same_edges(codes.shape[-2:], layer.kernel_size, layer.stride, layer.dilation)
        padded = torch.nn.functional.pad(codes, edges, value=grid.zero_point)
        return super().__call__(padded, grid, epilogue)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        layer = self._layer
        sizes = [-(-shape[axis - 2] // layer.stride[axis]) for axis in (0, 1)]
        return (*shape[:-3], layer.out_channels, *sizes)


@register_packed_layer(QuantizedConv1d)
class PackedConv1d(_PackedConvolution):
    """Runs a `QuantizedConv1d` on codes of shape (N, C, L) or (C, L), as a 2d one of height 1.

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedConv1d, kernel: str) -> None:
        assert layer.quantized_weight is not None
        left, right = edge_padding(layer.padding, layer.kernel_size, layer.dilation)
        convolution = Convolution(
            (1, *layer.stride),
            (left, right, 0, 0),
            (1, *layer.dilation),
            layer.groups,
            layer.padding_mode,
        )
        self._layer = layer
        weights = weights_of(layer, layer.quantized_weight.unsqueeze(2))
        self._operation = make_convolution(weights, convolution, kernel)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        rows = codes
        if codes.dim() == 2:
            rows, epilogue = codes.unsqueeze(0), _with_skip_axis(epilogue, 0)
        epilogue = _with_skip_axis(epilogue, 2)
        y = self._operation(rows.unsqueeze(2), grid, epilogue).squeeze(2)
        return y if codes.dim() == 3 else y.squeeze(0)


@register_packed_layer(QuantizedConvTranspose1d)
@register_packed_layer(QuantizedConvTranspose2d)
class PackedConvTranspose:
    """Runs a transposed convolution on codes of shape (N, C, H, W) or (C, H, W), or of one axis.

    One of one axis is one of height 1. A transposed convolution is a plain one, with the kernel
    turned round, over an input whose pixels were moved `stride` apart, with zeros in between.

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(
        self, layer: QuantizedConvTranspose1d | QuantizedConvTranspose2d, kernel: str
    ) -> None:
        self._axes = len(layer.stride)
        self._stride, self._dilation = self._pair(layer.stride, 1), self._pair(layer.dilation, 1)
        self._groups = layer.groups
        self._output_padding = self._pair(layer.output_padding, 0)
        self._kernel = kernel
        sizes, padding = self._pair(layer.kernel_size, 1), self._pair(layer.padding, 0)
        self._margins = [
            d * (k - 1) - p for d, k, p in zip(self._dilation, sizes, padding, strict=True)
        ]
        self._reaches = [d * (k - 1) + 1 for d, k in zip(self._dilation, sizes, strict=True)]
        self._weights = _turned_weights(layer)
        self._operations: dict[Pair, IntegerOperation] = {}
        self._last = self._for_output(self._output_padding)

    def _pair(self, values: tuple[int, ...], of_height: int) -> Pair:
        """Return (vertical, horizontal) settings."""
        return values if len(values) == 2 else (of_height, values[0])

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._last.name

    def __call__(
        self,
        codes: Tensor,
        grid: Grid,
        epilogue: Epilogue,
        output_padding: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Run on unsigned codes."""
        chosen = self._output_padding
        if output_padding is not None:
            chosen = self._pair(output_padding, 0)
        operation = self._last = self._for_output(chosen)
        batch = codes
        if codes.dim() == self._axes + 1:
            batch, epilogue = codes.unsqueeze(0), _with_skip_axis(epilogue, 0)
        if self._axes == 1:
            batch, epilogue = batch.unsqueeze(2), _with_skip_axis(epilogue, 2)
        y = operation(self._stretched(batch, grid.zero_point), grid, epilogue)
        y = y.squeeze(2) if self._axes == 1 else y
        return y if codes.dim() == self._axes + 2 else y.squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        sizes = [
            self._stride[axis] * (shape[axis - 2] - 1)
            + 2 * self._margins[axis]
            - self._reaches[axis]
            + self._output_padding[axis]
            + 2
            for axis in range(2 - self._axes, 2)
        ]
        return (*shape[: -self._axes - 1], len(self._weights.codes), *sizes)

    def _stretched(self, codes: Tensor, zero: int) -> Tensor:
        if self._stride == (1, 1):
            return codes
        down, right = self._stride
        samples, channels, height, width = codes.shape
        result = codes.new_full(
            (samples, channels, (height - 1) * down + 1, (width - 1) * right + 1), zero
        ).contiguous(memory_format=torch.channels_last)
        result[:, :, ::down, ::right] = codes
        return result

    def _for_output(self, output_padding: Pair) -> IntegerOperation:
        """Return the plain convolution that adds so many rows and columns at the end."""
        if output_padding not in self._operations:
            (top, left), (more_below, more_right) = self._margins, output_padding
            edges = (left, left + more_right, top, top + more_below)
            convolution = Convolution((1, 1), edges, self._dilation, self._groups)
            self._operations[output_padding] = make_convolution(
                self._weights, convolution, self._kernel
            )
        return self._operations[output_padding]


@register_packed_layer(QuantizedConv3d)
class PackedConv3d:
    """Runs a `QuantizedConv3d` on codes of shape (N, C, D, H, W) or (C, D, H, W).

    The integer sums of one 2d convolution per kernel slice are added up.

    Args:
        layer: The layer.
        kernel: Not used: the sums come from the portable kernel.
    """

    def __init__(self, layer: QuantizedConv3d, kernel: str) -> None:
        codes = layer.quantized_weight
        assert codes is not None
        *edges, self._front, self._back = edge_padding(
            layer.padding, layer.kernel_size, layer.dilation
        )
        left, right, top, bottom = edges
        convolution = Convolution(
            layer.stride[1:],
            (left, right, top, bottom),
            layer.dilation[1:],
            layer.groups,
            layer.padding_mode,
        )
        self._layer = layer
        self._weights = weights_of(layer, codes)
        self._slices = [
            ReferenceConvolution(replace(self._weights, codes=part.contiguous()), convolution)
            for part in codes.unbind(2)
        ]
        self._deep = Convolution(
            edges=(0, 0, self._front, self._back), padding_mode=layer.padding_mode
        )

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._slices[0].name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        batch = codes if codes.dim() == 5 else codes.unsqueeze(0)
        if codes.dim() == 4:
            epilogue = _with_skip_axis(epilogue, 0)
        samples, _, depth, height, width = batch.shape
        padded = pad_codes(batch.flatten(3), self._deep, grid.zero_point)
        padded = padded.view(*padded.shape[:3], height, width).transpose(1, 2)
        step, distance = self._layer.stride[0], self._layer.dilation[0]
        room = depth + self._front + self._back - distance * (len(self._slices) - 1) - 1
        starts = torch.arange(room // step + 1, device=codes.device) * step
        sums = torch.zeros((), dtype=torch.int32, device=codes.device)
        for number, part in enumerate(self._slices):
            images = padded[:, starts + number * distance].flatten(0, 1)
            sums = sums + part.sums(images, grid.zero_point)
        sums = sums.reshape(samples, len(starts), *sums.shape[1:]).transpose(1, 2)
        y = finish(scaled_sums(sums, grid.scale, self._weights, axis=1), epilogue)
        return y if codes.dim() == 5 else y.squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        return _output_shape(self._layer, shape)


def _output_shape(
    layer: QuantizedConv1d | QuantizedConv2d | QuantizedConv3d, shape: tuple[int, ...]
) -> tuple[int, ...]:
    edges = edge_padding(layer.padding, layer.kernel_size, layer.dilation)
    axes, sizes = len(layer.stride), []
    for axis in range(axes):
        before, after = edges[2 * (axes - 1 - axis) :][:2]
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        room = shape[axis - axes] + before + after - reach
        sizes.append(room // layer.stride[axis] + 1)
    return (*shape[: -axes - 1], layer.out_channels, *sizes)


def _with_skip_axis(epilogue: Epilogue, axis: int) -> Epilogue:
    """Give what is added an axis of length 1, as the input got one."""
    if epilogue.skip is None:
        return epilogue
    return replace(epilogue, skip=epilogue.skip.unsqueeze(axis))


def _turned_weights(layer: QuantizedConvTranspose1d | QuantizedConvTranspose2d) -> IntegerWeights:
    """Return the codes as a plain convolution wants them: (out, in / groups, height, width)."""
    codes = layer.quantized_weight
    assert codes is not None
    codes = codes if codes.dim() == 4 else codes.unsqueeze(2)
    parts = [part.transpose(0, 1) for part in codes.chunk(layer.groups)]
    return weights_of(layer, torch.cat(parts).flip(2, 3).contiguous())
