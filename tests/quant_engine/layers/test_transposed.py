"""QuantizedConvTranspose2d against torch's, over all arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from quant_engine.errors import DataError
from quant_engine.layers import QuantizedConvTranspose2d
from quant_engine.scheme import LayerScheme
from tests.quant_engine.layer_cases import (
    WITH_INPUT,
    assert_rounded,
    expected,
    fill,
    layer_schemes,
    quantized,
    seeded,
)


def pairs(lowest: int, highest: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(lowest, highest), st.integers(lowest, highest))


@st.composite
def transposed(draw: st.DrawFn) -> dict[str, Any]:
    groups = draw(st.integers(1, 3))
    stride, dilation = draw(pairs(1, 3)), draw(pairs(1, 3))
    limits = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    return {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": draw(pairs(2, 4)),
        "stride": stride,
        "padding": draw(pairs(0, 1)),
        "output_padding": tuple(draw(st.integers(0, limit)) for limit in limits),
        "groups": groups,
        "bias": draw(st.booleans()),
        "dilation": dilation,
    }


@given(
    arguments=transposed(), scheme=layer_schemes, is_batched=st.booleans(), seed=st.integers(0, 99)
)
def test_any_transposed_convolution(
    arguments: dict[str, Any], scheme: LayerScheme, is_batched: bool, seed: int
) -> None:
    module = fill(nn.ConvTranspose2d(**arguments), seed)
    x = seeded((2, arguments["in_channels"], 4, 5), seed)
    x = x if is_batched else x[0]
    layer = quantized(module, x, scheme)

    assert torch.equal(layer(x), expected(module, layer, x))
    assert_rounded(module, layer)
    twin = QuantizedConvTranspose2d(**arguments)
    assert all(getattr(twin, n) == getattr(layer, n) for n in layer.float_arguments)


@given(
    arguments=transposed(),
    is_batched=st.booleans(),
    is_full=st.booleans(),
    added=pairs(0, 2),
)
def test_output_size(
    arguments: dict[str, Any], is_batched: bool, is_full: bool, added: tuple[int, int]
) -> None:
    assume(all(a < s for a, s in zip(added, arguments["stride"], strict=True)))
    module = fill(nn.ConvTranspose2d(**{**arguments, "output_padding": 0}))
    x = seeded((2, arguments["in_channels"], 4, 5))
    x = x if is_batched else x[0]
    layer = quantized(module, x, WITH_INPUT)
    smallest = module(x).shape
    size = [smallest[-2] + added[0], smallest[-1] + added[1]]
    wanted = [*smallest[:-2], *size] if is_full else size

    y = layer(x, output_size=wanted)

    assert list(y.shape[-2:]) == size
    assert torch.equal(y, expected(module, layer, x, size))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20, 9), "20 on axis -2. This input allows 9 to 10"),
        ((9, 8), "8 on axis -1. This input allows 9 to 10"),
        ((9,), "output_size has 1 entries"),
        ((1, 9, 9), "output_size has 3 entries"),
    ],
)
def test_impossible_output_size(size: tuple[int, ...], message: str) -> None:
    layer = QuantizedConvTranspose2d(2, 2, 3, stride=2)

    with pytest.raises(DataError, match=message):
        layer(seeded((1, 2, 4, 4)), output_size=size)


def test_scales_lie_on_the_output_channels() -> None:
    module = fill(nn.ConvTranspose2d(6, 4, 3, groups=2))
    layer = quantized(module, seeded((1, 6, 5, 5)), WITH_INPUT)

    largest = module.weight.detach().abs().amax(dim=(0, 2, 3))
    torch.testing.assert_close(layer.stored_weight.scale, largest / 127)
    assert layer.stored_weight.scale.shape == (2,)
