"""Rebuilt transformer encoders compute what torch's compute, on its fast paths too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.layers.transformer import SplitTransformerEncoder, SplitTransformerEncoderLayer
from quant_engine.preparation.prepared_model import prepare
from tests.quant_engine.layer_cases import doubled, fill, seeded

SAMPLES, LENGTH, WIDTH = 3, 5, 8

# torch says that its nested tensors, and the path that uses them, are a prototype.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
]

PADDING = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [4], [2]])
SCATTERED = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


ACTIVATIONS: tuple[str | Callable[[Tensor], Tensor], ...] = (
    "relu",
    "gelu",
    leaky,
    nn.ReLU(),
    nn.Sigmoid(),
)

layer_arguments = st.fixed_dictionaries(
    {
        "d_model": st.just(WIDTH),
        "nhead": st.sampled_from([1, 2, 4]),
        "dim_feedforward": st.integers(1, 9),
        "activation": st.sampled_from(ACTIVATIONS),
        "layer_norm_eps": st.sampled_from([1e-5, 1e-2]),
        "batch_first": st.booleans(),
        "norm_first": st.booleans(),
        "bias": st.booleans(),
    }
)
sequence_masks = st.sampled_from(
    [None, nn.Transformer.generate_square_subsequent_mask(LENGTH), torch.eye(LENGTH).bool()]
)
paddings = st.sampled_from([None, PADDING, SCATTERED])


def sequence(is_batch_first: bool, seed: int = 0) -> Tensor:
    x = seeded((SAMPLES, LENGTH, WIDTH), seed)
    return x if is_batch_first else x.transpose(0, 1)


def kind_of(mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """The padding mask in the kind of the other mask: torch warns about a mix."""
    if mask is None or padding is None or mask.dtype == torch.bool:
        return padding
    return torch.zeros(padding.shape).masked_fill(padding, -torch.inf)


def prepared_of(module: nn.Module, *kinds: type[nn.Module]) -> nn.Module:
    model = prepare(module).model
    for kind in kinds:
        assert any(type(part) is kind for part in model.modules())
    assert not any(
        type(part) in (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
        for part in model.modules()
    )
    return model


def assert_same(module: nn.Module, model: nn.Module, *args: Tensor, **call: Any) -> None:
    """The same to float32 rounding, which layers amplify, and to float64 rounding."""
    with torch.no_grad():
        torch.testing.assert_close(
            model(*args, **call), module(*args, **call), rtol=1e-3, atol=1e-3
        )
        exact, exact_original = copy.deepcopy(model).double(), copy.deepcopy(module).double()
        args = tuple(doubled(x) for x in args)
        call = {name: doubled(value) for name, value in call.items()}
        torch.testing.assert_close(
            exact(*args, **call), exact_original(*args, **call), rtol=1e-9, atol=1e-9
        )


@given(
    arguments=layer_arguments,
    mask=sequence_masks,
    padding=paddings,
    is_batched=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_encoder_layer(
    arguments: dict[str, Any],
    mask: Tensor | None,
    padding: Tensor | None,
    is_batched: bool,
    seed: int,
) -> None:
    module = fill(nn.TransformerEncoderLayer(**arguments), seed)
    model = prepared_of(module, SplitTransformerEncoderLayer, SplitMultiheadAttention)
    x = sequence(arguments["batch_first"], seed)
    padding = kind_of(mask, padding)
    if not is_batched:
        x = seeded((LENGTH, WIDTH), seed)
        padding = None if padding is None else padding[1]

    assert_same(module, model, x, src_mask=mask, src_key_padding_mask=padding)


@settings(max_examples=40)
@given(
    arguments=layer_arguments,
    layers=st.integers(1, 3),
    norm=st.booleans(),
    enable_nested_tensor=st.booleans(),
    mask_check=st.booleans(),
    mask=sequence_masks,
    padding=paddings,
)
def test_any_encoder(
    arguments: dict[str, Any],
    layers: int,
    norm: bool,
    enable_nested_tensor: bool,
    mask_check: bool,
    mask: Tensor | None,
    padding: Tensor | None,
) -> None:
    if padding is SCATTERED:
        mask_check = True  # without the check torch takes the mask for one that is aligned
    module = fill(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**arguments),
            layers,
            nn.LayerNorm(WIDTH) if norm else None,
            enable_nested_tensor,
            mask_check,
        )
    )
    model = prepared_of(module, SplitTransformerEncoder, SplitTransformerEncoderLayer)

    x = sequence(arguments["batch_first"])
    assert_same(module, model, x, mask=mask, src_key_padding_mask=kind_of(mask, padding))


def test_padded_positions_are_zero_where_torch_makes_them_zero() -> None:
    module = fill(nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, batch_first=True), 2))
    model = prepared_of(module)
    x = sequence(is_batch_first=True)

    with torch.no_grad():
        y = model(x, src_key_padding_mask=PADDING)
        assert (module(x, src_key_padding_mask=PADDING)[PADDING] == 0).all()

    assert (y[PADDING] == 0).all()
    assert (y[~PADDING] != 0).all()
    assert torch.equal(
        y,
        model(x, src_key_padding_mask=torch.zeros(PADDING.shape).masked_fill(PADDING, -torch.inf)),
    )


@pytest.mark.parametrize("padding", [PADDING, SCATTERED], ids=["aligned", "scattered"])
@pytest.mark.parametrize("mask", [None, torch.eye(LENGTH).bool()], ids=["no mask", "mask"])
@pytest.mark.parametrize("enable_nested_tensor", [True, False])
def test_padding_where_torch_has_a_path_of_its_own(
    padding: Tensor, mask: Tensor | None, enable_nested_tensor: bool
) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 4, batch_first=True)
    module = fill(nn.TransformerEncoder(layer, 2, None, enable_nested_tensor))

    x = sequence(is_batch_first=True)
    assert_same(module, prepared_of(module), x, mask=mask, src_key_padding_mask=padding)


@settings(max_examples=40)
@given(arguments=layer_arguments, mask=sequence_masks, padding=paddings, layers=st.integers(1, 2))
def test_any_decoder(
    arguments: dict[str, Any], mask: Tensor | None, padding: Tensor | None, layers: int
) -> None:
    layer = nn.TransformerDecoderLayer(**arguments)
    module = fill(nn.TransformerDecoder(layer, layers, nn.LayerNorm(WIDTH)))
    model = prepared_of(module, SplitMultiheadAttention)
    x, memory = sequence(arguments["batch_first"]), sequence(arguments["batch_first"], seed=1)

    assert_same(
        module,
        model,
        x,
        memory,
        tgt_mask=mask,
        memory_mask=mask,
        tgt_key_padding_mask=kind_of(mask, padding),
        memory_key_padding_mask=kind_of(mask, padding),
    )


@pytest.mark.parametrize("is_causal", [None, False, True])
def test_causal_hint(is_causal: bool | None) -> None:
    module = fill(nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, batch_first=True), 2))
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    x = sequence(is_batch_first=True)
    assert_same(module, prepared_of(module), x, mask=mask, is_causal=is_causal)


def test_whole_transformer() -> None:
    module = fill(nn.Transformer(WIDTH, 2, 1, 1, 16, batch_first=True))
    model = prepared_of(module, SplitTransformerEncoder, SplitMultiheadAttention)

    assert_same(module, model, sequence(is_batch_first=True), sequence(is_batch_first=True, seed=1))


def test_layers_are_called_as_layers() -> None:
    """Whatever stands in for linear1 must be what computes: no path around it."""
    module = fill(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True))
    model = prepared_of(module)
    x = sequence(is_batch_first=True)
    with torch.no_grad():
        before = model(x)
        for name in ("self_attn.q_proj", "self_attn.out_proj", "linear1", "linear2"):
            layer = model.get_submodule(name)
            handle = layer.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
            assert not torch.allclose(model(x), before), name
            handle.remove()


def test_dropout_in_training() -> None:
    module = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.5, batch_first=True)
    model = prepared_of(module).train()
    x = sequence(is_batch_first=True)

    assert not torch.equal(model(x), model(x))
