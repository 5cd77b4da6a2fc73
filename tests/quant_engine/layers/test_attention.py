"""Split attention computes what torch's attention computes, for all arguments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.errors import DataError
from quant_engine.layers.attention import SplitMultiheadAttention, additive_mask
from quant_engine.preparation.prepared_model import prepare
from tests.quant_engine.layer_cases import doubled, fill, seeded

SAMPLES, QUERIES, KEYS = 3, 4, 5


@st.composite
def attentions(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.integers(1, 3))
    return {
        "embed_dim": heads * draw(st.integers(1, 4)),
        "num_heads": heads,
        "dropout": draw(st.sampled_from([0.0, 0.5])),
        "bias": draw(st.booleans()),
        "add_bias_kv": draw(st.booleans()),
        "add_zero_attn": draw(st.booleans()),
        "kdim": draw(st.none() | st.integers(1, 5)),
        "vdim": draw(st.none() | st.integers(1, 5)),
        "batch_first": draw(st.booleans()),
    }


def bool_mask(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """True where nothing may be looked at; the first key is always left, or the result is NaN."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    mask = torch.rand(shape, generator=generator) < 0.4
    mask[..., 0] = False
    return mask


@st.composite
def masks(draw: st.DrawFn, heads: int, length: int, is_batched: bool) -> dict[str, Any]:
    """Keyword arguments of a call."""
    samples = SAMPLES if is_batched else 1
    kind = draw(st.sampled_from(["none", "bool", "float"]))
    result: dict[str, Any] = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(length, KEYS), (samples * heads, length, KEYS)]))
        result["attn_mask"] = bool_mask(draw, shape)
    if draw(st.booleans()):
        result["key_padding_mask"] = bool_mask(draw, (samples, KEYS) if is_batched else (KEYS,))
    if kind == "float":
        for name in {"attn_mask", "key_padding_mask"} & result.keys():
            result[name] = torch.where(result[name], -2.5, seeded(result[name].shape))
    elif kind == "none":
        result.pop("attn_mask", None)
        result.pop("key_padding_mask", None)
    return result


def ordered(x: Tensor, module: nn.MultiheadAttention) -> Tensor:
    """(N, L, E) as the module wants it."""
    return x if module.batch_first else x.transpose(0, 1)


def assert_same(module: nn.MultiheadAttention, *inputs: Tensor, **call: Any) -> None:
    """The same to float32 rounding and, where a wrong formula cannot hide, to float64 rounding."""
    wide = copy.deepcopy(module).double()
    wide_call = {name: doubled(value) for name, value in call.items()}
    for original, tensors, arguments, tolerance in (
        (module, inputs, call, 1e-4),
        (wide, [x.double() for x in inputs], wide_call, 1e-9),
    ):
        if len({id(x) for x in inputs}) == 1:
            tensors = [tensors[0]] * 3
        with torch.no_grad():
            want, want_weights = original(*tensors, **arguments)
            got, got_weights = SplitMultiheadAttention(original)(*tensors, **arguments)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
        assert (got_weights is None) == (want_weights is None)
        if want_weights is not None:
            torch.testing.assert_close(got_weights, want_weights, rtol=tolerance, atol=tolerance)


@given(arguments=attentions(), is_batched=st.booleans(), data=st.data(), seed=st.integers(0, 99))
def test_any_attention(
    arguments: dict[str, Any], is_batched: bool, data: st.DataObject, seed: int
) -> None:
    module = fill(nn.MultiheadAttention(**arguments), seed)
    assert isinstance(module, nn.MultiheadAttention)
    call = data.draw(masks(module.num_heads, QUERIES, is_batched))
    value = seeded((SAMPLES, KEYS, module.vdim), seed + 1)
    key = value if module.vdim == module.kdim and data.draw(st.booleans()) else None
    key = seeded((SAMPLES, KEYS, module.kdim), seed + 2) if key is None else key
    inputs = [seeded((SAMPLES, QUERIES, module.embed_dim), seed), key, value]

    if is_batched:
        assert_same(module, *(ordered(x, module) for x in inputs), **call)
    else:
        assert_same(module, *(x[0] for x in inputs), **call)


