"""On module graphs drawn at random, a lowered model gives what the model gave.

Simulated it is equal bit for bit, unless a residual into a convolution is read as codes. On
integers every step is compared with the simulated one on the same input: codes next to a tie may
round apart, by one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import Recipe, TensorScheme, quantize_model
from quant_engine.execution.convert import convert_execution
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.lowering.lower import is_lowered
from quant_engine.execution.lowering.steps import (
    ClampCodes,
    LoweredLayer,
    LoweredStep,
    MaxPoolCodes,
)
from quant_engine.scheme import LayerScheme
from tests.quant_engine.layer_cases import fill, seeded

CHANNELS, SIZE = 4, 6
IMAGES = seeded((3, CHANNELS, SIZE, SIZE), seed=3)


def layer(kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(SIZE, SIZE)
    if kind == "depthwise":
        return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="replicate")


def as_tensor(value: Any) -> Any:
    """Add up whatever a module returned."""
    if isinstance(value, dict):
        value = [item for item in value.values() if item is not None]
    if isinstance(value, tuple | list):
        parts = [as_tensor(item) for item in value]
        return sum(parts[1:], parts[0])
    return value


class Node(nn.Module):
    """One way in which a module uses what is inside it; every one keeps the image's shape."""

    def __init__(self, kind: str, step: str, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.kind = kind
        self.parts = nn.ModuleList(parts)
        self.step = layer(step)
        self.other = layer("linear")
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.offset = nn.Parameter(torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("mask", torch.ones(SIZE))

    def forward(self, x: Tensor) -> Any:
        return getattr(self, f"use_{self.kind}")(x)

    def inner(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = as_tensor(part(x))
        return x

    def use_chain(self, x: Tensor) -> Tensor:
        return self.step(F.relu(self.inner(x)))

    def use_pooled(self, x: Tensor) -> Tensor:
        return self.step(self.pool(F.relu6(self.pool(self.inner(x)))))

    def use_residual(self, x: Tensor) -> Tensor:
        return F.relu(self.step(self.inner(x)) + x)

    def use_residual_in_place(self, x: Tensor) -> Tensor:
        y = self.step(self.inner(x))
        y += x
        return self.relu(y)

    def use_sum_of_three(self, x: Tensor) -> Tensor:
        return self.step(x) + self.other(self.inner(x)) + self.step(x)

    def use_twice(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return self.step(y + y) - self.step(y)

    def use_shifted(self, x: Tensor) -> Tensor:
        return self.inner(self.step(x) + self.offset) * self.mask

    def use_shape(self, x: Tensor) -> Tensor:
        y = self.step(x)
        return self.inner(y.view(y.shape[0], -1).view(y.shape)) + y.shape[1]

    def use_overwritten(self, x: Tensor) -> Tensor:
        y = self.step(x)
        z = self.inner(y)
        y.relu_()
        return self.other(z + y)

    def use_overwritten_view(self, x: Tensor) -> Tensor:
        y = self.step(x)
        first = self.inner(y)
        y.flatten(1).relu_()
        return first - self.inner(y)

    def use_second_name(self, x: Tensor) -> Tensor:
        y = z = self.step(x)
        y *= 0.5
        return self.other(z) + self.inner(y)

    def use_dropout(self, x: Tensor) -> Tensor:
        return self.inner(F.dropout(self.drop(self.step(x)), 0.5, self.training))

    def use_turned(self, x: Tensor) -> Tensor:
        return self.other(self.step(x).transpose(2, 3).contiguous()).transpose(2, 3) + self.inner(x)

    def use_joined(self, x: Tensor) -> Tensor:
        return torch.cat([self.step(x), self.inner(x)], dim=1)[:, ::2]

    def use_pair(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = self.step(x)
        return y, [self.inner(y), y * 2]

    def use_mapping(self, x: Tensor) -> dict[str, Any]:
        return {"y": self.step(x), "more": {"z": self.inner(x), "none": None}}

    def use_compared(self, x: Tensor) -> Tensor:
        return self.step(x) + (self.inner(x) > 0)


KINDS = sorted(name.removeprefix("use_") for name in vars(Node) if name.startswith("use_"))
STEPS = ("linear", "convolution", "depthwise")


@dataclass(frozen=True)
class Spec:
    """What to build: a layer of its own, one of two that several places share, or a node."""

    kind: str
    step: str = "linear"
    parts: tuple[Spec, ...] = ()

    def build(self, pool: Sequence[nn.Module]) -> nn.Module:
        if self.kind == "layer":
            return layer(self.step)
        if self.kind == "shared":
            return pool[STEPS.index(self.step) % 2]
        return Node(self.kind, self.step, [part.build(pool) for part in self.parts])


steps = st.sampled_from(STEPS)
specs = st.recursive(
    st.builds(Spec, st.sampled_from(["layer", "shared"]), steps),
    lambda inner: st.builds(
        Spec, st.sampled_from(KINDS), steps, st.lists(inner, min_size=1, max_size=2).map(tuple)
    ),
    max_leaves=4,
)
weights = st.builds(
    TensorScheme,
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    granularity=st.sampled_from(["per_tensor", "per_channel"]),
)
activations = st.builds(
    TensorScheme,
    bits=st.sampled_from([5, 8]),
    symmetric=st.booleans(),
    observer=st.sampled_from(["minmax", "percentile"]),
)
odd_ones = st.sampled_from(
    [
        None,
        LayerScheme(TensorScheme()),
        LayerScheme(TensorScheme(), TensorScheme(symmetric=False, is_dynamic=True)),
        LayerScheme(TensorScheme(), TensorScheme(bits=4)),
    ]
)
recipes = st.builds(
    lambda weight, activation, odd: Recipe(
        weight, activation, overrides={} if odd is None else {"*[rd]": odd}
    ),
    weights,
    activations,
    odd_ones,
)


class Model(nn.Module):
    """Layers around a drawn middle."""

    def __init__(self, middle: Spec) -> None:
        super().__init__()
        pool = [layer("convolution"), layer("linear")]
        self.stem = layer("convolution")
        self.middle = middle.build(pool)
        self.head = nn.Linear(CHANNELS * SIZE * SIZE, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = as_tensor(self.middle(F.relu(self.stem(x))))
        return {"logits": self.head(y.reshape(-1, CHANNELS * SIZE * SIZE))}


def codes_of(values: Tensor, grid: Grid) -> Tensor:
    codes = (values / torch.tensor(grid.scale)).round() + grid.zero_point
    assert torch.allclose((codes - grid.zero_point) * grid.scale, values, rtol=1e-5)
    return codes.to(torch.uint8)


def compare_steps(simulated: nn.Module, integer: nn.Module, x: Tensor) -> None:
    """Run every step of the integer model on what the simulated one gave to its own."""
    seen: dict[str, tuple[tuple[Any, ...], Tensor]] = {}
    for name, step in simulated.graph.named_modules():
        if isinstance(step, LoweredStep):
            step.register_forward_hook(
                lambda m, args, y, n=name: seen.update({n: (copy.deepcopy(args), y.clone())})
            )
    simulated(x.clone())
    for name, (args, expected) in seen.items():
        step = integer.graph.get_submodule(name)
        if isinstance(step, MaxPoolCodes):
            continue
        if isinstance(step, LoweredLayer):
            values, *skips = args
            taken = [codes_of(values, step._grid) if step.takes_codes else values]
            taken += [s if step._skip is None else codes_of(s, step._skip) for s in skips]
            found = step(*taken)
            if step.output_qparams is None:
                assert (found - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())
                continue
            grid = Grid.of(step.output_qparams)
        else:
            grid = Grid.of(step.qparams)
            found = step(codes_of(args[0], grid) if isinstance(step, ClampCodes) else args[0])
        difference = (found.int() - codes_of(expected, grid).int()).abs()
        assert difference.max() <= 1
        assert difference.sum() <= 2 + 0.01 * difference.numel()


def check(middle: Spec, recipe: Recipe, seed: int) -> nn.Module:
    model = fill(Model(middle), seed)
    quantized = quantize_model(model, IMAGES, recipe)
    simulated = convert_execution(quantized, "simulated", lowered=True)
    integer = convert_execution(simulated)
    with torch.no_grad():
        expected = quantized(IMAGES.clone())["logits"]
        found = simulated(IMAGES.clone())["logits"]
        layers = [m for m in simulated.graph.modules() if isinstance(m, LoweredLayer)]
        if all(step._skip is None for step in layers):
            # A sum over a tensor that lies otherwise in memory may be rounded otherwise.
            assert (found - expected).abs().max() <= 1e-6 * (1 + expected.abs().max())
        if is_lowered(simulated):
            compare_steps(simulated, integer, IMAGES)
        assert integer(IMAGES.clone())["logits"].shape == expected.shape
        plain = convert_execution(quantized)(IMAGES.clone())["logits"]
        assert plain.shape == expected.shape
    return simulated


@settings(max_examples=12)
@given(specs, recipes, st.integers(0, 2**31))
def test_any_graph_is_lowered_to_the_same_numbers(middle: Spec, recipe: Recipe, seed: int) -> None:
    check(middle, recipe, seed)


RECIPES = (
    Recipe(TensorScheme(granularity="per_channel"), TensorScheme(symmetric=False)),
    Recipe(TensorScheme(), TensorScheme(symmetric=False, bits=7)),
)


@pytest.mark.parametrize("place", range(len(KINDS)), ids=KINDS)
def test_kinds_inside_each_other(place: int) -> None:
    """Each kind stands inside the next and inside the third after it.

    Over all cases it is innermost, between two and outermost, each time with a step of another
    sort, and under both recipes.
    """
    parts: tuple[Spec, ...] = (Spec("shared", "linear"), Spec("layer", "convolution"))
    for distance, step in zip((0, 1, 4), STEPS, strict=True):
        middle = Spec(KINDS[(place + distance) % len(KINDS)], step, parts)
        parts = (middle, Spec("shared", "linear"))

    assert is_lowered(check(middle, RECIPES[place % 2], seed=place))
