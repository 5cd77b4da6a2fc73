"""MobileNet: cheap 1×1 convolutions between depthwise ones that see a single channel each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from sample_models.data import NUM_CLASSES
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model


class Stage(NamedTuple):
    """One inverted residual block of a `MobileNet`.

    Attributes:
        expansion: Hidden channels per input channel.
        channels: Channels of the output.
        stride: Stride of the depthwise convolution.
    """

    expansion: int
    channels: int
    stride: int


class InvertedResidual(nn.Module):
    """Expand by a 1×1 convolution, filter each channel alone, project back by a 1×1 convolution.

    The input is added to the output where their shapes agree. The output has no ReLU.

    Args:
        in_channels: Channels of the input.
        stage: The block's numbers.
    """

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        hidden = in_channels * stage.expansion
        self.is_residual = stage.stride == 1 and in_channels == stage.channels
        self.expand = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(hidden)
        self.expand_relu = nn.ReLU()
        self.depthwise = nn.Conv2d(
            hidden, hidden, 3, stage.stride, padding=1, groups=hidden, bias=False
        )
        self.depthwise_bn = nn.BatchNorm2d(hidden)
        self.depthwise_relu = nn.ReLU()
        self.project = nn.Conv2d(hidden, stage.channels, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(stage.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, height, width) to (batch, channels, ...)."""
        out = self.expand_relu(self.expand_bn(self.expand(x)))
        out = self.depthwise_relu(self.depthwise_bn(self.depthwise(out)))
        result: torch.Tensor = self.project_bn(self.project(out))
        return x + result if self.is_residual else result


class MobileNet(nn.Module):
    """A stem, inverted residual blocks, a 1×1 convolution, average pooling and a Linear layer.

    The activations are ReLU, not the ReLU6 of the phone networks: an int8 range needs no cap at 6,
    and a scale factor passes through ReLU, which `mobilenet_unequal_channels` relies on.

    Args:
        input_channels: Channels of the image.
        num_classes: Length of the output.
        stem_channels: Channels after the first convolution.
        stages: One entry for each block.
        head_channels: Channels before pooling.

    Example:
        >>> model = MobileNet(3, 10, 8, [Stage(2, 8, 1), Stage(2, 16, 2)], 32)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        stem_channels: int,
        stages: list[Stage],
        head_channels: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(input_channels, stem_channels, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(stem_channels)
        self.stem_relu = nn.ReLU()
        widths = [stem_channels, *(stage.channels for stage in stages)]
        self.blocks = nn.Sequential(
            *(InvertedResidual(width, stage) for width, stage in zip(widths, stages, strict=False))
        )
        self.head = nn.Conv2d(widths[-1], head_channels, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(head_channels)
        self.head_relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of shape (batch, input_channels, height, width)."""
        x = self.stem_relu(self.stem_bn(self.stem(x)))
        x = self.head_relu(self.head_bn(self.head(self.blocks(x))))
        logits: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


@register_model(
    title="MobileNet",
    family="Depthwise separable network",
    description="Seven inverted residual blocks in the manner of MobileNetV2: 1×1 convolutions "
    "around depthwise 3×3 ones, with BatchNorm.",
    teaches="Depthwise layers have nine weights per channel and are the first to suffer from one "
    "scale for the whole tensor.",
    plan=TrainingPlan(epochs=30, shift=0.5, rotation=10, zoom=0.1),
)
def mobilenet() -> MobileNet:
    """8×8 pixels in two blocks, 4×4 in three, 2×2 in the last two."""
    stages = [
        Stage(3, 16, 1),
        Stage(3, 16, 1),
        Stage(4, 24, 2),
        Stage(4, 24, 1),
        Stage(4, 24, 1),
        Stage(4, 40, 2),
        Stage(4, 40, 1),
    ]
    return MobileNet(1, NUM_CLASSES, 16, stages, 96)
