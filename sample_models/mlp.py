"""Multi-layer perceptron: nothing but Linear layers, the simplest thing to quantize."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sample_models.data import IMAGE_SIZE, NUM_CLASSES
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model


class SimpleMLPClassifier(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        input_size: Numbers per sample; inputs with more dimensions are flattened.
        hidden_sizes: Width of each hidden layer, first to last; may be empty.
        num_classes: Length of the output.
        dropout_rate: Share of hidden values dropped during training.

    Example:
        >>> SimpleMLPClassifier(784, [256, 128], 10)(torch.zeros(2, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        num_classes: int,
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        width = input_size
        for hidden_size in hidden_sizes:
            layers += [nn.Linear(width, hidden_size), nn.ReLU(), nn.Dropout(dropout_rate)]
            width = hidden_size
        layers.append(nn.Linear(width, num_classes))
        self.network = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify samples of shape (batch, ...) with `input_size` numbers each."""
        logits: torch.Tensor = self.network(x.flatten(1))
        return logits


@register_model(
    title="MLP",
    family="Multi-layer perceptron",
    description="Three Linear layers over the 64 pixels, with ReLU between them.",
    teaches="The plain case: large weight matrices, well-behaved ranges, hardly any loss at int8.",
    plan=TrainingPlan(epochs=250, shift=0.5, rotation=10, zoom=0.1),
)
def mlp() -> SimpleMLPClassifier:
    """64 → 128 → 64 → 10."""
    return SimpleMLPClassifier(IMAGE_SIZE**2, [128, 64], NUM_CLASSES)


@register_model(
    title="MLP, wide",
    family="Multi-layer perceptron",
    description="Four Linear layers with up to 512 hidden values: the MLP's task with more than "
    "eleven times its parameters.",
    teaches="Where nearly all bytes are weights of large layers, int8 comes close to a quarter of "
    "the size.",
    plan=TrainingPlan(epochs=100, learning_rate=2e-3, shift=0.5, rotation=10, zoom=0.1),
)
def mlp_wide() -> SimpleMLPClassifier:
    """64 → 512 → 256 → 128 → 10."""
    return SimpleMLPClassifier(IMAGE_SIZE**2, [512, 256, 128], NUM_CLASSES)
