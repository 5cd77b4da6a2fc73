"""What a convolution looks at, as all kernels describe it; 1d and transposed ones become this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

ZEROS = "zeros"

Pair: TypeAlias = tuple[int, int]
"""(vertical, horizontal)."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """The arguments of a 2d convolution besides its weight.

    Attributes:
        stride: Step of the kernel (vertical, horizontal).
        edges: Values added at (left, right, top, bottom); negative ones are cut off.
        dilation: Distance between kernel elements (vertical, horizontal).
        groups: Blocks of channels that do not see each other.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
    """

    stride: Pair = (1, 1)
    edges: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding_mode: str = ZEROS

    @property
    def is_plainly_padded(self) -> bool:
        """Whether every side gets zeros, as many as the side opposite."""
        left, right, top, bottom = self.edges
        is_even = left == right and top == bottom and min(self.edges) >= 0
        return is_even and (self.padding_mode == ZEROS or not any(self.edges))

    def has_window_of_padding(self, kernel: Pair, size: Pair) -> bool:
        """Whether some window of the kernel lies on added values alone.

        Args:
            kernel: Size of the kernel (vertical, horizontal).
            size: Size of the image, before padding.

        Example:
            >>> Convolution(edges=(1, 1, 1, 1)).has_window_of_padding((3, 3), (5, 5))
            False
            >>> Convolution(edges=(1, 1, 0, 0)).has_window_of_padding((1, 1), (5, 5))
            True
        """
        left, right, top, bottom = self.edges
        axes = zip(
            kernel, size, self.stride, self.dilation, ((top, bottom), (left, right)), strict=True
        )
        for taps, length, stride, dilation, (before, after) in axes:
            last = length + after - dilation * (taps - 1) - 1
            for start in range(-before, last + 1, stride):
                if not any(0 <= start + dilation * index < length for index in range(taps)):
                    return True
        return False


def pad_codes(codes: Tensor, convolution: Convolution, zero: int) -> Tensor:
    """Pad (N, C, H, W) codes as the convolution says, with the code `zero` for 0.0.

    Example:
        >>> row = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
        >>> pad_codes(row, Convolution(edges=(2, 1, 0, 0), padding_mode="reflect"), 0).tolist()
        [[[[3, 2, 1, 2, 3, 2]]]]
        >>> pad_codes(row, Convolution(edges=(1, -1, 0, 0)), 9).tolist()
        [[[[9, 1, 2]]]]
    """
    if not any(convolution.edges):
        return codes
    if convolution.padding_mode == ZEROS:
        return torch.nn.functional.pad(codes, convolution.edges, value=zero)
    # torch repeats, mirrors and wraps no bytes.
    return torch.nn.functional.pad(
        codes.float(), convolution.edges, mode=convolution.padding_mode
    ).to(codes.dtype)
