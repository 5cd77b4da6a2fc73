"""QuantizedConv1d and QuantizedConv2d against torch's, over all arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quant_engine.layers import QuantizedConv1d, QuantizedConv2d
from quant_engine.layers.convolution import edge_padding
from quant_engine.scheme import LayerScheme, TensorScheme
from tests.quant_engine.layer_cases import (
    WITH_INPUT,
    assert_rounded,
    expected,
    fill,
    layer_schemes,
    quantized,
    seeded,
)

MODES = ("zeros", "reflect", "replicate", "circular")
SIDE = 11


@st.composite
def convolutions(draw: st.DrawFn, axes: int) -> dict[str, Any]:
    """Arguments of a convolution that fits an input with sides of length SIDE."""

    def sizes(lowest: int, highest: int) -> Any:
        one = st.integers(lowest, highest)
        return draw(one | st.tuples(*[one] * axes))

    groups = draw(st.integers(1, 3))
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    return {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": sizes(1, 4),
        "stride": 1 if padding == "same" else sizes(1, 3),
        "padding": sizes(0, 3) if padding == "numbers" else padding,
        "dilation": sizes(1, 3),
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": draw(st.sampled_from(MODES)),
    }


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize(("kind", "axes"), [(nn.Conv1d, 1), (nn.Conv2d, 2)])
@given(data=st.data(), scheme=layer_schemes, is_batched=st.booleans(), seed=st.integers(0, 99))
def test_any_convolution(
    kind: type[nn.Module],
    axes: int,
    data: st.DataObject,
    scheme: LayerScheme,
    is_batched: bool,
    seed: int,
) -> None:
    arguments = data.draw(convolutions(axes))
    module = fill(kind(**arguments), seed)
    x = seeded((2, arguments["in_channels"], *[SIDE] * axes), seed)
    x = x if is_batched else x[0]
    layer = quantized(module, x, scheme)

    assert torch.equal(layer(x), expected(module, layer, x))
    assert_rounded(module, layer)


@given(data=st.data(), axes=st.sampled_from([1, 2]))
def test_constructor_takes_the_same_arguments(data: st.DataObject, axes: int) -> None:
    arguments = data.draw(convolutions(axes))
    float_kind, kind = ((nn.Conv1d, QuantizedConv1d), (nn.Conv2d, QuantizedConv2d))[axes - 1]
    module = float_kind(**arguments)

    layer = kind(**arguments)

    assert layer.weight.shape == module.weight.shape
    for name in layer.float_arguments:
        assert getattr(layer, name) == getattr(module, name)


@given(
    kernel=st.integers(1, 6),
    dilation=st.integers(1, 4),
    padding=st.integers(0, 5) | st.just("same") | st.just("valid"),
)
def test_edges_are_those_torch_pads(kernel: int, dilation: int, padding: int | str) -> None:
    module = nn.Conv1d(1, 1, kernel, padding=padding, dilation=dilation)

    edges = edge_padding(module.padding, module.kernel_size, module.dilation)

    assert edges == list(module._reversed_padding_repeated_twice)


def test_padding_is_exactly_zero_after_rounding() -> None:
    # Inputs in [10, 11]: their grid has a step of 11/255 and a zero point of -128, code of 0.0.
    module = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    x = torch.full((1, 1, 3, 3), 11.0)
    layer = quantized(module, 1.25 * x, LayerScheme(TensorScheme(), TensorScheme(symmetric=False)))

    # 4, 6 or 9 of the nine taps lie inside.
    counts = torch.tensor([[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]])
    torch.testing.assert_close(layer(x)[0, 0], 11.0 * counts)


def test_seed_signature() -> None:
    layer = QuantizedConv2d(3, 8, 3, 2, 1, False)

    layer.quantize_weights()

    assert layer(seeded((1, 3, 8, 8))).shape == (1, 8, 4, 4)
    assert (layer.stride, layer.padding, layer.bias) == ((2, 2), (1, 1), None)


def test_one_scale_for_each_output_channel() -> None:
    module = fill(nn.Conv2d(6, 4, 3, groups=2))
    layer = quantized(module, seeded((1, 6, 5, 5)), WITH_INPUT)

    largest = module.weight.detach().abs().amax(dim=(1, 2, 3))
    torch.testing.assert_close(layer.stored_weight.scale, largest / 127)


def test_channels_last_stays_channels_last() -> None:
    module = fill(nn.Conv2d(8, 8, 3, padding=1))
    x = seeded((2, 8, 6, 6)).contiguous(memory_format=torch.channels_last)
    layer = quantized(module, x, WITH_INPUT)

    y = layer(x)

    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x.contiguous()))
    moved = layer.to(memory_format=torch.channels_last)
    assert moved.quantized_weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(x), y)


def test_a_wrong_number_of_channels_is_torchs_error() -> None:
    layer = quantized(fill(nn.Conv2d(3, 2, 3)), seeded((1, 3, 5, 5)), WITH_INPUT)

    with pytest.raises(RuntimeError, match="channels"):
        layer(seeded((1, 4, 5, 5)))


def test_arguments_show_in_print() -> None:
    text = repr(QuantizedConv2d(3, 6, (3, 1), groups=3, padding="same"))

    assert text.startswith("QuantizedConv2d(3, 6, kernel_size=(3, 1), stride=(1, 1), padding=same")
    assert "groups=3" in text
