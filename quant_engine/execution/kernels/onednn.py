"""Integer sums by oneDNN's fused kernels: product, scale, bias, activation and rounding in one go.

They ship inside PyTorch for x86-64 (`torch.ops.onednn`). On some processors, and for some shapes,
they are not exact, so nothing here is trusted unseen: a worst case is run once for the machine,
and every shape of a convolution, with all that is fused, is compared with the portable kernel
before its first use.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from quant_engine.execution.kernels.codes import HIGHEST, LOWEST, SHIFT, Grid
from quant_engine.execution.kernels.epilogue import (
    NO_ACTIVATION,
    PLAIN,
    Epilogue,
    IntegerWeights,
    finish,
    scaled_sums,
    with_counters,
    without_counters,
)
from quant_engine.execution.kernels.geometry import Convolution, pad_codes
from quant_engine.execution.kernels.reference import ReferenceConvolution, ReferenceLinear

NAME = "onednn"

_LINEAR_ACTIVATIONS = {
    NO_ACTIVATION: ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
_CONVOLUTION_ACTIVATIONS = {NO_ACTIVATION: "none", "relu": "relu"}
_KNOWN_SHAPES = 64
_LARGE_SCALE = 1e20
_UNIT = Grid(1.0, SHIFT, LOWEST, HIGHEST)

_Variant: TypeAlias = tuple[tuple[int, ...], bool, int, str, bool, bool]


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether the fused kernels are there and exact on the worst case of this machine."""
    operations = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv2d_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in operations):
        return False
    try:
        return all(_is_exact_product(terms) for terms in (4, 61, 256)) and _is_exact_window()
    except (RuntimeError, NotImplementedError):
        return False


def _is_exact_product(terms: int) -> bool:
    codes = torch.full((5, terms), HIGHEST, dtype=torch.uint8)
    codes[1::2, ::3] = LOWEST
    weights = torch.full((20, terms), -128, dtype=torch.int8)
    weights[1::2] = 127
    weights[2::3, ::2] = 127
    unit = IntegerWeights(weights, torch.ones(20, dtype=torch.float32))
    found = OnednnLinear(unit)(codes, _UNIT, PLAIN)
    return torch.equal(found, ReferenceLinear(unit).sums(codes, SHIFT).float())


def _is_exact_window() -> bool:
    weights = torch.full((20, 32, 3, 3), -128, dtype=torch.int8)
    weights[1::2] = 127
    layer = OnednnConvolution(
        IntegerWeights(weights, torch.ones(20, dtype=torch.float32)), Convolution()
    )
    return layer.is_exact_on((2, 32, 9, 9), _UNIT, PLAIN)


class _Fused:
    """y = epilogue(scale · Σ (q_x - z_x)(q_w - z_w) + bias)."""

    name = NAME

    def __init__(self, weights: IntegerWeights, groups: int = 1) -> None:
        self._weights, self._groups = weights, groups
        self._codes = with_counters(weights, groups).contiguous()
        self._ones = torch.ones(len(self._codes), dtype=torch.float32)
        self._zeros = torch.zeros(len(self._codes), dtype=torch.int32)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        weights = self._weights
        if weights.zero_point is not None:
            unscaled = replace(grid, scale=1.0)
            sums = self._run(codes, unscaled, self._ones, None, PLAIN)
            own = without_counters(sums, weights.zero_point, self._groups)
            return finish(scaled_sums(own, grid.scale, weights), epilogue)
        if not self._can_fuse(epilogue):
            return finish(self._run(codes, grid, weights.scale, weights.bias, PLAIN), epilogue)
        return self._run(codes, grid, weights.scale, weights.bias, epilogue)

    @abstractmethod
    def _can_fuse(self, epilogue: Epilogue) -> bool:
        """Whether the kernel does it all."""

    @abstractmethod
    def _run(
        self, codes: Tensor, grid: Grid, scale: Tensor, bias: Tensor | None, epilogue: Epilogue
    ) -> Tensor:
        """Run the kernel on all channels, also those of ones."""


