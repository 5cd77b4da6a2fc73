"""Models and metrics that worker processes can import, with data to sweep them on."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.quant_engine.layer_cases import fill


class Branches(nn.Module):
    """Ten layers, some of them in branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(4)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.head(x)
        return result


class Noisy(Branches):
    """Draws random numbers in every pass, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.2, training=True))


class ChangesItsInput(Branches):
    """Changes the batch it is given, in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(1.5).add_(0.25))


class Failing(Branches):
    """Raises on every batch."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


def largest_change(output: Tensor, changed: Tensor) -> Tensor:
    """A metric of the caller's."""
    return (output - changed).abs().amax(dim=1)


def slow_change(output: Tensor, changed: Tensor) -> Tensor:
    """The same, but long enough to be interrupted."""
    time.sleep(0.01)
    return largest_change(output, changed)


def make_model(kind: type[nn.Module] = Branches) -> nn.Module:
    """Weights small enough for probabilities between 0 and 1."""
    model = fill(kind())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    return model


def make_batches(count: int = 3, samples: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Batches that are slices of one tensor, as those of a loader often are."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count * samples, 6, generator=generator)
    labels = torch.randint(0, 5, (count * samples,), generator=generator)
    return list(zip(inputs.split(samples), labels.split(samples), strict=True))
