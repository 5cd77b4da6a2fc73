"""Integer arithmetic of convolutions, all by 2d ones.

1d ones have height 1, 3d ones are sums of 2d ones, and transposed ones have a stretched input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from quant_engine.execution.integer.form import register_packed_layer, weights_of
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.kernels.dispatch import IntegerOperation, make_convolution
from quant_engine.execution.kernels.epilogue import Epilogue, finish, scaled_sums
from quant_engine.execution.kernels.geometry import Convolution, Pair, pad_codes
from quant_engine.execution.kernels.reference import ReferenceConvolution
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedSameConv2d,
)
from quant_engine.layers.convolution import edge_padding, same_edges

_Operation: TypeAlias = Callable[[Tensor, Grid, Epilogue], Tensor]


@register_packed_layer(QuantizedConv1d)
@register_packed_layer(QuantizedConv2d)
@register_packed_layer(QuantizedSameConv2d)
class PackedConvolution:
    """Runs a convolution on codes of shape (N, C, H, W) or (C, H, W), or of one axis.

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedConv1d | QuantizedConv2d, kernel: str) -> None:
        codes = layer.quantized_weight
        assert codes is not None
        edges = [*edge_padding(layer.padding, layer.kernel_size, layer.dilation), 0, 0]
        if isinstance(layer, QuantizedSameConv2d):
            edges = [0, 0, 0, 0]  # it pads by the size of its input, when it runs
        left, right, top, bottom = edges[:4]
        convolution = Convolution(
            _pair(layer.stride, 1),
            (left, right, top, bottom),
            _pair(layer.dilation, 1),
            layer.groups,
            layer.padding_mode,
        )
        weights = weights_of(layer, codes if codes.dim() == 4 else codes.unsqueeze(2))
        self._layer = layer
        self._operation = make_convolution(weights, convolution, kernel)

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""
        return self._operation.name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        layer = self._layer
        if isinstance(layer, QuantizedSameConv2d):
            edges = same_edges(codes.shape[-2:], layer.kernel_size, layer.stride, layer.dilation)
            codes = torch.nn.functional.pad(codes, edges, value=grid.zero_point)
        return _run_on_images(self._operation, len(layer.stride), codes, grid, epilogue)


@register_packed_layer(QuantizedConvTranspose1d)
@register_packed_layer(QuantizedConvTranspose2d)
class PackedConvTranspose:
    """Runs a transposed convolution on codes of shape (N, C, H, W) or (C, H, W), or of one axis.

    A transposed convolution is a plain one, with the kernel turned round, over an input whose
    pixels were moved `stride` apart, with zeros in between.

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(
        self, layer: QuantizedConvTranspose1d | QuantizedConvTranspose2d, kernel: str
    ) -> None:
        codes = layer.quantized_weight
        assert codes is not None
        codes = codes if codes.dim() == 4 else codes.unsqueeze(2)
        parts = [part.transpose(0, 1) for part in codes.chunk(layer.groups)]
        self._weights = weights_of(layer, torch.cat(parts).flip(2, 3).contiguous())
        self._layer, self._kernel = layer, kernel
        self._stride, self._dilation = _pair(layer.stride, 1), _pair(layer.dilation, 1)
        sizes, padding = _pair(layer.kernel_size, 1), _pair(layer.padding, 0)
        self._margins = [
            d * (k - 1) - p for d, k, p in zip(self._dilation, sizes, padding, strict=True)
        ]
        self._operations: dict[Pair, IntegerOperation] = {}
        self._last = self._for_output(_pair(layer.output_padding, 0))

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
        layer = self._layer
        operation = self._for_output(_pair(output_padding or layer.output_padding, 0))
        self._last = operation

        def run(images: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
            return operation(self._stretched(images, grid.zero_point), grid, epilogue)

        return _run_on_images(run, len(layer.stride), codes, grid, epilogue)

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
            convolution = Convolution((1, 1), edges, self._dilation, self._layer.groups)
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
        return _run_on_images(self._run, 3, codes, grid, epilogue)

    def _run(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on codes (N, C, D, H, W)."""
        samples, _, depth, height, width = codes.shape
        padded = pad_codes(codes.flatten(3), self._deep, grid.zero_point)
        padded = padded.view(*padded.shape[:3], height, width).transpose(1, 2)
        step, distance = self._layer.stride[0], self._layer.dilation[0]
        room = depth + self._front + self._back - distance * (len(self._slices) - 1) - 1
        starts = torch.arange(room // step + 1, device=codes.device) * step
        sums = torch.zeros((), dtype=torch.int32, device=codes.device)
        for number, part in enumerate(self._slices):
            images = padded[:, starts + number * distance].flatten(0, 1)
            sums = sums + part.sums(images, grid.zero_point)
        sums = sums.reshape(samples, len(starts), *sums.shape[1:]).transpose(1, 2)
        return finish(scaled_sums(sums, grid.scale, self._weights), epilogue)


def _pair(values: tuple[int, ...], of_height: int) -> Pair:
    """Return (vertical, horizontal) settings."""
    return (values[0], values[1]) if len(values) == 2 else (of_height, values[0])


def _run_on_images(
    operation: _Operation, axes: int, codes: Tensor, grid: Grid, epilogue: Epilogue
) -> Tensor:
    """Give codes the axes of a batch of images that they lack, and take them off the result."""
    added = [0] if codes.dim() == axes + 1 else []
    if axes == 1:
        added.append(2)
    for axis in added:
        codes = codes.unsqueeze(axis)
        if epilogue.skip is not None:
            epilogue = replace(epilogue, skip=epilogue.skip.unsqueeze(axis))
    y = operation(codes, grid, epilogue)
    for axis in reversed(added):
        y = y.squeeze(axis)
    return y
