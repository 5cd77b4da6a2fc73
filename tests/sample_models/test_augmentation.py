"""Augmentation moves images by what the plan allows, and by nothing else."""

from __future__ import annotations

import pytest
import torch

from sample_models.augmentation import augment
from sample_models.data import load_pixels
from sample_models.plan import TrainingPlan


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def dot(row: int, column: int, samples: int = 200) -> torch.Tensor:
    """Return images that are empty but for one full pixel."""
    pixels = torch.zeros(samples, 8, 8)
    pixels[:, row, column] = 16.0
    return pixels


def centres(pixels: torch.Tensor) -> torch.Tensor:
    """Return the centre of mass of each image, as (row, column)."""
    axis = torch.arange(8.0)
    mass = pixels.sum(dim=(1, 2))
    rows = (pixels.sum(dim=2) * axis).sum(dim=1) / mass
    columns = (pixels.sum(dim=1) * axis).sum(dim=1) / mass
    return torch.stack([rows, columns], dim=1)


def test_a_plan_of_zeros_changes_nothing() -> None:
    pixels, _ = load_pixels("calibration")
    assert augment(pixels, TrainingPlan(epochs=1), generator()) is pixels


def test_shift_moves_by_at_most_the_given_pixels() -> None:
    moved = centres(augment(dot(4, 3), TrainingPlan(epochs=1, shift=1.0), generator()))
    distance = moved - torch.tensor([4.0, 3.0])
    assert distance.abs().max() <= 1 + 1e-4
    # It uses the range it has, in both directions of both axes.
    assert (distance.amin(dim=0) < -0.9).all()
    assert (distance.amax(dim=0) > 0.9).all()


def test_rotation_keeps_the_distance_from_the_centre() -> None:
    plan = TrainingPlan(epochs=1, rotation=30)
    moved = centres(augment(dot(4, 6), plan, generator())) - 3.5
    start = torch.tensor([0.5, 2.5])
    turned = torch.atan2(moved[:, 0], moved[:, 1]) - torch.atan2(start[0], start[1])
    assert moved.norm(dim=1).sub(start.norm()).abs().max() < 0.25
    assert 25 < torch.rad2deg(turned).abs().max() < 35


def test_zoom_changes_the_distance_from_the_centre() -> None:
    moved = centres(augment(dot(3, 6), TrainingPlan(epochs=1, zoom=0.2), generator())) - 3.5
    ratio = moved[:, 1] / 2.5
    assert 0.75 < ratio.min() < 0.9
    assert 1.1 < ratio.max() < 1.25


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_only_the_given_share_is_changed(share: float) -> None:
    pixels = dot(4, 4, samples=2000)
    plan = TrainingPlan(epochs=1, augmented=share, shift=1.0)
    changed = (augment(pixels, plan, generator()) != pixels).any(dim=2).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(share, abs=0.03)


def test_values_stay_in_range_and_seeds_decide() -> None:
    pixels, _ = load_pixels("calibration")
    plan = TrainingPlan(epochs=1, shift=1.0, rotation=20, zoom=0.2)
    first = augment(pixels, plan, generator())
    assert first.min() >= 0
    assert first.max() <= 16
    assert torch.equal(first, augment(pixels, plan, generator()))
    assert not torch.equal(first, augment(pixels, plan, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"epochs": 1, "batch_size": 0}, {"epochs": 1, "learning_rate": 0.0}]
)
def test_senseless_plans_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainingPlan(**settings)  # type: ignore[arg-type]
