"""Which layers can be treated together is known without treating them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quant_engine.remedies import SmoothingGroup, Targets, find_targets
from sample_models import get_model_info, load_model
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot


def test_the_neighbours_of_a_block_are_found() -> None:
    model = load_model("mobilenet_unequal_channels")
    before = snapshot(model)

    found = find_targets(model, get_model_info("mobilenet").load_inputs("test")[0][:4])

    pairs = found.pairs
    assert ("blocks.1.expand", "blocks.1.depthwise") in pairs
    assert ("blocks.1.depthwise", "blocks.1.project") in pairs
    assert len(pairs) == 15
    expand = SmoothingGroup(("blocks.1.depthwise",), folded_into="blocks.1.expand")
    assert expand in found.groups
    assert snapshot(model) == before


def test_layers_that_read_one_tensor_are_found_together() -> None:
    found = find_targets(load_model("vit"), get_model_info("vit").load_inputs("test")[0][:4])

    projections = tuple(f"blocks.0.attention.{name}_proj" for name in "qkv")
    assert found.groups[:2] == (SmoothingGroup(projections), SmoothingGroup(("blocks.0.fc1",)))
    assert found.pairs == ()


def test_a_forward_that_cannot_be_captured_has_no_targets() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.a(x) if float(x.sum()) > 0 else torch.zeros_like(x)
            return result

    assert find_targets(fill(Deciding()), seeded((3, 4))) == Targets()


def test_the_layers_that_reach_a_layer_are_found_through_branches() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            result: Tensor = self.d(self.b(y) + y) + self.c(x)
            return result

    found = find_targets(fill(Branches()), seeded((3, 4)))

    assert found.upstream == {"a": (), "b": ("a",), "c": (), "d": ("a", "b")}
