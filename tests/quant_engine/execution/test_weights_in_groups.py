"""Weights in groups with float inputs, on integers: half the memory, the numbers of simulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from quant_engine import (
    Recipe,
    TensorScheme,
    convert_execution,
    list_executions,
    load_quantized_model,
    quantize_model,
    save_quantized_model,
)
from quant_engine.execution.integer import float_input
from quant_engine.layers import PackedTensor, QuantizedLinear
from tests.quant_engine.layer_cases import fill, seeded

GROUPS = TensorScheme(4, granularity="per_group", group_size=32)


def pair(model: nn.Module, scheme: TensorScheme = GROUPS) -> tuple[nn.Module, nn.Module]:
    """The same quantized model, simulated and on integers."""
    simulated = quantize_model(fill(model), None, Recipe(scheme))
    return simulated, convert_execution(simulated, "integer")


def held_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.buffers())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("columns", [64, 70, 31])
def test_pieces_give_what_simulation_gives_but_for_the_order_of_sums(
    bits: int, symmetric: bool, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = TensorScheme(bits, symmetric=symmetric, granularity="per_group", group_size=32)
    simulated, integer = pair(nn.Sequential(nn.Linear(columns, 37)), scheme)
    x = seeded((5, columns))
    monkeypatch.setattr(float_input, "PIECE", 8 * columns)  # 8, 8, 8, 8 and 5 rows

    (entry,) = list_executions(integer)
    assert entry.execution == "weights_only"
    assert "two to a byte" in entry.reason
    layer = simulated[0]
    assert isinstance(layer, QuantizedLinear)
    assert isinstance(integer[0].stored_weight, PackedTensor)
    weight = layer.weight.detach()
    parts = list(integer[0].stored_weight.weight_pieces(8 * columns))
    assert [len(part) for part in parts] == [8, 8, 8, 8, 5]
    assert torch.equal(torch.cat(parts), weight)
    bound = columns * torch.finfo(torch.float32).eps * (x.abs() @ weight.abs().T)
    assert ((integer(x) - simulated(x)).abs() <= bound).all()


def test_codes_take_half_the_memory_and_the_state_is_the_same() -> None:
    simulated, integer = pair(nn.Sequential(nn.Linear(64, 16, bias=False)))
    scales = 4 * 16 * 2
    assert held_bytes(simulated) == 64 * 16 + scales
    assert held_bytes(integer) == 64 * 16 // 2 + scales
    expected, found = simulated.state_dict(), integer.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_loading_and_saving_know_the_codes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    simulated, integer = pair(model)
    x = seeded((4, 64))
    expected = simulated(x)

    save_quantized_model(integer, tmp_path)
    torch.testing.assert_close(load_quantized_model(model, tmp_path)(x), expected)

    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(-2)
    other = quantize_model(model, None, Recipe(GROUPS))
    integer.load_state_dict(other.state_dict())
    torch.testing.assert_close(integer(x), other(x))
    torch.testing.assert_close(convert_execution(integer, "simulated")(x), other(x))


def test_convolutions_unpack_and_shared_weights_stay_as_they_are() -> None:
    simulated, integer = pair(nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.Conv2d(5, 5, 1)))
    x = seeded((2, 8, 6, 6))
    assert isinstance(integer[0].stored_weight, PackedTensor)
    torch.testing.assert_close(integer(x), simulated(x))

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 32), nn.Linear(32, 9, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.table(x))
            return y

    simulated, integer = pair(Tied())
    assert integer.head.stored_weight is integer.table.stored_weight
    assert not isinstance(integer.head.stored_weight, PackedTensor)
    torch.testing.assert_close(integer(torch.arange(9)), simulated(torch.arange(9)))
