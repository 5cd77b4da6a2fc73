"""Plain convolutional network: convolutions, pooling and two Linear layers."""

from __future__ import annotations

import torch
from torch import nn

from sample_models.data import IMAGE_SIZE, NUM_CLASSES
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model

_POOLING = 8
"""Three poolings by 2 divide height and width by this."""


class SimpleCNN(nn.Module):
    """Five 3×3 convolutions in three blocks, each ended by max pooling, and two Linear layers.

    Args:
        input_channels: Channels of the image.
        num_classes: Length of the output.
        image_size: Height and width of the image, at least 8.

    Raises:
        ValueError: If the image is too small to be pooled three times.

    Example:
        >>> SimpleCNN(3, 10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> SimpleCNN(1, 10, image_size=28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, input_channels: int = 3, num_classes: int = 10, *, image_size: int = 32
    ) -> None:
        if image_size < _POOLING:
            raise ValueError(
                f"image_size must be at least {_POOLING}, got {image_size}: three poolings by 2 "
                "would leave nothing of a smaller image"
            )
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(input_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
        )
        self.classifier = nn.Sequential(
            nn.Linear(128 * (image_size // _POOLING) ** 2, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of shape (batch, input_channels, image_size, image_size)."""
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits


@register_model(
    title="CNN",
    family="Convolutional network",
    description="Five 3×3 convolutions without BatchNorm, max pooling, and two Linear layers.",
    teaches="Convolutions at int8, and a Linear layer that holds a third of all the bytes.",
    plan=TrainingPlan(epochs=70, shift=1.0, learning_rate=2e-3, rotation=10, zoom=0.1),
)
def cnn() -> SimpleCNN:
    """One channel, 8×8."""
    return SimpleCNN(1, NUM_CLASSES, image_size=IMAGE_SIZE)
