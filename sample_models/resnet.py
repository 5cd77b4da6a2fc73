"""Residual network: convolutions with BatchNorm, and shortcuts that add two streams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from sample_models.data import NUM_CLASSES
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions whose result is added to the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution; other than 1, the shortcut is a 1×1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, ...)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: torch.Tensor = self.relu2(out + self.shortcut(x))
        return result


class SimpleResNet(nn.Module):
    """A small ResNet: a stem, three stages of residual blocks, average pooling, one Linear.

    The second and third stage halve height and width. Any image size works.

    Args:
        input_channels: Channels of the image.
        num_classes: Length of the output.
        widths: Channels of the three stages.
        blocks_per_stage: Residual blocks in each stage.

    Example:
        >>> SimpleResNet(widths=(4, 8, 16))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_channels: int = 3,
        num_classes: int = 10,
        *,
        widths: tuple[int, int, int] = (64, 128, 256),
        blocks_per_stage: int = 2,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(input_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = _stage([first] * (blocks_per_stage + 1), stride=1)
        self.layer2 = _stage([first] + [second] * blocks_per_stage, stride=2)
        self.layer3 = _stage([second] + [third] * blocks_per_stage, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(third, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of shape (batch, input_channels, height, width)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(channels: Sequence[int], stride: int) -> nn.Sequential:
    """Chain residual blocks along a list of channel counts; the first block has the stride."""
    steps = enumerate(itertools.pairwise(channels))
    return nn.Sequential(
        *(ResidualBlock(a, b, stride if index == 0 else 1) for index, (a, b) in steps)
    )


@register_model(
    title="ResNet-20",
    family="Residual network",
    description="The classic 20-layer residual network with 16, 32 and 64 channels: nineteen 3×3 "
    "convolutions with BatchNorm, two shortcut convolutions and one Linear layer.",
    teaches="Error grows through depth: each layer adds a little, and shortcuts carry it on.",
    plan=TrainingPlan(epochs=20, shift=1.0, rotation=10, zoom=0.1),
)
def resnet() -> SimpleResNet:
    """Three blocks a stage: 1 + 3 · 6 + 1 layers, and two shortcut convolutions."""
    return SimpleResNet(1, NUM_CLASSES, widths=(16, 32, 64), blocks_per_stage=3)
