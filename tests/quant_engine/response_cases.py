"""Models with something about them that a response has to get right, and how to run them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.preparation.prepared_model import prepare
from quant_engine.response.logit_response import LogitResponse
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme
from tests.quant_engine.layer_cases import fill, seeded

INPUTS = TensorScheme(symmetric=False)
OPTIONS = {
    "eight": LayerScheme(TensorScheme(granularity="per_channel"), INPUTS),
    "four": LayerScheme(TensorScheme(bits=4, granularity="per_channel"), INPUTS),
    "two": LayerScheme(TensorScheme(bits=2)),
}


class InPlace(nn.Module):
    """Changes what its layers return."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        z = self.second(y)
        z *= 2.0
        return z


class Twice(nn.Module):
    """Calls one layer twice, and shares a weight between two more."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.again(x)) + self.again(x)
        return self.left(x)[:, :4] + torch.tanh(self.right(x))[:, :4]


class Cut(nn.Module):
    """Keeps gradients from one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.open = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.open(x + torch.tanh(self.hidden(x)).detach())


class Steps(nn.Module):
    """Rounds what one layer returns, so that the gradient is zero and the effect is not."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.open = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.open(x + torch.round(4 * self.hidden(x)))


class SequenceFirst(nn.Module):
    """Works on (length, samples, width) inside, and adds a table all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(4, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        place = self.table(torch.arange(4))
        y = torch.tanh(self.mix(x.transpose(0, 1))) + place[:, None]
        return self.head(y.mean(dim=0))


class Attending(nn.Module):
    """Answers for every token of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        return self.head(F.gelu(y + self.mix(y, y, y, need_weights=False)[0]))


CASES: dict[str, tuple[type[nn.Module], Tensor]] = {
    "in_place": (InPlace, seeded((12, 6), 1)),
    "twice": (Twice, seeded((12, 6), 2)),
    "cut": (Cut, seeded((12, 6), 3)),
    "steps": (Steps, seeded((12, 6), 4)),
    "sequence_first": (SequenceFirst, seeded((5, 4, 6), 5)),
    "attending": (Attending, torch.arange(20).reshape(5, 4) % 7),
}


def measure(model: nn.Module, x: Tensor, **settings: object) -> LogitResponse:
    settings = {"options": OPTIONS, "agreement_configurations": 8, **settings}
    return LogitResponse.measure(model, [x], **settings)  # type: ignore[arg-type]


def case(name: str) -> tuple[nn.Module, Tensor]:
    kind, x = CASES[name]
    return fill(kind()), x


def linear_model(seed: int = 0) -> nn.Module:
    return fill(nn.Linear(6, 4), seed)


def recipe_of(scheme: LayerScheme) -> Recipe:
    return Recipe(scheme.weight, scheme.activation)


def float_output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output = prepare(model).model(x)
    assert isinstance(output, Tensor)
    return output