class OnednnLinear(_Fused):
    """A fully connected layer on unsigned codes (rows, in_features).

    Args:
        weights: Codes of shape (out_features, in_features).
    """

    def __init__(self, weights: IntegerWeights) -> None:
        super().__init__(weights)
        self._packed = torch.ops.onednn.qlinear_prepack(self._codes, None)

    def _can_fuse(self, epilogue: Epilogue) -> bool:
        """Whether the kernel does it all: it adds values, not codes, and then only a ReLU."""
        if epilogue.skip is None:
            return epilogue.activation in _LINEAR_ACTIVATIONS
        return epilogue.skip_grid is None and epilogue.activation in (NO_ACTIVATION, "relu")

    def _run(
        self, codes: Tensor, grid: Grid, scale: Tensor, bias: Tensor | None, epilogue: Epilogue
    ) -> Tensor:
        name, algorithm = _LINEAR_ACTIVATIONS[epilogue.activation]
        output = _output(epilogue.output)
        input_scale, scale = _scales(grid, scale)
        operands = (codes, input_scale, grid.zero_point, self._packed, scale, self._zeros)
        y: Tensor
        if epilogue.skip is None:
            y = torch.ops.onednn.qlinear_pointwise(*operands, bias, *output, name, [], algorithm)
        else:
            y = torch.ops.onednn.qlinear_pointwise.binary(
                *operands, epilogue.skip, bias, *output, 1.0, 0, "add", 1.0, name, [], algorithm
            )
        return _limited(y, epilogue.output)


