"""Which layers are listed, and what is said about those that stay float."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_engine.layers import QuantizedLinear
from quant_engine.preparation.prepared_model import prepare
from quant_engine.preparation.selection import LayerInfo, list_layers


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class OwnLinear(nn.Linear):
    pass


def layers_of(model: nn.Module) -> dict[str, LayerInfo]:
    return {layer.name: layer for layer in list_layers(prepare(model).model)}


def patched() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


def without_weight() -> nn.Module:
    """As a third party's reparametrization leaves it."""
    layer = nn.Linear(2, 2)
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer.weight
    layer.weight = layer.raw.detach() * 2.0
    return layer


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.LayerNorm(2), "LayerNorm has no integer form in this engine"),
        (lambda: nn.BatchNorm1d(2), "BatchNorm1d has no integer form"),
        (lambda: nn.ConvTranspose3d(1, 1, 1), "ConvTranspose3d has no integer form"),
        (lambda: nn.PReLU(), "PReLU has no integer form"),
        (lambda: nn.Bilinear(2, 2, 2), "Bilinear has no integer form"),
        (lambda: nn.ParameterList([torch.ones(2)]), "ParameterList has no integer form"),
        (lambda: nn.LSTM(2, 2), "LSTM feeds its output back into itself"),
        (lambda: nn.GRUCell(2, 2), "GRUCell feeds its output back into itself"),
        (lambda: OwnLinear(2, 2), "OwnLinear is a subclass of Linear and may compute"),
        (Gain, r"Gain is a custom module and uses its own parameters \(gain\)"),
        (lambda: nn.LazyLinear(2), "LazyLinear has no weights yet. Run the model once"),
        (patched, "Its forward was replaced on this instance"),
        (without_weight, "Its weight is computed before every call"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "holds torch.complex64 values"),
        (lambda: nn.Linear(2, 2, device="meta"), "on the meta device"),
        (lambda: QuantizedLinear(2, 2), "It is a quantized layer of this engine already"),
        (
            lambda: nn.MultiheadAttention(2, 1, add_bias_kv=True),
            "Its learned extra key and value",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_reasons(build: Callable[[], nn.Module], reason: str) -> None:
    layer = layers_of(nn.ModuleList([nn.Linear(1, 1), build()]))["1"]

    assert not layer.is_quantizable
    assert re.search(reason, layer.reason)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_a_weight_without_values() -> None:
    layer = layers_of(nn.Linear(0, 2))[""]

    assert not layer.is_quantizable
    assert layer.reason == "Its weight has shape (2, 0) and so no values."


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_compiled_module() -> None:
    layers = layers_of(nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 2)))

    assert "compiled by TorchScript" in layers["0"].reason
    assert layers["1"].is_quantizable


def test_order_kinds_and_what_is_not_listed() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(2, 2), nn.LayerNorm(2)
    )

    layers = list_layers(model)

    assert [(x.name, x.kind, x.is_quantizable) for x in layers] == [
        ("0", "Conv2d", True),
        ("4", "Linear", True),
        ("5", "LayerNorm", False),
    ]
    assert layers[0].module is model[0]


def test_a_shared_module_is_one_layer_with_aliases() -> None:
    shared = nn.Linear(2, 2)

    layers = list_layers(nn.Sequential(shared, nn.Sequential(shared)))

    assert [(layer.name, layer.aliases) for layer in layers] == [("0", ("1.0",))]


def test_tied_layers_are_two_layers() -> None:
    table, head = nn.Embedding(3, 2), nn.Linear(2, 3)
    head.weight = table.weight

    assert [layer.is_quantizable for layer in list_layers(nn.Sequential(table, head))] == [True] * 2


def test_a_model_that_is_one_layer() -> None:
    layers = list_layers(nn.Conv1d(1, 1, 1))

    assert [(layer.name, layer.is_quantizable) for layer in layers] == [("", True)]


def test_a_model_without_weights() -> None:
    assert list_layers(nn.Sequential(nn.ReLU())) == ()


def test_split_attention_shows_its_projections() -> None:
    layers = layers_of(nn.TransformerEncoderLayer(4, 2, 8))

    quantizable = [name for name, layer in layers.items() if layer.is_quantizable]
    assert quantizable == [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
        "linear1",
        "linear2",
    ]


def test_layers_behind_a_fast_path_are_not_touched() -> None:
    class OwnLayer(nn.TransformerEncoderLayer):
        pass

    layers = layers_of(nn.Sequential(OwnLayer(4, 2, 8), nn.Linear(4, 4)))

    assert [name for name, layer in layers.items() if layer.is_quantizable] == ["1"]
    assert "part of a OwnLayer" in layers["0.linear1"].reason
    assert "part of a MultiheadAttention" in layers["0.self_attn.out_proj"].reason
    assert "could not be split" in layers["0.self_attn"].reason
    assert "LayerNorm" in layers["0.norm1"].reason
