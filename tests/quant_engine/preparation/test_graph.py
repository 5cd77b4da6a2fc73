"""Capturing a forward as a graph: names, outputs, what cannot be captured, and no trace left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor

from quant_engine import UnsupportedLayerError, analyze, quantize_model
from quant_engine.graph.capture import capture_graph
from quant_engine.model.batches import Batch
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((4, 6))


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


class Block(nn.Module):
    """Two layers, and an answer of several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Answer:
        hidden = self.inner(x)
        return Answer(self.head(hidden), hidden)


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if y.sum() > 0 else -y


class Remembering(nn.Module):
    """Sets attributes, buffers and entries of a list in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.seen: list[Tensor] = []
        self.register_buffer("count", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layer(x))
        self.last = y
        self.layer.answer = y  # type: ignore[assignment]
        self.seen.append(y)
        self.count = self.count + y.sum(0)
        z: Tensor = self.head(y)
        return z


def batch_of(x: Tensor) -> Batch:
    return Batch((x,), {}, None, len(x), "data", 0)


def names_read(graph: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}


@torch.no_grad()
def test_parameters_keep_their_names_and_the_graph_computes_the_same() -> None:
    model = fill(Block()).eval()
    graph = capture_graph(model, batch_of(X))
    expected = model(X)

    assert names_read(graph) == {f"model.{name}" for name, _ in model.named_parameters()}
    logits, hidden = graph(X)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(hidden, expected.hidden)


def test_operations_know_the_module_that_calls_them() -> None:
    graph = capture_graph(fill(Block()).eval(), batch_of(X))
    stacks = [
        [name for name, _ in node.meta["nn_module_stack"].values()]
        for node in graph.graph.nodes
        if "linear" in str(node.target)
    ]
    assert [stack[-1] for stack in stacks] == ["model.inner.0", "model.head"]


def test_a_forward_that_decides_on_values_is_refused() -> None:
    with pytest.raises(UnsupportedLayerError, match="could not be captured"):
        capture_graph(fill(Deciding()).eval(), batch_of(X))


@torch.no_grad()
def test_two_threads_capture_at_once() -> None:
    models = [fill(Block()).eval(), fill(nn.Sequential(nn.Linear(6, 3), nn.Tanh())).eval()] * 3
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda model: capture_graph(model, batch_of(X)), models))

    for model, graph in zip(models, graphs, strict=True):
        answer = model(X)
        expected = answer.logits if isinstance(answer, Answer) else answer
        torch.testing.assert_close(graph(X)[0], expected)


def held(model: nn.Module) -> list[Any]:
    """Return all that the modules of a model hold, with the entries of lists."""
    values = [v for m in model.modules() for v in (*vars(m).values(), *m._buffers.values())]
    return [*values, *(item for value in values if isinstance(value, list) for item in value)]


def test_what_forward_sets_while_it_is_captured_stays_in_no_model() -> None:
    model = fill(Remembering()).eval()
    capture_graph(model, batch_of(X))
    assert not any(isinstance(value, FakeTensor) for value in held(model))
    assert (model.seen, hasattr(model, "last")) == ([], False)

    quantized = quantize_model(model, X)
    analyze(model, X, measure_time=False)
    for held_by in (model, quantized):
        assert not any(isinstance(value, FakeTensor) for value in held(held_by))
    assert (model.seen, hasattr(model, "last")) == ([], False)
    assert torch.equal(model.count, torch.zeros(6))
