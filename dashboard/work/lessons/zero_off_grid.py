"""The lesson “Why must zero be exact?”: one convolution on a grid with and without a mark at 0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

import quant_engine
from quant_engine.scheme import TensorScheme

CHANNELS, SIDE, KERNEL = 8, 12, 3
BITS = 4
LEAST = 0.2
"""Smallest number of the made-up input: none is 0, so that only the padding is."""
SHOWN = 12
"""So many numbers of the input are followed."""
BRIGHT = 0.9
"""Outputs inside from this quantile on count as the largest."""


@dataclass(frozen=True, slots=True)
class OffGrid:
    """What a convolution computes from an input that was rounded to shifted marks.

    Attributes:
        errors: How far each output is off, in steps of the input's grid, (rows, columns).
        border: Root of the mean square of the errors of outputs whose filter reaches into the
            padding, in steps.
        inside: The same of all others.
        brightest: The same of the largest tenth of these.
        marks: Every value that the shifted grid has.
        values: Some numbers of the input, 0 of the padding first.
        codes: Their codes.
        stand_ins: What the codes stand for.
    """

    errors: tuple[tuple[float, ...], ...]
    border: float
    inside: float
    brightest: float
    marks: tuple[float, ...]
    values: tuple[float, ...]
    codes: tuple[int, ...]
    stand_ins: tuple[float, ...]


@lru_cache(maxsize=16)
def run_convolution(shift: float) -> OffGrid:
    """Round an input and its padding to marks that lie `shift` steps beside 0, and filter it.

    The filter takes the mean of 3 × 3 numbers of all channels.

    Args:
        shift: Distance of the nearest mark from 0, in steps, 0 to 0.5.
    """
    generator = torch.Generator().manual_seed(3)
    numbers = torch.rand(1, CHANNELS, SIDE, SIDE, generator=generator)
    image = pad(LEAST + (1 - LEAST) * numbers, (KERNEL // 2,) * 4)
    kernel = torch.full((1, CHANNELS, KERNEL, KERNEL), 1 / (CHANNELS * KERNEL**2))
    scheme = TensorScheme(bits=BITS, symmetric=False)
    grid = quant_engine.choose_qparams(torch.tensor(0.0), image.max(), scheme)
    step, offset = float(grid.scale), shift * float(grid.scale)
    codes = quant_engine.quantize(image - offset, grid)
    rounded = quant_engine.dequantize(codes, grid) + offset
    output = conv2d(image, kernel)[0, 0]
    errors = (conv2d(rounded, kernel)[0, 0] - output) / step
    is_inside = torch.zeros_like(errors, dtype=torch.bool)
    is_inside[1:-1, 1:-1] = True
    is_bright = is_inside & (output >= output[is_inside].quantile(BRIGHT))
    rows = [tensor.flatten() for tensor in (image, codes, rounded)]
    inner = image.flatten().nonzero().flatten()[:: image.numel() // SHOWN][: SHOWN - 1]
    places = torch.cat([torch.zeros(1, dtype=torch.int64), inner])
    values, some_codes, stand_ins = (tuple(row[places].tolist()) for row in rows)
    marks = quant_engine.dequantize(torch.arange(scheme.qmin, scheme.qmax + 1), grid) + offset
    return OffGrid(
        tuple(map(tuple, errors.tolist())),
        _rms(errors[~is_inside]),
        _rms(errors[is_inside]),
        _rms(errors[is_bright]),
        tuple(marks.tolist()),
        values,
        some_codes,
        stand_ins,
    )


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())
