"""On module graphs drawn at random, every variant equals a plain pass of a really changed copy.

The oracle knows nothing of switches or replay: it puts the quantized layers into a copy of the
model, and runs it on fresh data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine.judging.judged import Judged, JudgedOutput
from quant_engine.layers import get_quantized_type
from quant_engine.model.batches import Batch
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.variants.outcomes import BatchOutcome
from quant_engine.variants.runner import Variant, VariantRunner

WIDTH = 4
SCHEME = LayerScheme(TensorScheme(bits=4))


class Node(nn.Module):
    """One way in which a module uses what is inside it."""

    def __init__(self, kind: str, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.kind = kind
        self.parts = nn.ModuleList(parts)
        self.step = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.5)
        self.cache: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        return getattr(self, f"use_{self.kind}")(x)

    def _inner(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = as_tensor(part(x))
        return x

    def use_chain(self, x: Tensor) -> Tensor:
        return self.step(self._inner(x))

    def use_branches(self, x: Tensor) -> Tensor:
        return self.step(sum((as_tensor(part(x)) for part in self.parts), torch.zeros_like(x)))

    def use_reuse(self, x: Tensor) -> Tensor:
        return self._inner(F.relu(self.step(self._inner(x))))

    def use_residual(self, x: Tensor) -> Tensor:
        return self._inner(self.step(x)) + x

    def use_in_place(self, x: Tensor) -> Tensor:
        y = self.step(x)
        z = self._inner(y)
        y.relu_()
        return z + y

    def use_in_place_on_input(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self._inner(self.step(x)) + x

    def use_in_place_on_answer(self, x: Tensor) -> Tensor:
        return self._inner(x).add_(1.0) + self.step(x)

    def use_slices(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._inner(self.step(x)).chunk(2, dim=-1)

    def use_pair(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        y = self.step(x)
        return y, [self._inner(y), y * 2]

    def use_mapping(self, x: Tensor) -> dict[str, Any]:
        return {"y": self.step(x), "more": {"z": self._inner(x), "note": "text", "none": None}}

    def use_gate(self, x: Tensor) -> Tensor:
        y = self.step(x)
        return self._inner(y) if y.sum() > 0 else y * 0.5

    def use_loop(self, x: Tensor) -> Tensor:
        y = self.step(x)
        for _ in range(1 + int(y.abs().sum() * 4) % 3):
            y = torch.tanh(self._inner(y))
        return y

    def use_dropout(self, x: Tensor) -> Tensor:
        return self._inner(self.drop(self.step(x)))

    def use_cached(self, x: Tensor) -> Tensor:
        self.cache.clear()
        self.cache.append(self.step(x))
        return self._inner(self.cache[0]) * self.cache[0]

    def use_weight_after(self, x: Tensor) -> Tensor:
        return F.linear(self._inner(self.step(x)), self.step.weight)

    def use_weight_before(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.step.weight.t())
        return self.step(self._inner(y)) + y

    def use_weight_only(self, x: Tensor) -> Tensor:
        return self._inner(F.linear(x, self.step.weight, self.step.bias))

    def use_weight_of_part(self, x: Tensor) -> Tensor:
        y = self._inner(self.step(x))
        weights = [part.weight for part in self.parts if not isinstance(part, Node)]
        return F.linear(y, weights[-1]) if weights else y

    def use_noise(self, x: Tensor) -> Tensor:
        return self._inner(self.step(F.dropout(x, 0.5, training=True)))


KINDS = sorted(name.removeprefix("use_") for name in vars(Node) if name.startswith("use_"))
QUIET = [kind for kind in KINDS if kind != "noise"]


def as_tensor(value: Any) -> Tensor:
    """Make one tensor of (samples, WIDTH) of whatever a module returned."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = [item for item in value.values() if isinstance(item, Tensor | list | Mapping)]
    parts = [as_tensor(item) for item in value]
    if parts[0].shape[-1] < WIDTH:
        return torch.cat(parts, dim=-1)
    return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class Spec:
    """What to build: a leaf (a layer of its own, or one of two that several places share)."""

    kind: str
    parts: tuple[Spec, ...] = ()

    def build(self, pool: Sequence[nn.Module]) -> nn.Module:
        if self.kind == "layer":
            return nn.Linear(WIDTH, WIDTH)
        if self.kind in ("shared 0", "shared 1"):
            return pool[int(self.kind[-1])]
        return Node(self.kind, [part.build(pool) for part in self.parts])


def specs(kinds: Sequence[str]) -> st.SearchStrategy[Spec]:
    leaves = st.sampled_from(["layer", "shared 0", "shared 1"]).map(Spec)
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            Spec, st.sampled_from(kinds), st.lists(inner, min_size=1, max_size=3).map(tuple)
        ),
        max_leaves=5,
    )