@given(arguments=attentions(), data=st.data(), seed=st.integers(0, 99))
def test_any_self_attention(arguments: dict[str, Any], data: st.DataObject, seed: int) -> None:
    """One tensor three times: where torch takes its fast path."""
    module = fill(nn.MultiheadAttention(**{**arguments, "kdim": None, "vdim": None}), seed)
    assert isinstance(module, nn.MultiheadAttention)
    x = ordered(seeded((SAMPLES, KEYS, module.embed_dim), seed), module)

    assert_same(module, x, x, x, **data.draw(masks(module.num_heads, KEYS, is_batched=True)))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padding", [None, torch.tensor([[False] * 4 + [True]] * SAMPLES)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_causal(need_weights: bool, padding: Tensor | None, batch_first: bool) -> None:
    module = fill(nn.MultiheadAttention(4, 2, batch_first=batch_first))
    assert isinstance(module, nn.MultiheadAttention)
    x = ordered(seeded((SAMPLES, KEYS, 4)), module)
    mask = nn.Transformer.generate_square_subsequent_mask(KEYS)
    padding = None if padding is None else additive_mask(padding, torch.float32)

    assert_same(
        module,
        x,
        x,
        x,
        attn_mask=mask,
        is_causal=True,
        need_weights=need_weights,
        key_padding_mask=padding,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    module = fill(nn.MultiheadAttention(8, 2, add_bias_kv=True)).to(dtype)
    x = seeded((KEYS, SAMPLES, 8)).to(dtype)
    split = SplitMultiheadAttention(module)
    mask = torch.zeros(KEYS, KEYS, dtype=torch.bool).fill_diagonal_(True)

    with torch.no_grad():
        got, _ = split(x, x, x, attn_mask=mask)
        want, _ = module(x, x, x, attn_mask=mask)

    assert got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


def test_in_training_dropout_is_applied() -> None:
    module = fill(nn.MultiheadAttention(8, 2, dropout=0.5)).train()
    x = seeded((KEYS, SAMPLES, 8))
    split = SplitMultiheadAttention(module)

    for need_weights in (False, True):
        torch.manual_seed(0)
        first, _ = split(x, x, x, need_weights=need_weights)
        second, _ = split(x, x, x, need_weights=need_weights)
        assert not torch.equal(first, second)
    torch.manual_seed(3)
    got = split(x, x, x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(got, module(x, x, x)[0])


def test_parameters_are_those_of_the_original() -> None:
    module = fill(nn.MultiheadAttention(6, 2))
    module.in_proj_weight.requires_grad_(False)

    split = SplitMultiheadAttention(copy.deepcopy(module))

    packed = torch.cat([split.q_proj.weight, split.k_proj.weight, split.v_proj.weight])
    assert torch.equal(packed, module.in_proj_weight)
    assert not split.k_proj.weight.requires_grad
    assert split.out_proj.weight.requires_grad
    assert {type(layer) for layer in split.children()} == {nn.Linear}
    assert sum(p.numel() for p in split.parameters()) == sum(p.numel() for p in module.parameters())
    assert not split.training


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 4, "vdim": 8}])
def test_packed_parameters_are_found_under_torchs_names(bias: bool, widths: dict[str, int]) -> None:
    module = fill(nn.MultiheadAttention(6, 2, bias=bias, **widths))

    split = SplitMultiheadAttention(module)

    for name in ("in_proj_weight", "in_proj_bias", *(f"{x}_proj_weight" for x in "qkv")):
        got, want = getattr(split, name), getattr(module, name)
        assert (got is None) == (want is None)
        assert want is None or torch.equal(got, want)


class ReadsPacked(nn.Module):
    """Hands the packed parameters to torch's function itself, and calls the module as well."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.both = nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for attention in (self.read, self.both):
            x, _ = F.multi_head_attention_forward(
                x,
                x,
                x,
                6,
                2,
                attention.in_proj_weight,
                attention.in_proj_bias,
                None,
                None,
                False,
                0.0,
                attention.out_proj.weight,
                attention.out_proj.bias,
                training=False,
            )
        y: Tensor = self.head(self.both(x, x, x)[0][0])
        return y


def test_a_model_that_reads_packed_parameters_is_quantized() -> None:
    model = fill(ReadsPacked()).eval()
    x = seeded((SAMPLES, KEYS, 6))

    report = analyze(model, x, measure_time=False)
    quantized = quantize_model(model, x)

    read = report.layer("read.q_proj")
    assert read.is_quantized
    assert read.reason.startswith("weight-only, since its weight is read by `torch.cat`")
    assert report.layer("both.q_proj").is_quantized
    with torch.no_grad():
        torch.testing.assert_close(prepare(model).model(x), model(x))
        assert (quantized(x) - model(x)).norm() < 0.15 * model(x).norm()


def test_each_projection_is_called_as_a_layer() -> None:
    split = SplitMultiheadAttention(fill(nn.MultiheadAttention(6, 2)))
    calls = []
    for name, layer in split.named_children():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    x = seeded((KEYS, SAMPLES, 6))

    with torch.no_grad():
        split(x, x, x, need_weights=False)

    assert sorted(calls) == ["k_proj", "out_proj", "q_proj", "v_proj"]


class TestBadMasks:
    module = SplitMultiheadAttention(nn.MultiheadAttention(4, 2))
    x = torch.zeros(KEYS, SAMPLES, 4)

    @pytest.mark.parametrize("shape", [(KEYS, KEYS + 1), (SAMPLES, KEYS, KEYS), (1, KEYS)])
    def test_shape_of_attention_mask(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"attn_mask has shape .* must be \(5, 5\) or \(6, 5"):
            self.module(self.x, self.x, self.x, attn_mask=torch.zeros(shape))

    def test_shape_of_padding_mask(self) -> None:
        with pytest.raises(DataError, match=r"key_padding_mask has shape .* must be \(3, 5\)"):
            self.module(self.x, self.x, self.x, key_padding_mask=torch.zeros(KEYS, SAMPLES))

    def test_type(self) -> None:
        with pytest.raises(DataError, match=r"torch\.int64\. Masks are bool or float"):
            self.module(self.x, self.x, self.x, attn_mask=torch.zeros(KEYS, KEYS).long())

    def test_causal_without_a_mask(self) -> None:
        with pytest.raises(DataError, match="is_causal is a hint"):
            self.module(self.x, self.x, self.x, is_causal=True)
