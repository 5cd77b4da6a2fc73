"""Networks with chains of every kind, and data to run them on."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import Recipe, quantize_model
from quant_engine.metrics.functions import kl_divergence
from quant_engine.model.batches import Batch, iterate_batches
from sample_models import get_model_info, load_model
from tests.quant_engine.layer_cases import fill, seeded

ACTIVATIONS = {
    "relu": lambda channels: nn.ReLU(),
    "relu_inplace": lambda channels: nn.ReLU(inplace=True),
    "leaky_relu": lambda channels: nn.LeakyReLU(0.2),
    "prelu": lambda channels: nn.PReLU(channels),
    "identity": lambda channels: nn.Identity(),
    "dropout": lambda channels: nn.Dropout(0.5),
    "max_pool": lambda channels: nn.MaxPool2d(3, 1, 1),
    "avg_pool": lambda channels: nn.AvgPool2d(3, 1, 1),
}


def convolution(kind: str, channels: int, bias: bool) -> tuple[nn.Module, int]:
    """One layer, and how many channels it makes."""
    if kind == "plain":
        return nn.Conv2d(channels, 8, 3, padding=1, bias=bias), 8
    if kind == "pointwise":
        return nn.Conv2d(channels, 4, 1, bias=bias), 4
    if kind == "groups":
        return nn.Conv2d(channels, 8, 3, padding=1, groups=2, bias=bias), 8
    if kind == "depthwise":
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias), channels
    if kind == "multiplied":
        return nn.Conv2d(channels, 2 * channels, 1, groups=channels, bias=bias), 2 * channels
    if kind == "circular":
        made = nn.Conv2d(channels, 4, 3, padding=1, padding_mode="circular", bias=bias)
        return made, 4
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, 4, 2, 2, bias=bias), 4
    assert kind == "transposed_groups"
    return nn.ConvTranspose2d(channels, 6, 3, 1, 1, groups=2, bias=bias), 6


KINDS = (
    *("plain", "pointwise", "groups", "depthwise", "multiplied", "circular"),
    *("transposed", "transposed_groups"),
)

chains = st.lists(
    st.tuples(st.sampled_from(KINDS), st.booleans(), st.sampled_from(list(ACTIVATIONS))),
    min_size=1,
    max_size=4,
)


def chain(steps: list[tuple[str, bool, str]], seed: int = 0) -> nn.Sequential:
    """Convolutions with activations between them, flattened into a linear layer; uneven ranges."""
    channels, modules = 4, [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()]
    for kind, bias, activation in steps:
        layer, channels = convolution(kind, channels, bias)
        modules += [layer, ACTIVATIONS[activation](channels)]
    modules += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3)]
    model = fill(nn.Sequential(*modules), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                exponents = torch.randint(-4, 5, (module.weight.shape[0],), generator=generator)
                module.weight.mul_((2.0**exponents).view(-1, 1, 1, 1))
                module.weight.div_(module.weight[0].numel() ** 0.5)
    return model


class Branching(nn.Module):
    """Steps that each lead on, or to a second layer beside them: added, concatenated or gated."""

    def __init__(self, steps: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self.joins = [join for _, join, _ in steps]
        self.layers, self.sides = nn.ModuleList(), nn.ModuleList()
        channels = 4
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        for kind, join, activation in steps:
            layer, made = convolution(kind, channels, bias=True)
            self.layers.append(nn.Sequential(layer, ACTIVATIONS[activation](made)))
            self.sides.append(nn.Conv2d(channels, made, 1) if join != "on" else nn.Identity())
            channels = 2 * made if join == "concatenated" else made
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for join, layer, side in zip(self.joins, self.layers, self.sides, strict=True):
            y = layer(x)
            if join == "added":
                y = y + side(x)
            elif join == "concatenated":
                y = torch.cat([y, side(x)], dim=1)
            elif join == "gated":
                y = y * torch.sigmoid(side(x))
            x = y
        result: Tensor = self.head(x.mean(dim=(2, 3)))
        return result


branches = st.lists(
    st.tuples(
        st.sampled_from(("plain", "pointwise", "groups", "depthwise", "circular")),
        st.sampled_from(("on", "added", "concatenated", "gated")),
        st.sampled_from(("relu", "leaky_relu", "prelu", "identity", "max_pool")),
    ),
    min_size=1,
    max_size=4,
)


def branching(steps: list[tuple[str, str, str]], seed: int = 0) -> nn.Module:
    """A graph of branches whose layers make channels of uneven size."""
    model = fill(Branching(steps), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                exponents = torch.randint(-4, 5, (module.weight.shape[0],), generator=generator)
                module.weight.mul_((2.0**exponents).view(-1, 1, 1, 1))
                module.weight.div_(module.weight[0].numel() ** 0.5)
    return model


def images(samples: int = 3) -> Tensor:
    return seeded((samples, 2, 6, 6))


def batch_of(x: Tensor) -> Batch:
    return next(iterate_batches(x))


def accuracy_and_divergence(name: str, recipe: Recipe) -> tuple[float, float]:
    """The accuracy of a sample model quantized by a recipe, and its KL from the float answers."""
    info, model = get_model_info(name), load_model(name)
    calibration, (x, labels) = info.load_inputs("calibration")[0][:200], info.load_inputs("test")
    quantized = quantize_model(model, [calibration], recipe)
    with torch.no_grad():
        expected, found = model(x), quantized(x)
    accuracy = (found.argmax(dim=1) == labels).double().mean()
    return float(accuracy), kl_divergence(expected, found)