class Model(nn.Module):
    """Layers around a drawn middle; answers with logits in a mapping."""

    def __init__(self, middle: Spec) -> None:
        super().__init__()
        pool = [nn.Linear(WIDTH, WIDTH) for _ in range(2)]
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.middle = middle.build(pool)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x.add_(0.25)
        return {"logits": self.head(as_tensor(self.middle(self.stem(x))))}


def make(middle: Spec, seed: int) -> tuple[nn.Module, dict[str, nn.Module], Batch]:
    generator = torch.Generator().manual_seed(seed)
    model = Model(middle).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layers = {
        name: get_quantized_type(module).from_float(module, SCHEME)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    x = torch.randn(5, WIDTH, generator=generator)
    return model, layers, Batch((x,), labels=torch.arange(5) % 3, samples=5)


def choose_variants(names: Sequence[str], left_out: Sequence[str]) -> list[Variant]:
    """Each layer alone, all but each of those left out, all, every other one, and none."""
    everything = dict.fromkeys(names, "int4")
    return [
        *({name: "int4"} for name in names),
        *({n: "int4" for n in names if n != name} for name in left_out),
        everything,
        dict.fromkeys(names[::2], "int4"),
        {},
    ]


def run_plainly(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batch: Batch,
    variant: Variant,
    random_state: Tensor,
) -> Tensor:
    # Wherever the model keeps a changed layer, the quantized one stands for this run.
    changed = {id(model.get_submodule(name)): layers[name] for name in variant}
    kept = [(m._modules, key, part) for m in model.modules() for key, part in m._modules.items()]
    for modules, key, part in kept:
        modules[key] = changed.get(id(part), part)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.random.set_rng_state(random_state)
            logits: Tensor = model(batch.args[0].clone())["logits"]
            return logits
    finally:
        for modules, key, part in kept:
            modules[key] = part


def check(middle: Spec, seed: int, most_left_out: int | None = None) -> BatchOutcome:
    model, layers, batch = make(middle, seed)
    plain, fresh = copy.deepcopy((model, layers))
    before = batch.args[0].clone()
    names = list(layers)
    variants = choose_variants(names, names[:most_left_out])
    random_state = torch.random.get_rng_state()
    judged = Judged((JudgedOutput("the output", kind="logits", has_labels=True),))
    forms = {name: {"int4": layer} for name, layer in layers.items()}
    runner = VariantRunner(model, forms, judged=judged)

    found = runner.run(batch, variants, [dict.fromkeys(names, "int4")])

    logits = run_plainly(plain, fresh, batch, {}, random_state)
    ((first,), *_) = found.variants
    assert np.array_equal(first["signal"], logits.double().square().sum(1).numpy())
    for variant, outcome in zip(variants, found.variants, strict=True):
        output = run_plainly(plain, fresh, batch, variant, random_state)
        (wanted,) = judged.compare((logits,), (output,), batch)
        assert set(outcome[0]) == set(wanted)
        for name, column in wanted.items():
            assert np.array_equal(outcome[0][name], column), (name, variant)
    assert torch.equal(batch.args[0], before)
    return found


@settings(max_examples=80)
@given(specs(QUIET), st.integers(0, 2**31))
def test_any_graph_is_replayed_and_equals_plain_passes(middle: Spec, seed: int) -> None:
    assert check(middle, seed).full_forwards_because == ""


@settings(max_examples=25)
@given(specs(KINDS), st.integers(0, 2**31))
def test_graphs_that_may_draw_random_numbers_equal_plain_passes(middle: Spec, seed: int) -> None:
    check(middle, seed)


@pytest.mark.parametrize("kind", QUIET)
def test_each_kind_is_replayed(kind: str) -> None:
    layer = Spec("layer")
    found = check(Spec("chain", (layer, Spec(kind, (layer, Spec("shared 0"))), layer)), seed=1)

    assert found.full_forwards_because == ""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_inside_each_other(kind: str) -> None:
    # The last layer is changed alone too: all that came before it is then replayed. Where all but
    # one are changed, hardly anything is, so that only the first is left out.
    parts = (Spec(kind, (Spec("shared 1"), Spec("layer"))), Spec("shared 1"), Spec("layer"))
    for outer in QUIET:
        found = check(Spec(outer, parts), seed=2, most_left_out=1)
        # A gate or a loop may not come to the noise.
        assert kind == "noise" or found.full_forwards_because == "", outer


def test_random_layers_that_are_on_are_noticed() -> None:
    found = check(Spec("noise", (Spec("layer"),)), seed=3)

    assert found.full_forwards_because == "the model draws random numbers"
