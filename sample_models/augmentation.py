"""Small seeded changes of the training images: shifts, rotations and zooms."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from sample_models.data import MAX_PIXEL
from sample_models.plan import TrainingPlan


def augment(pixels: torch.Tensor, plan: TrainingPlan, generator: torch.Generator) -> torch.Tensor:
    """Move, turn and zoom each image by its own small random amount.

    Args:
        pixels: Values 0..16 of shape (samples, rows, columns).
        plan: How far each change may go; a plan of zeros returns the images as they are.
        generator: The only source of randomness.

    Returns:
        New images of the same shape; what comes in from outside is background (0).
    """
    if not (plan.shift or plan.rotation or plan.zoom):
        return pixels
    samples, rows, columns = pixels.shape
    dials = torch.rand(4, samples, generator=generator) * 2 - 1
    angle = dials[0] * math.radians(plan.rotation)
    size = 1 + dials[1] * plan.zoom
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    # The grid spans -1..1, so one pixel is 2 / columns.
    right, down = dials[2] * plan.shift * 2 / columns, dials[3] * plan.shift * 2 / rows
    matrix = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).view(samples, 2, 3)
    grid = F.affine_grid(matrix, [samples, 1, rows, columns], align_corners=False)
    moved = F.grid_sample(pixels.unsqueeze(1), grid, align_corners=False).squeeze(1)
    if plan.augmented < 1:
        is_changed = torch.rand(samples, generator=generator) < plan.augmented
        moved = torch.where(is_changed.view(-1, 1, 1), moved, pixels)
    return moved.clamp(0, MAX_PIXEL)