class OnednnConvolution(_Fused):
    """A convolution on unsigned codes (N, C, H, W).

    Args:
        weights: Codes of shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.
    """

    def __init__(self, weights: IntegerWeights, convolution: Convolution) -> None:
        super().__init__(weights, convolution.groups)
        self._convolution = convolution
        left, _, top, _ = convolution.edges
        padding = [top, left] if convolution.is_plainly_padded else [0, 0]
        self._geometry = (
            list(convolution.stride),
            padding,
            list(convolution.dilation),
            convolution.groups,
        )
        self._packed = torch.ops.onednn.qconv_prepack(
            self._codes, self._ones, 1.0, 0, *self._geometry, None
        )
        self._exact: dict[_Variant, bool] = {}

    def is_exact_on(self, shape: tuple[int, ...], grid: Grid, epilogue: Epilogue) -> bool:
        """Whether the kernel agrees with the portable one on random codes of this shape.

        Behind one operator stand many: other ones for a zero point of 0, for what is fused, and for
        other numbers of threads. Some are wrong where their neighbours are right.
        """
        variant = (shape, not grid.zero_point, torch.get_num_threads(), *self._fused(epilogue))
        found = self._exact.get(variant)
        if found is None:
            found = self._compare(shape, grid.zero_point, epilogue)
            if len(self._exact) >= _KNOWN_SHAPES:
                self._exact = {}
            self._exact[variant] = found
        return found

    def _fused(self, epilogue: Epilogue) -> tuple[str, bool, bool]:
        """Return what of an epilogue the kernel does: activation, rounding, adding."""
        if self._weights.zero_point is not None or not self._can_fuse(epilogue):
            return NO_ACTIVATION, False, False
        return epilogue.activation, epilogue.output is not None, epilogue.skip is not None

    def _compare(self, shape: tuple[int, ...], zero_point: int, epilogue: Epilogue) -> bool:
        height, width = self._weights.codes.shape[2:]
        convolution = self._convolution
        if convolution.is_plainly_padded and convolution.has_window_of_padding(
            (height, width), (shape[2], shape[3])
        ):
            # The kernel reads beyond its memory then, and may take the process with it: nothing
            # to be found out by running it.
            return False
        generator = torch.Generator().manual_seed(0)
        grid = Grid(1.0, zero_point, LOWEST, HIGHEST)
        codes = _random_codes(shape, generator)
        unit = IntegerWeights(self._codes, self._ones)
        sums = ReferenceConvolution(unit, convolution).sums(codes, zero_point).float()
        # Scales are powers of two and the bias whole, so the portable result has no rounding but
        # the last one.
        bias = self._weights.bias
        if bias is not None and len(bias) == len(self._codes):
            bias = torch.randint(-999, 999, bias.shape, generator=generator).float()
            sums += bias.view(-1, 1, 1)
        else:
            bias = None
        activation, is_rounded, is_added = self._fused(epilogue)
        step = 2.0 ** int(sums.abs().max().clamp(min=128).log2() - 6) if sums.numel() else 1.0
        trial = Epilogue(activation, Grid(step, 100, LOWEST, HIGHEST) if is_rounded else None)
        if is_added:
            skip = _random_codes(tuple(sums.shape), generator)
            trial = (
                replace(trial, skip=skip, skip_grid=Grid(step / 4, 90, LOWEST, HIGHEST))
                if is_rounded
                else replace(trial, skip=skip.float())
            )
        found = self._run(codes, grid, self._ones, bias, trial)
        return torch.equal(found, finish(sums, trial))

    def _can_fuse(self, epilogue: Epilogue) -> bool:
        """Whether the kernel does it all: codes are added to codes, values to values."""
        if epilogue.activation not in _CONVOLUTION_ACTIVATIONS:
            return False
        return epilogue.skip is None or (epilogue.skip_grid is None) == (epilogue.output is None)

    def _run(
        self, codes: Tensor, grid: Grid, scale: Tensor, bias: Tensor | None, epilogue: Epilogue
    ) -> Tensor:
        convolution = self._convolution
        if not convolution.is_plainly_padded:
            codes = pad_codes(codes, convolution, grid.zero_point)
        codes = codes.contiguous(memory_format=torch.channels_last)
        input_scale, scale = _scales(grid, scale)
        operands = (codes, input_scale, grid.zero_point, self._packed, scale, self._zeros)
        output = _output(epilogue.output)
        name = _CONVOLUTION_ACTIVATIONS[epilogue.activation]
        y: Tensor
        if epilogue.skip is None:
            y = torch.ops.onednn.qconv2d_pointwise(
                *operands, bias, *self._geometry, *output, name, [None], ""
            )
        else:
            # The kernel writes over what it adds.
            skip = epilogue.skip.clone(memory_format=torch.channels_last)
            grid = epilogue.skip_grid or _UNIT
            zero_point = 0 if epilogue.skip_grid is None else grid.zero_point
            y = torch.ops.onednn.qconv2d_pointwise.binary(
                *(*operands, skip, bias, *self._geometry, *output),
                *(grid.scale, zero_point, "sum", 1.0, name, [None], ""),
            )
        return _limited(y, epilogue.output)


def _random_codes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(LOWEST, HIGHEST + 1, shape, dtype=torch.uint8, generator=generator)


def _scales(grid: Grid, scale: Tensor) -> tuple[float, Tensor]:
    """Return the scales of input and weight; the kernel takes the sum times the first alone."""
    if grid.scale < _LARGE_SCALE:
        return grid.scale, scale
    return 1.0, scale * grid.scale


def _output(grid: Grid | None) -> tuple[float, int, torch.dtype]:
    if grid is None:
        return 1.0, 0, torch.float32
    return grid.scale, grid.zero_point, torch.uint8


def _limited(y: Tensor, grid: Grid | None) -> Tensor:
    """Keep codes inside a grid that is narrower than a byte."""
    if grid is None or (grid.lowest, grid.highest) == (LOWEST, HIGHEST):
        return y
    return y.clamp_(grid.lowest, grid.highest)
