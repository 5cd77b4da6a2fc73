"""QuantizedEmbedding against torch's, over all arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import quant_engine.layers.quantized_tensor as stored_module
from quant_engine.layers import QuantizedEmbedding, QuantizedEmbeddingBag, get_quantized_type
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import QParams, dequantize
from tests.quant_engine.layer_cases import (
    WEIGHTS_ONLY,
    WITH_INPUT,
    assert_rounded,
    fill,
    layer_schemes,
    quantized,
)

ROWS = 7


@st.composite
def embeddings(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "num_embeddings": ROWS,
        "embedding_dim": draw(st.integers(1, 5)),
        "padding_idx": draw(st.none() | st.integers(-ROWS, ROWS - 1)),
        "max_norm": draw(st.none() | st.floats(0.1, 5.0)),
        "norm_type": draw(st.sampled_from([1.0, 2.0, 3.0, float("inf")])),
        "scale_grad_by_freq": draw(st.booleans()),
        "sparse": draw(st.booleans()),
    }


@given(
    arguments=embeddings(),
    scheme=layer_schemes,
    ids=st.lists(st.integers(0, ROWS - 1), max_size=9),
    dtype=st.sampled_from([torch.int64, torch.int32]),
    seed=st.integers(0, 99),
)
def test_any_embedding(
    arguments: dict[str, Any], scheme: LayerScheme, ids: list[int], dtype: torch.dtype, seed: int
) -> None:
    module = fill(nn.Embedding(**arguments), seed)
    x = torch.tensor(ids, dtype=dtype)
    layer = quantized(module, x, scheme)
    table = layer.dequantized_weight().clone()

    y = layer(x)

    oracle = F.embedding(x, table, max_norm=arguments["max_norm"], norm_type=arguments["norm_type"])
    torch.testing.assert_close(y, oracle, rtol=1e-6, atol=1e-7)
    assert_rounded(module, layer)
    twin = QuantizedEmbedding(**arguments)
    assert all(getattr(twin, n) == getattr(layer, n) for n in layer.float_arguments)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (1, 2, 3)])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_any_shape_of_ids(shape: tuple[int, ...], granularity: str) -> None:
    module = fill(nn.Embedding(ROWS, 4))
    scheme = LayerScheme(TensorScheme(granularity=granularity, symmetric=False))
    layer = QuantizedEmbedding.from_float(module, scheme)
    x = torch.randint(ROWS, shape, generator=torch.Generator().manual_seed(1))

    y = layer(x)

    assert y.shape == (*shape, 4)
    assert torch.equal(y, layer.dequantized_weight()[x])


def test_max_norm_leaves_the_table_as_it_is() -> None:
    module = fill(nn.Embedding(ROWS, 4, max_norm=0.5))
    before = module.weight.detach().clone()
    layer = QuantizedEmbedding.from_float(module, WEIGHTS_ONLY)
    codes = layer.quantized_weight.clone()
    x = torch.arange(ROWS)

    first, second = layer(x), layer(x)

    assert torch.equal(module.weight, before)
    assert torch.equal(layer.quantized_weight, codes)
    assert torch.equal(first, second)
    assert (first.norm(dim=-1) <= 0.5 + 1e-6).all()


def test_max_norm_before_quantization() -> None:
    module = fill(nn.Embedding(ROWS, 4, max_norm=0.5))
    layer = QuantizedEmbedding.like(copy.deepcopy(module), WEIGHTS_ONLY)
    before = layer.weight.detach().clone()
    x = torch.arange(ROWS)

    assert torch.allclose(layer(x), module(x), rtol=1e-6)
    assert torch.equal(layer.weight, before)


def test_only_the_rows_asked_for_are_dequantized(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = QuantizedEmbedding.from_float(fill(nn.Embedding(ROWS, 4)), WEIGHTS_ONLY)
    sizes = []

    def counting(codes: Tensor, grid: QParams) -> Tensor:
        sizes.append(codes.numel())
        return dequantize(codes, grid)

    monkeypatch.setattr(stored_module, "dequantize", counting)
    layer(torch.tensor([5, 0]))

    assert sizes == [8]


@pytest.mark.parametrize("bad", [-1, ROWS])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_ids_outside_the_table_are_an_error(kind: type[nn.Module], bad: int) -> None:
    module = fill(kind(ROWS, 4))
    layer = get_quantized_type(module).from_float(module, WEIGHTS_ONLY)

    with pytest.raises(IndexError, match="out of range"):
        layer(torch.tensor([[0, bad]]))


def test_there_is_no_input_to_quantize() -> None:
    layer = QuantizedEmbedding.from_float(fill(nn.Embedding(ROWS, 4)), WITH_INPUT)

    assert layer.scheme.activation is None
    assert layer.input_qparams is None
    assert layer.state_dict().keys() == {"stored_weight.codes", "stored_weight.scale"}


@pytest.mark.parametrize("sparse", [False, True])
def test_it_trains_until_it_is_quantized(sparse: bool) -> None:
    layer = QuantizedEmbedding(ROWS, 4, padding_idx=2, scale_grad_by_freq=not sparse, sparse=sparse)
    x = torch.tensor([1, 1, 2])

    layer(x).sum().backward()

    gradient = layer.weight.grad.to_dense() if sparse else layer.weight.grad
    assert gradient[1].tolist() == [2.0 if sparse else 1.0] * 4
    assert gradient[2].tolist() == [0.0] * 4


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("settings", [{}, {"padding_idx": 3}, {"max_norm": 0.5}])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@torch.no_grad()
def test_bags_are_those_of_torch_on_the_dequantized_table(
    mode: str, settings: dict[str, float], granularity: str
) -> None:
    module = fill(nn.EmbeddingBag(ROWS, 4, mode=mode, **settings))
    scheme = LayerScheme(TensorScheme(granularity=granularity, symmetric=False))
    layer = QuantizedEmbeddingBag.from_float(module, scheme)
    oracle = copy.deepcopy(module)
    oracle.weight.copy_(layer.dequantized_weight())
    ids = torch.tensor([1, 3, 3, 0, 5, 1])
    offsets = torch.tensor([0, 2, 2, 5])

    for arguments in ((ids, offsets), (ids.view(2, 3),), (torch.tensor([[3, 3]]),)):
        assert torch.allclose(layer(*arguments), oracle(*arguments), atol=1e-6)
    if mode == "sum":
        shares = torch.linspace(-1, 2, 6)
        found = layer(ids, offsets, per_sample_weights=shares)
        assert torch.allclose(found, oracle(ids, offsets, per_sample_weights=shares), atol=1e-6)


@torch.no_grad()
def test_bags_may_end_with_an_offset_of_their_own_and_be_of_half_precision() -> None:
    module = fill(nn.EmbeddingBag(ROWS, 4, mode="sum", include_last_offset=True)).half()
    layer = QuantizedEmbeddingBag.from_float(module, WEIGHTS_ONLY)
    ids, offsets = torch.tensor([1, 3, 0]), torch.tensor([0, 2, 3])
    y = layer(ids, offsets)

    assert (y.shape, y.dtype) == ((2, 4), torch.float16)
    assert torch.allclose(y.float(), module(ids, offsets).float(), atol=0.05)
