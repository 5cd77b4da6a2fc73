"""QuantizedLinear against torch's, over all arguments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quant_engine.layers import QuantizedLinear
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import choose_qparams
from tests.quant_engine.layer_cases import (
    assert_rounded,
    expected,
    fill,
    layer_schemes,
    quantized,
    seeded,
)


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
    lead=st.sampled_from([(), (3,), (2, 3), (0,), (2, 1, 3)]),
    scheme=layer_schemes,
    seed=st.integers(0, 99),
)
def test_any_linear(
    sizes: tuple[int, int], bias: bool, lead: tuple[int, ...], scheme: LayerScheme, seed: int
) -> None:
    module = fill(nn.Linear(*sizes, bias=bias), seed)
    x = seeded((*lead, sizes[0]), seed)
    layer = quantized(module, x if x.numel() else torch.ones(1), scheme)

    assert torch.equal(layer(x), expected(module, layer, x))
    assert_rounded(module, layer)
    assert (layer.bias is None) == (module.bias is None)


def test_worked_by_hand() -> None:
    scheme = LayerScheme(TensorScheme(bits=3), TensorScheme(bits=3, symmetric=False))
    layer = QuantizedLinear(2, 1, scheme=scheme)
    layer.weight.data = torch.tensor([[0.9, -3.0]])
    layer.bias.data = torch.tensor([10.0])

    layer.quantize_weights()
    layer.set_input_qparams(
        choose_qparams(torch.tensor(-4.0), torch.tensor(3.0), scheme.activation)
    )

    assert layer.quantized_weight.tolist() == [[1, -3]]
    assert layer.stored_weight.scale.item() == 1.0
    assert (layer.input_grid.scale.item(), layer.input_grid.zero_point.item()) == (1.0, 0)
    # x = [1.4, 99] is rounded and clipped to [1, 3]; 1·1 + 3·(-3) + 10 = 2.
    assert layer(torch.tensor([1.4, 99.0])).tolist() == [2.0]


def test_each_channel_has_its_own_scale() -> None:
    module = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.27, 0.0, -0.5], [127.0, 1.0, -64.0]]))

    layer = QuantizedLinear.from_float(module, LayerScheme(TensorScheme(granularity="per_channel")))

    torch.testing.assert_close(layer.stored_weight.scale, torch.tensor([0.01, 1.0]))
    assert layer.quantized_weight.tolist() == [[127, 0, -50], [127, 1, -64]]


def test_seed_signature() -> None:
    layer = QuantizedLinear(4, 3, False)
    layer.quantize_weights()

    assert (layer.in_features, layer.out_features, layer.bias) == (4, 3, None)
    x = seeded((2, 4))
    assert torch.equal(layer(x), F.linear(x, layer.weight))
