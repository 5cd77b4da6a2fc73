"""Integer sums with what every build of torch has; exact on every machine.

Products of int8 codes are summed in int32 by `torch._int_mm` where the processor has instructions
for them and a probe finds it exact, and otherwise by float products short enough to be exact (see
`float_sums`). With integer products, convolutions become one product over unfolded windows, but for
those with groups on a CPU.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_engine.execution.kernels.codes import SHIFT, Grid, as_signed
from quant_engine.execution.kernels.epilogue import (
    Epilogue,
    IntegerWeights,
    finish,
    scaled_sums,
    with_counters,
    without_counters,
)
from quant_engine.execution.kernels.float_sums import FloatConvolution, FloatProduct
from quant_engine.execution.kernels.geometry import Convolution, pad_codes

NAME = "portable"

LARGEST_SUM = (1 << 31) - 1
_LARGEST_PRODUCT = 255 * 255  # (code - zero point) of an input times that of a weight
LONGEST_SUM = LARGEST_SUM // _LARGEST_PRODUCT
"""Products in a sum that int32 is sure to hold, whatever codes and zero points are."""

_ALIGNMENT = 8
_CUDA_MIN_ROWS = 17


def multiply_codes(a: Tensor, b: Tensor) -> Tensor:
    """Multiply int8 matrices with exact int32 sums.

    Args:
        a: Codes, shape (rows, terms).
        b: Codes, shape (columns, terms).

    Returns:
        a bᵀ, int32, shape (rows, columns).

    Example:
        >>> multiply_codes(
        ...     torch.tensor([[-128, 127]], dtype=torch.int8),
        ...     torch.tensor([[127, 127]], dtype=torch.int8),
        ... )
        tensor([[-127]], dtype=torch.int32)
    """
    if not (a.shape[0] and b.shape[0] and a.shape[1]):
        return torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    if a.shape[1] == 1:
        # `torch._int_mm` returns unwritten memory for products of a single term (torch 2.13, CPU).
        return a.to(torch.int32) * b.to(torch.int32).t()
    if not has_exact_int_mm(a.device.type):
        return FloatProduct(b)(a.view(torch.uint8).bitwise_xor(SHIFT), SHIFT).to(torch.int32)
    if a.device.type == "cpu":
        return torch._int_mm(a.contiguous(), b.contiguous().t())
    return multiply_aligned(a, b)


def multiply_aligned(a: Tensor, b: Tensor) -> Tensor:
    """Multiply as `multiply_codes` does, within the size limits of `torch._int_mm` on CUDA.

    There rows must be more than 16, and terms and columns multiples of 8; zeros fill up the rest.
    """
    rows, columns = a.shape[0], b.shape[0]
    extra_terms = -a.shape[1] % _ALIGNMENT
    a = F.pad(a, (0, extra_terms, 0, max(0, _CUDA_MIN_ROWS - rows)))
    b = F.pad(b, (0, extra_terms, 0, -columns % _ALIGNMENT))
    return torch._int_mm(a.contiguous(), b.contiguous().t())[:rows, :columns]


@lru_cache(maxsize=8)
def has_exact_int_mm(device: str) -> bool:
    """Whether `torch._int_mm` sums without saturation on this kind of device.

    Processors without VNNI have instructions that add pairs of products in 16 bits; the worst case
    shows whether they are in use.
    """
    if device not in ("cpu", "cuda"):
        return False
    a = torch.full((32, 256), -128, dtype=torch.int8)
    a[1::2] = 127
    b = torch.full((16, 256), -128, dtype=torch.int8)
    b[1::2] = 127
    b[2::3, ::2] = -127
    try:
        found = torch._int_mm(a.to(device), b.to(device).t())
    except (RuntimeError, NotImplementedError):
        return False
    return torch.equal(found.cpu().long(), a.long() @ b.long().t())


def has_integer_products(device: str) -> bool:
    """Whether `torch._int_mm` is exact here, and more than a plain loop over bytes."""
    return (device != "cpu" or torch.cpu._is_vnni_supported()) and has_exact_int_mm(device)


def convolve_codes(
    codes: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Convolve unsigned codes with int8 codes: Σ (q - zero point)·w, exact, by integer products.

    Args:
        codes: Unsigned codes, uint8, shape (N, C, H, W).
        zero_point: Unsigned code of 0.0; also what is padded with.
        weight: Codes, int8, shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.

    Returns:
        Sums, int32, shape (N, out_channels, height, width), channels_last.
    """
    codes = pad_codes(codes, convolution, zero_point)
    groups = convolution.groups
    parts = zip(codes.chunk(groups, dim=1), weight.chunk(groups), strict=True)
    sums = [_convolve_by_product(x, zero_point, w, convolution) for x, w in parts]
    return sums[0] if groups == 1 else torch.cat(sums, dim=1)


