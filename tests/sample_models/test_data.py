"""The data are the published ones, whole, and split without overlap."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from sample_models import UnknownNameError, load_digits, load_split
from sample_models.data import SPLITS, Split, as_images, as_tokens, load_pixels

SIZES: dict[Split, int] = {"train": 1197, "calibration": 200, "test": 400}


def test_digits_are_the_published_ones() -> None:
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8)
    assert (digits.images.min(), digits.images.max()) == (0, 16)
    assert np.bincount(digits.labels).tolist() == [
        *(178, 182, 177, 183, 181, 182, 181, 179, 174, 180),
    ]


@pytest.mark.parametrize(
    ("field", "sha256"),
    [
        ("images", "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"),
        ("labels", "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"),
        ("split", "d7e8af4685029ee087f2a7b9aa9eb201556a10776d358bb0e8c980b493f70400"),
    ],
)
def test_stored_bytes_never_change(field: str, sha256: str) -> None:
    assert hashlib.sha256(getattr(load_digits(), field).tobytes()).hexdigest() == sha256


def test_digits_equal_the_source() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the source is read with sklearn")
    source = datasets.load_digits()
    assert np.array_equal(load_digits().images, source.images)
    assert np.array_equal(load_digits().labels, source.target)


def test_the_shared_arrays_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_digits().images[0, 0, 0] = 1


def test_splits_are_disjoint_and_complete() -> None:
    parts = [load_digits().indices(split) for split in SPLITS]
    assert [len(part) for part in parts] == list(SIZES.values())
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))


def test_no_image_stands_in_two_splits() -> None:
    # Different indices could still hold the same picture.
    parts = [{image.tobytes() for image in load_pixels(split)[0].numpy()} for split in SPLITS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


@pytest.mark.parametrize("split", SPLITS)
def test_split_is_stratified(split: Split) -> None:
    _, labels = load_split(split)
    share = np.bincount(labels.numpy(), minlength=10) / len(labels)
    expected = np.bincount(load_digits().labels) / 1797
    assert np.abs(share - expected).max() < 1 / len(labels)


def test_split_is_drawn_as_documented() -> None:
    labels = load_digits().labels
    counts = np.bincount(labels)
    quotas = {}
    for code, total in ((2, 400), (1, 200)):
        exact = counts * total / len(labels)
        quota = np.floor(exact).astype(int)
        quota[np.argsort(quota - exact, kind="stable")[: total - quota.sum()]] += 1
        quotas[code] = quota
    generator = np.random.default_rng(2024)
    split = np.zeros_like(labels)
    for digit in range(10):
        order = generator.permutation(np.flatnonzero(labels == digit))
        test, calibration = quotas[2][digit], quotas[1][digit]
        split[order[:test]] = 2
        split[order[test : test + calibration]] = 1
    assert np.array_equal(split, load_digits().split)


@pytest.mark.parametrize("split", SPLITS)
def test_load_split_scales_to_one(split: Split) -> None:
    images, labels = load_split(split)
    assert images.shape == (SIZES[split], 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)


def test_load_split_keeps_images_with_their_labels() -> None:
    digits = load_digits()
    images, labels = load_split("test")
    position = digits.indices("test")[17]
    assert np.array_equal(images[17, 0].numpy() * 16, digits.images[position])
    assert labels[17] == digits.labels[position]


def test_unknown_split_names_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'tets': did you mean 'test'\?.*'calibration'"):
        load_split("tets")  # type: ignore[arg-type]


def test_tokens_are_the_pixels_row_by_row() -> None:
    pixels = torch.arange(16, dtype=torch.float32).view(1, 4, 4)
    assert as_tokens(pixels).tolist() == [list(range(16))]
    assert as_tokens(pixels).dtype == torch.int64
    assert as_tokens(torch.tensor([[[0.4, 15.6]]])).tolist() == [[0, 16]]


def test_images_gain_a_channel() -> None:
    pixels = torch.tensor([[[0.0, 4.0], [8.0, 16.0]]])
    assert as_images(pixels).tolist() == [[[[0.0, 0.25], [0.5, 1.0]]]]
