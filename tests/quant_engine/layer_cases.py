"""Float layers of every kind with inputs that fit, and what their quantized forms must compute."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.layers.convolution import SameConv2d
from quant_engine.layers.embedding import ScaledEmbedding
from quant_engine.scheme import GRANULARITIES, LayerScheme, TensorScheme
from quant_engine.tensors.affine import QParams, choose_qparams, fake_quantize

WEIGHTS_ONLY = LayerScheme(TensorScheme(granularity="per_channel"))
WITH_INPUT = LayerScheme(TensorScheme(granularity="per_channel"), TensorScheme(symmetric=False))

LAYER_SCHEMES = {
    "weights_only": WEIGHTS_ONLY,
    "per_channel": WITH_INPUT,
    "per_tensor": LayerScheme(TensorScheme(), TensorScheme()),
    "asymmetric": LayerScheme(
        TensorScheme(symmetric=False, granularity="per_channel"), TensorScheme(symmetric=False)
    ),
    "four_bits": LayerScheme(TensorScheme(bits=4, granularity="per_channel"), TensorScheme(bits=4)),
    "per_group": LayerScheme(
        TensorScheme(bits=4, symmetric=False, granularity="per_group", group_size=4)
    ),
}

layer_schemes = st.builds(
    LayerScheme,
    st.builds(
        lambda bits, symmetric, kind, size: TensorScheme(
            bits, symmetric, kind, group_size=size if kind == "per_group" else None
        ),
        st.integers(2, 8),
        st.booleans(),
        st.sampled_from(GRANULARITIES),
        st.integers(2, 9),
    ),
    st.none() | st.builds(TensorScheme, bits=st.integers(2, 8), symmetric=st.booleans()),
)


def seeded(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with weights drawn by a generator of its own: cases do not depend on those before."""
    module, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.2)
    module.eval()
    return module


def input_grid(x: Tensor, scheme: LayerScheme) -> QParams | None:
    """The grid of an input, a little too narrow so that some values are clipped."""
    if scheme.activation is None or not x.is_floating_point():
        return None
    return choose_qparams(0.8 * x.min().double(), 0.8 * x.max().double(), scheme.activation)


def quantized(module: nn.Module, x: Tensor, scheme: LayerScheme) -> QuantizedLayer:
    return get_quantized_type(module).from_float(module, scheme, input_grid(x, scheme))


def expected(module: nn.Module, layer: QuantizedLayer, x: Tensor, *args: object) -> Tensor:
    """torch's own layer on the dequantized weight and the rounded input."""
    oracle = copy.deepcopy(module)
    oracle.weight = nn.Parameter(layer.dequantized_weight())
    grid = layer.input_qparams
    with torch.no_grad():
        result = oracle(x if grid is None else fake_quantize(x, grid), *args)
    assert isinstance(result, Tensor)
    return result


def assert_rounded(module: nn.Module, layer: QuantizedLayer) -> None:
    """Each dequantized weight is within half a step of the float one, on its own grid."""
    grid = layer.weight_qparams
    weight, near = module.weight.detach(), layer.dequantized_weight()
    steps = grid.scale.reshape(-1, 1)
    if grid.axis is not None:
        assert grid.axis == layer.channel_axis
        weight, near = (w.movedim(grid.axis, 0).flatten(1) for w in (weight, near))
    if grid.group_size is not None:
        columns = weight.shape[1]
        steps = grid.scale[:, [column // grid.group_size for column in range(columns)]]
    assert ((weight - near).abs() <= steps * (0.5 + 1e-4)).all()
    assert layer.quantized_weight is not None
    assert layer.quantized_weight.shape == module.weight.shape
    assert layer.quantized_weight.dtype == torch.int8


def doubled(value: object) -> object:
    """The same in float64, where sums in another order differ by far less than a wrong formula."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def one_of_each() -> dict[str, tuple[nn.Module, Tensor]]:
    """A small layer of every quantizable type, with an input."""
    return {
        "Linear": (fill(nn.Linear(6, 4)), seeded((3, 6))),
        "Conv1d": (fill(nn.Conv1d(4, 6, 3, padding=1, groups=2)), seeded((2, 4, 9))),
        "Conv2d": (fill(nn.Conv2d(4, 6, 3, stride=2, padding=1)), seeded((2, 4, 7, 7))),
        "ConvTranspose2d": (fill(nn.ConvTranspose2d(4, 6, 3, 2, groups=2)), seeded((2, 4, 5, 5))),
        "Conv3d": (
            fill(nn.Conv3d(4, 6, (2, 3, 2), (2, 1, 1), (1, 1, 0), groups=2)),
            seeded((2, 4, 5, 6, 4)),
        ),
        "ConvTranspose1d": (
            fill(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2)),
            seeded((2, 4, 7)),
        ),
        "EmbeddingBag": (fill(nn.EmbeddingBag(9, 5)), torch.tensor([[0, 8, 3], [3, 3, 1]])),
        "SameConv2d": (fill(SameConv2d(4, 6, 3, 2, groups=2)), seeded((2, 4, 7, 8))),
        "Embedding": (fill(nn.Embedding(9, 5)), torch.tensor([[0, 8, 3], [3, 3, 1]])),
        "ScaledEmbedding": (fill(ScaledEmbedding(9, 5)), torch.tensor([[0, 8, 3], [3, 3, 1]])),
    }


def with_bits(scheme: LayerScheme, bits: int) -> LayerScheme:
    return replace(scheme, weight=replace(scheme.weight, bits=bits))