def _convolve_by_product(
    padded: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Lay every window out as one row, then multiply."""
    windows = as_signed(padded).permute(0, 2, 3, 1)
    for axis in (0, 1):
        step = convolution.dilation[axis]
        reach = step * (weight.shape[2 + axis] - 1) + 1
        windows = windows.unfold(1 + axis, reach, convolution.stride[axis])[..., ::step]
    rows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
    columns = weight.permute(0, 2, 3, 1).flatten(1)
    sums = multiply_codes(rows, columns)
    sums -= (zero_point - SHIFT) * columns.sum(dim=1, dtype=torch.int32)
    return sums.view(*windows.shape[:3], len(columns)).permute(0, 3, 1, 2)


class _Reference:
    """y = epilogue(scale · Σ (q_x - z_x)(q_w - z_w) + bias)."""

    name = NAME

    def __init__(self, weights: IntegerWeights, groups: int = 1) -> None:
        self._weights, self._groups = weights, groups
        self._codes = with_counters(weights, groups)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        sums = self._whole_sums(codes, grid.zero_point)
        return finish(scaled_sums(sums, grid.scale, self._weights), epilogue)

    def sums(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return Σ (q_x - z_x)(q_w - z_w), int32, exact, for unsigned codes."""
        return self._whole_sums(codes, zero_point).to(torch.int32)

    def _whole_sums(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return the sums as integers, held in int32 or float32."""
        sums = self._sums_of_codes(codes, zero_point)
        points = self._weights.zero_point
        if points is None:
            return sums
        return without_counters(sums.to(torch.int32), points, self._groups)

    @abstractmethod
    def _sums_of_codes(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return Σ (q_x - z_x) q_w as integers, held in int32 or float32."""


class ReferenceLinear(_Reference):
    """A fully connected layer on unsigned codes (rows, in_features).

    Args:
        weights: Codes of shape (out_features, in_features).
    """

    def __init__(self, weights: IntegerWeights) -> None:
        super().__init__(weights)
        self._totals = self._codes.sum(dim=1, dtype=torch.int32)
        self._product = None
        if self._codes.shape[1] and not has_integer_products(self._codes.device.type):
            self._product = FloatProduct(self._codes)

    def _sums_of_codes(self, codes: Tensor, zero_point: int) -> Tensor:
        if self._product is not None:
            return self._product(codes, zero_point)
        sums = multiply_codes(as_signed(codes), self._codes)
        return sums.sub_((zero_point - SHIFT) * self._totals)


class ReferenceConvolution(_Reference):
    """A convolution on unsigned codes (N, C, H, W).

    Args:
        weights: Codes of shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.
    """

    def __init__(self, weights: IntegerWeights, convolution: Convolution) -> None:
        super().__init__(weights, convolution.groups)
        self._convolution = convolution
        self._product = None
        is_slow = convolution.groups > 1 or not has_integer_products("cpu")
        if is_slow and self._codes.device.type == "cpu" and self._codes.numel():
            self._product = FloatConvolution(self._codes, convolution)

    def _sums_of_codes(self, codes: Tensor, zero_point: int) -> Tensor:
        if self._product is not None:
            return self._product(codes, zero_point)
        return convolve_codes(codes, zero_point, self._codes, self._convolution)
