"""Integer sums with what every build of torch has; exact on every machine.

Products of int8 codes are summed in int32 by `torch._int_mm` where a probe of the machine finds it
exact, and otherwise in pieces that float32 holds exactly. Convolutions become one such product over
unfolded windows; with groups, a float convolution over integers small enough to be exact.
"""

from __future__ import annotations

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
from quant_engine.execution.kernels.geometry import Convolution, pad_codes

NAME = "portable"

LARGEST_SUM = (1 << 31) - 1
_LARGEST_PRODUCT = 255 * 255  # (code - zero point) of an input times that of a weight
LONGEST_SUM = LARGEST_SUM // _LARGEST_PRODUCT
"""Products in a sum that int32 is sure to hold, whatever codes and zero points are."""

_EXACT_IN_FLOAT32 = 1 << 24
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
        return _multiply_in_float(a, b)
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


def _multiply_in_float(a: Tensor, b: Tensor) -> Tensor:
    """Multiply in float32, in pieces whose sums it holds exactly."""
    piece = _EXACT_IN_FLOAT32 // (128 * 128)
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], piece):
        part = slice(start, start + piece)
        total += (a[:, part].float() @ b[:, part].float().t()).to(torch.int32)
    return total


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


def convolve_codes(
    codes: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Convolve unsigned codes with int8 codes: Σ (q - zero point)·w, exact.

    Args:
        codes: Unsigned codes, uint8, shape (N, C, H, W).
        zero_point: Unsigned code of 0.0; also what is padded with.
        weight: Codes, int8, shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.

    Returns:
        Sums, int32, shape (N, out_channels, height, width), channels_last.
    """
    codes = pad_codes(codes, convolution, zero_point)
    size = _output_size(codes, weight, convolution)
    if not codes.shape[0]:
        return torch.zeros(0, weight.shape[0], *size, dtype=torch.int32, device=codes.device)
    if convolution.groups == 1:
        return _convolve_by_product(codes, zero_point, weight, convolution)
    if codes.device.type == "cpu":
        return _convolve_in_float(codes, zero_point, weight, convolution)
    return convolve_by_group(codes, zero_point, weight, convolution)


def _output_size(padded: Tensor, weight: Tensor, convolution: Convolution) -> list[int]:
    return [
        (padded.shape[2 + axis] - convolution.dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
        // convolution.stride[axis]
        + 1
        for axis in (0, 1)
    ]


def _convolve_by_product(
    padded: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Lay every window out as one row, then multiply."""
    windows = as_signed(padded).permute(0, 2, 3, 1)
    for axis in (0, 1):
        step = convolution.dilation[axis]
        reach = step * (weight.shape[2 + axis] - 1) + 1
        windows = windows.unfold(1 + axis, reach, convolution.stride[axis])[..., ::step]
    samples, height, width = windows.shape[:3]
    rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(samples * height * width, -1)
    columns = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
    sums = multiply_codes(rows, columns)
    sums -= (zero_point - SHIFT) * columns.sum(dim=1, dtype=torch.int32)
    return sums.view(samples, height, width, -1).permute(0, 3, 1, 2)


def _convolve_in_float(
    padded: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Convolve integers in a float type that holds every sum of them exactly."""
    largest = weight[0].numel() * 255 * 128
    is_small = largest < _EXACT_IN_FLOAT32 and has_exact_float_convolution()
    dtype = torch.float32 if is_small else torch.float64
    sums = F.conv2d(
        padded.to(dtype) - zero_point,
        weight.to(dtype),
        None,
        convolution.stride,
        0,
        convolution.dilation,
        convolution.groups,
    )
    return sums.to(torch.int32)


@lru_cache(maxsize=1)
def has_exact_float_convolution() -> bool:
    """Whether torch's float32 convolution is a plain sum of products on this machine.

    Algorithms such as Winograd's compute with fractions and are not exact on integers.
    """
    x = torch.full((2, 16, 12, 12), 255.0, dtype=torch.float32)
    x[:, ::3] = -254.0
    for groups in (2, 16):
        w = torch.full((16, 16 // groups, 3, 3), -128.0, dtype=torch.float32)
        w[::2, :, 1:] = 127.0
        exact = F.conv2d(x.double(), w.double(), padding=1, groups=groups)
        if not torch.equal(F.conv2d(x, w, padding=1, groups=groups).double(), exact):
            return False
    return True


def convolve_by_group(
    padded: Tensor, zero_point: int, weight: Tensor, convolution: Convolution
) -> Tensor:
    """Convolve each group by itself; for devices whose float convolution is not known to be exact.

    Args:
        padded: Unsigned codes, padded, shape (N, C, H, W).
        zero_point: Unsigned code of 0.0.
        weight: As in `convolve_codes`.
        convolution: Everything else; its padding is ignored.
    """
    parts = zip(
        padded.chunk(convolution.groups, dim=1), weight.chunk(convolution.groups), strict=True
    )
    return torch.cat([_convolve_by_product(x, zero_point, w, convolution) for x, w in parts], dim=1)


class ReferenceLinear:
    """y = epilogue(scale · Σ (q_x - z_x)(q_w - z_w) + bias) on matrices.

    Args:
        weights: Codes of shape (out_features, in_features).
    """

    name = NAME

    def __init__(self, weights: IntegerWeights) -> None:
        self._weights = weights
        counted = weights if weights.zero_point is None else with_counters(weights)
        self._codes = counted.codes
        self._totals = counted.codes.sum(dim=1, dtype=torch.int32)

    def sums(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return Σ (q_x - z_x)(q_w - z_w), int32, exact, for unsigned codes (rows, terms)."""
        sums = multiply_codes(as_signed(codes), self._codes)
        sums -= (zero_point - SHIFT) * self._totals
        if self._weights.zero_point is None:
            return sums
        return without_counters(sums, self._weights.zero_point, 1, axis=1)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes (rows, in_features)."""
        sums = self.sums(codes, grid.zero_point)
        return finish(scaled_sums(sums, grid.scale, self._weights, axis=1), epilogue)


class ReferenceConvolution:
    """The same over the windows of a convolution.

    Args:
        weights: Codes of shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.
    """

    name = NAME

    def __init__(self, weights: IntegerWeights, convolution: Convolution) -> None:
        self._weights = weights
        self._convolution = convolution
        counted = weights
        if weights.zero_point is not None:
            counted = with_counters(weights, convolution.groups)
        self._codes = counted.codes

    def sums(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return Σ (q_x - z_x)(q_w - z_w), int32, exact, for unsigned codes (N, C, H, W)."""
        sums = convolve_codes(codes, zero_point, self._codes, self._convolution)
        if self._weights.zero_point is None:
            return sums
        groups = self._convolution.groups
        return without_counters(sums, self._weights.zero_point, groups, axis=1)

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes (N, C, H, W)."""
        sums = self.sums(codes, grid.zero_point)
        return finish(scaled_sums(sums, grid.scale, self._weights, axis=1), epilogue)
