"""Integer sums in float arithmetic that holds every one of them exactly.

Float32 holds all integers up to 2**24. Where no sum of a layer's products can leave that range, nor
a part of one, float products of the codes are the integer sums bit for bit, in whatever order they
are added. On processors without instructions for products of bytes this is the fastest exact way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_engine.execution.kernels.geometry import Convolution, pad_codes

EXACT_IN_FLOAT32 = 1 << 24
"""Float32 holds all integers up to this one."""

_FARTHEST = 255  # an unsigned code from its zero point


def exact_pieces(weight: Tensor) -> list[Tensor]:
    """Cut a weight along axis 1 until float32 holds the sums of every piece, whatever the inputs.

    Args:
        weight: Codes, int8, shape (outputs, inputs, ...).

    Returns:
        Views of the weight; empty if there are no such pieces.

    Example:
        >>> [len(piece[0]) for piece in exact_pieces(torch.full((1, 1000), 127, dtype=torch.int8))]
        [500, 500]
    """
    for number in range(1, weight.shape[1] + 1):
        pieces = list(weight.chunk(number, dim=1))
        if all(_largest_sum(piece) < EXACT_IN_FLOAT32 for piece in pieces):
            return pieces
    return []


def _largest_sum(weight: Tensor) -> int:
    totals = weight.flatten(1).to(torch.int16).abs().sum(dim=1)
    return _FARTHEST * (int(totals.max()) if totals.numel() else 0)


def _sum_of_pieces(
    multiply: Callable[[Tensor, Tensor], Tensor], x: Tensor, pieces: Sequence[Tensor]
) -> Tensor:
    """Multiply inputs with the pieces of a weight: float32 if there is one piece, else int32."""
    if len(pieces) == 1:
        return multiply(x, pieces[0])
    starts = [0, *accumulate(piece.shape[1] for piece in pieces)]
    total: Tensor | None = None
    for (start, end), piece in zip(pairwise(starts), pieces, strict=True):
        sums = multiply(x[:, start:end], piece).to(torch.int32)
        total = sums if total is None else total.add_(sums)
    assert total is not None
    return total


def _distances(codes: Tensor, zero_point: int, dtype: torch.dtype) -> Tensor:
    """Return how far unsigned codes lie from the zero point; images with channels last."""
    layout = torch.channels_last if codes.dim() == 4 else torch.preserve_format
    x = codes.to(dtype, memory_format=layout)
    return x.sub_(zero_point) if zero_point else x


class FloatProduct:
    """Σ (q_x - z_x) q_w over rows of codes.

    Args:
        weight: Codes, int8, shape (columns, terms), at least one term.
    """

    def __init__(self, weight: Tensor) -> None:
        self._pieces = [piece.float() for piece in exact_pieces(weight)]

    def __call__(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return integers, held in float32 or int32, shape (rows, columns).

        Args:
            codes: Unsigned codes, uint8, shape (rows, terms).
            zero_point: Unsigned code of 0.0.
        """
        x = _distances(codes, zero_point, torch.float32)
        return _sum_of_pieces(F.linear, x, self._pieces)


class FloatConvolution:
    """The same over the windows of a convolution.

    Args:
        weight: Codes, int8, shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Everything else.
    """

    def __init__(self, weight: Tensor, convolution: Convolution) -> None:
        self._convolution = convolution
        pieces = exact_pieces(weight) if has_exact_float_convolution() else []
        self._dtype = torch.float32
        if not pieces or (convolution.groups > 1 and len(pieces) > 1):
            pieces, self._dtype = [weight], torch.float64
        self._pieces = [
            piece.to(self._dtype, memory_format=torch.channels_last) for piece in pieces
        ]
        left, _, top, _ = convolution.edges
        self._padding = (top, left) if convolution.is_plainly_padded else (0, 0)

    def __call__(self, codes: Tensor, zero_point: int) -> Tensor:
        """Return integers, held in float32 or int32, shape (N, out_channels, height, width).

        Args:
            codes: Unsigned codes, uint8, shape (N, C, H, W).
            zero_point: Unsigned code of 0.0; also what is padded with.
        """
        convolution = self._convolution
        if not convolution.is_plainly_padded:
            codes = pad_codes(codes, convolution, zero_point)
        rest = convolution.stride, self._padding, convolution.dilation, convolution.groups
        sums = _sum_of_pieces(
            lambda x, weight: F.conv2d(x, weight, None, *rest),
            _distances(codes, zero_point, self._dtype),
            self._pieces,
        )
        return sums.to(torch.int32) if self._dtype == torch.float64 else sums


def has_exact_float_convolution() -> bool:
    """Whether torch's float32 convolution is a plain sum of products on this machine.

    Algorithms such as Winograd's compute with fractions and are not exact on integers.
    """
    return _is_plain_sum(torch.backends.mkldnn.enabled)


@lru_cache(maxsize=2)
def _is_plain_sum(has_mkldnn: bool) -> bool:
    """Try it, once with oneDNN's kernels and once without."""
    x = torch.full((16, 16, 12, 12), 255.0, dtype=torch.float32)
    x[:, ::3] = -254.0
    for groups in (1, 2, 16):
        w = torch.full((16, 16 // groups, 3, 3), -128.0, dtype=torch.float32)
        w[::2, :, 1:] = 127.0
        exact = F.conv2d(x.double(), w.double(), padding=1, groups=groups)
        if not torch.equal(F.conv2d(x, w, padding=1, groups=groups).double(), exact):
            return False
    return True
