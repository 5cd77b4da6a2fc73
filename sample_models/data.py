"""Real handwritten digits: 1,797 images of 8 by 8 pixels, split once and for all.

The images are the UCI set "Optical Recognition of Handwritten Digits" (CC BY 4.0), stored whole in
``data/digits.npz``; ``data/SOURCE.txt`` beside it says where they come from and how the split was
drawn. Training sees only ``train``; ``calibration`` measures value ranges; ``test`` measures
accuracy. No sample is in two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sample_models.errors import unknown_name

Split: TypeAlias = Literal["train", "calibration", "test"]

SPLITS: Final[tuple[Split, ...]] = ("train", "calibration", "test")
"""The three disjoint parts of the data, in the order of their codes in the stored file."""

IMAGE_SIZE: Final = 8
"""Rows and columns of an image."""

MAX_PIXEL: Final = 16
"""The largest pixel value: a pixel counts the dark dots of a 4 by 4 block."""

NUM_CLASSES: Final = 10
"""The digits 0 to 9."""

DATA_NAME: Final = "UCI handwritten digits, 8×8"
DATA_LICENCE: Final = "CC BY 4.0"

_FILE: Final = Path(__file__).parent / "data" / "digits.npz"


@dataclass(frozen=True)
class DigitsData:
    """The whole data set, read-only.

    Attributes:
        images: Pixel values 0..16, uint8 of shape (1797, 8, 8).
        labels: Digits 0..9, uint8 of shape (1797,).
        split: Index into `SPLITS` of each sample, uint8 of shape (1797,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    split: npt.NDArray[np.uint8]

    def indices(self, split: Split) -> npt.NDArray[np.intp]:
        """Return the positions of one split's samples, ascending.

        Raises:
            UnknownNameError: If there is no such split.
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return np.flatnonzero(self.split == SPLITS.index(split))


@cache
def load_digits() -> DigitsData:
    """Read the stored digits.

    Returns:
        The whole set; its arrays are shared by all callers and cannot be written to.

    Example:
        >>> digits = load_digits()
        >>> digits.images.shape, int(digits.images.max())
        ((1797, 8, 8), 16)
    """
    with np.load(_FILE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in ("images", "labels", "split")}
    for array in arrays.values():
        array.flags.writeable = False
    return DigitsData(**arrays)


def load_pixels(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one split's raw pixel values and labels.

    Args:
        split: ``"train"``, ``"calibration"`` or ``"test"``.

    Returns:
        Pixels 0..16, float32 of shape (samples, 8, 8), and digits, int64 of shape (samples,).

    Raises:
        UnknownNameError: If there is no such split.
    """
    digits = load_digits()
    chosen = digits.indices(split)
    pixels = torch.from_numpy(digits.images[chosen].astype(np.float32))
    return pixels, torch.from_numpy(digits.labels[chosen].astype(np.int64))


def load_split(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one split as images and labels.

    Args:
        split: ``"train"`` (1,197 samples), ``"calibration"`` (200) or ``"test"`` (400).

    Returns:
        Images in [0, 1], float32 of shape (samples, 1, 8, 8), and digits, int64 (samples,).

    Raises:
        UnknownNameError: If there is no such split.

    Example:
        >>> images, labels = load_split("calibration")
        >>> images.shape, labels.shape
        (torch.Size([200, 1, 8, 8]), torch.Size([200]))
    """
    pixels, labels = load_pixels(split)
    return as_images(pixels), labels


def as_images(pixels: torch.Tensor) -> torch.Tensor:
    """Scale raw pixels to one-channel images in [0, 1].

    Args:
        pixels: Values 0..16 of shape (samples, rows, columns).

    Returns:
        Float32 of shape (samples, 1, rows, columns).
    """
    return pixels.to(torch.float32).div(MAX_PIXEL).unsqueeze(1)


def as_tokens(pixels: torch.Tensor) -> torch.Tensor:
    """Read an image as a sentence: one token per pixel, row by row; its value is the token's id.

    Args:
        pixels: Values 0..16 of shape (samples, rows, columns); fractions are rounded.

    Returns:
        Token ids 0..16, int64 of shape (samples, rows · columns).
    """
    return pixels.round().to(torch.int64).flatten(1)
