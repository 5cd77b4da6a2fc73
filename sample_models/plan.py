"""How a model is trained: the numbers that, with the code, decide the shipped weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """The settings of one training run (AdamW, warm-up and cosine decay, seeded).

    Attributes:
        epochs: Passes over the training split.
        learning_rate: Peak step size.
        weight_decay: Decoupled weight decay; biases and norm parameters are exempt.
        batch_size: Samples per step.
        label_smoothing: Probability mass spread evenly over all classes.
        augmented: Share of the images that are changed anew in each epoch; the rest stay as they
            are.
        shift: Largest random shift of an image, in pixels.
        rotation: Largest random rotation, in degrees.
        zoom: Largest random relative change of size, for example 0.1 for ±10 %.
        seed: Seeds initial weights, order, augmentation and dropout.
    """

    epochs: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    batch_size: int = 64
    label_smoothing: float = 0.0
    augmented: float = 1.0
    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, got {self.epochs} and "
                f"{self.batch_size}: choose positive integers"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
