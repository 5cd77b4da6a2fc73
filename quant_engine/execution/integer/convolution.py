"""Integer arithmetic of convolutions: 1d ones have height 1, transposed ones a stretched input."""

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
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedSameConv2d,
)
from quant_engine.layers.convolution import edge_padding
from quant_engine.layers.same_padding import same_edges

Pair = tuple[int, int]


@register_packed_layer(QuantizedConv2d)
class PackedConv2d:
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

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._operation.name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        if codes.dim() == 4:
            return self._operation(codes, grid, epilogue)
        epilogue = _with_skip_axis(epilogue, 0)
        return self._operation(codes.unsqueeze(0), grid, epilogue).squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        return _output_shape(self._layer, shape, 2)


@register_packed_layer(QuantizedSameConv2d)
class PackedSameConv2d:
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

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._operation.name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        layer = self._layer
        edges = same_edges(codes.shape[-2:], layer.kernel_size, layer.stride, layer.dilation)
        padded = torch.nn.functional.pad(codes, edges, value=grid.zero_point)
        if codes.dim() == 4:
            return self._operation(padded, grid, epilogue)
        epilogue = _with_skip_axis(epilogue, 0)
        return self._operation(padded.unsqueeze(0), grid, epilogue).squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        layer = self._layer
        sizes = [-(-shape[axis - 2] // layer.stride[axis]) for axis in (0, 1)]
        return (*shape[:-3], layer.out_channels, *sizes)


@register_packed_layer(QuantizedConv1d)
class PackedConv1d:
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

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._operation.name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        rows = codes
        if codes.dim() == 2:
            rows, epilogue = codes.unsqueeze(0), _with_skip_axis(epilogue, 0)
        epilogue = _with_skip_axis(epilogue, 2)
        y = self._operation(rows.unsqueeze(2), grid, epilogue).squeeze(2)
        return y if codes.dim() == 3 else y.squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        return _output_shape(self._layer, shape, 1)


@register_packed_layer(QuantizedConvTranspose2d)
class PackedConvTranspose2d:
    """Runs a `QuantizedConvTranspose2d` on codes of shape (N, C, H, W) or (C, H, W).

    A transposed convolution is a plain one, with the kernel turned round, over an input whose
    pixels were moved `stride` apart, with zeros in between.

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedConvTranspose2d, kernel: str) -> None:
        self._stride, self._dilation, self._groups = layer.stride, layer.dilation, layer.groups
        self._output_padding = layer.output_padding
        self._kernel = kernel
        self._margins = [
            d * (k - 1) - p
            for d, k, p in zip(layer.dilation, layer.kernel_size, layer.padding, strict=True)
        ]
        self._reaches = [
            d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        self._weights = _turned_weights(layer)
        self._operations: dict[Pair, IntegerOperation] = {}
        self._last = self._for_output(layer.output_padding)

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._last.name

    def __call__(
        self,
        codes: Tensor,
        grid: Grid,
        epilogue: Epilogue,
        output_padding: Pair | None = None,
    ) -> Tensor:
        """Run on unsigned codes."""
        operation = self._for_output(output_padding or self._output_padding)
        self._last = operation
        batch = codes
        if codes.dim() == 3:
            batch, epilogue = codes.unsqueeze(0), _with_skip_axis(epilogue, 0)
        y = operation(self._stretched(batch, grid.zero_point), grid, epilogue)
        return y if codes.dim() == 4 else y.squeeze(0)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for codes of a shape."""
        sizes = [
            self._stride[axis] * (shape[axis - 2] - 1)
            + 2 * self._margins[axis]
            - self._reaches[axis]
            + self._output_padding[axis]
            + 2
            for axis in (0, 1)
        ]
        return (*shape[:-3], len(self._weights.codes), *sizes)

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


def _output_shape(
    layer: QuantizedConv1d | QuantizedConv2d, shape: tuple[int, ...], axes: int
) -> tuple[int, ...]:
    edges = edge_padding(layer.padding, layer.kernel_size, layer.dilation)
    sizes = []
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


def _turned_weights(layer: QuantizedConvTranspose2d) -> IntegerWeights:
    """Return the codes as a plain convolution wants them: (out, in / groups, height, width)."""
    assert layer.quantized_weight is not None
    parts = [part.transpose(0, 1) for part in layer.quantized_weight.chunk(layer.groups)]
    return weights_of(layer, torch.cat(parts).flip(2, 3).contiguous())
