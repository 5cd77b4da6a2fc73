"""Preparing a model: the copy computes the same, the caller's model is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from quant_engine.errors import UnsupportedLayerError
from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.layers.transformer import SplitTransformerEncoderLayer
from quant_engine.preparation.prepared_model import prepare
from quant_engine.preparation.selection import list_layers
from tests.quant_engine.layer_cases import fill, seeded

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    """A small residual net with a decoder, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = nn.ModuleList(Block(4) for _ in range(2))
        self.up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.up_norm(self.up(x)).mean(dim=(2, 3)))


class Language(nn.Module):
    """Token ids to logits, with the head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.pool = nn.MultiheadAttention(8, 4, batch_first=True)
        self.query = nn.Parameter(torch.zeros(1, 1, 8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.encoder(self.embed(ids))
        pooled, weights = self.pool(self.query.expand(len(ids), 1, 8), x, x)
        return {"logits": self.head(pooled[:, 0]), "weights": weights}


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "ids": [id(p) for p in model.parameters()],
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [dict(module._forward_hooks) for module in model.modules()],
        "attributes": [
            {key: id(value) for key, value in vars(module).items()} for module in model.modules()
        ],
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    states = before.pop("state"), after.pop("state")
    assert after == before
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


IMAGE, IDS = seeded((2, 3, 9, 9)), torch.tensor([[1, 2, 3], [4, 5, 10]])
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "net": (Net, IMAGE),
    "language": (Language, IDS),
    "linear": (lambda: nn.Linear(9, 2), IMAGE),
    "sequential": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)), IMAGE),
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 2, 3)), nn.BatchNorm2d(2)),
        IMAGE,
    ),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(9, 3, 4), IMAGE[0]),
    "lstm": (lambda: nn.LSTM(9, 4), IMAGE[0]),
    "short words": (lambda: nn.Embedding(11, 4, max_norm=0.5), IDS),
    "no weights": (lambda: nn.ReLU(), IMAGE),
}
each_model = pytest.mark.parametrize(("build", "x"), MODELS.values(), ids=MODELS)


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        y = model(x)
    if isinstance(y, dict):
        return list(y.values())
    return [y] if isinstance(y, Tensor) else [y[0], *y[1]]


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_stays(build: Callable[[], nn.Module], x: Tensor, dtype: torch.dtype) -> None:
    model = fill(build()).to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9

    prepared = prepare(model)

    for got, want in zip(outputs(prepared.model, x), outputs(model, x), strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@each_model
def test_the_callers_model_stays(build: Callable[[], nn.Module], x: Tensor) -> None:
    model = fill(build()).train()
    model.requires_grad_(False)
    if (parameters := list(model.parameters())) and parameters[0].is_leaf:
        parameters[0].requires_grad_(True)
    next(iter(model.modules())).register_forward_hook(lambda *_: None)
    before = snapshot(model)

    prepared = prepare(model)
    with torch.no_grad():
        prepared.model(x)
        for tensor in prepared.model.state_dict().values():
            tensor.fill_(7)

    assert_unchanged(model, before)
    assert not any(module.training for module in prepared.model.modules())


def test_attention_is_split_at_every_depth() -> None:
    prepared = prepare(fill(Language()))

    assert prepared.split == ("encoder.layers.0.self_attn", "encoder.layers.1.self_attn", "pool")
    assert isinstance(prepared.model.encoder.layers[0], SplitTransformerEncoderLayer)
    assert prepared.model.head.weight is prepared.model.embed.weight


def test_a_bare_attention_becomes_the_root() -> None:
    prepared = prepare(fill(nn.MultiheadAttention(4, 2)))

    assert isinstance(prepared.model, SplitMultiheadAttention)
    assert prepared.split == ("",)
    assert prepared.notes == ("The model was split into plain Linears.",)


def test_shared_attention_is_split_once_and_stays_shared() -> None:
    attention = nn.MultiheadAttention(4, 2)

    prepared = prepare(nn.ModuleList([attention, attention]))

    assert prepared.split == ("0",)
    assert prepared.model[0] is prepared.model[1]


class OwnAttention(nn.MultiheadAttention):
    pass


class OwnEncoderLayer(nn.TransformerEncoderLayer):
    pass


def test_subclasses_are_left_alone() -> None:
    model = nn.ModuleList(
        [OwnAttention(4, 2), OwnEncoderLayer(4, 2, 8, batch_first=True).eval()]
    ).eval()

    prepared = prepare(model)

    assert prepared.split == ()
    assert type(prepared.model[1].self_attn) is nn.MultiheadAttention
    x = seeded((2, 3, 4))
    with torch.no_grad():
        torch.testing.assert_close(prepared.model[1](x), model[1](x))
    assert not any(layer.is_quantizable for layer in list_layers(prepared.model))


def test_an_encoder_layer_with_another_attention_is_left_alone() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model.self_attn = OwnAttention(4, 2, batch_first=True)

    prepared = prepare(model)

    assert type(prepared.model) is nn.TransformerEncoderLayer


def test_attention_with_tied_weights_is_left_alone() -> None:
    first, second = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2)
    second.in_proj_weight = first.in_proj_weight
    third = nn.MultiheadAttention(4, 2)

    prepared = prepare(nn.ModuleList([first, second, third]))

    assert prepared.split == ("2",)
    assert prepared.model[0].in_proj_weight is prepared.model[1].in_proj_weight


def test_hooks_come_along() -> None:
    model = fill(nn.Sequential(nn.TransformerEncoderLayer(8, 2, 4, batch_first=True))).eval()
    seen: list[str] = []
    for name, module in model.named_modules():
        if type(module) in (nn.TransformerEncoderLayer, nn.MultiheadAttention, nn.LayerNorm):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    prepared = prepare(model)

    with torch.no_grad():
        prepared.model(seeded((1, 3, 8)))

    assert seen == ["0.self_attn", "0.norm1", "0.norm2", "0"]


class TestShortenedEmbeddings:
    def test_once_and_for_all(self) -> None:
        model = fill(nn.Embedding(11, 4, max_norm=0.5))
        assert isinstance(model, nn.Embedding)
        rows = model.weight.detach().norm(dim=1)
        prepared = prepare(model)

        assert prepared.notes == ("The model: max_norm was applied to the whole table once.",)
        assert (rows > 0.5).all()
        assert torch.equal(model.weight.detach().norm(dim=1), rows)
        torch.testing.assert_close(prepared.model(IDS), copy.deepcopy(model)(IDS))
        assert prepared.model.max_norm is None
        before = prepared.model.weight.detach().clone()
        prepared.model(IDS)
        assert torch.equal(prepared.model.weight, before)

    def test_not_where_the_table_is_shared(self) -> None:
        table, head = nn.Embedding(11, 4, max_norm=0.5), nn.Linear(4, 11)
        head.weight = table.weight

        prepared = prepare(nn.Sequential(table, head))

        assert prepared.notes == ()
        reasons = {layer.name: layer.reason for layer in list_layers(prepared.model)}
        assert "max_norm" in reasons["0"]
        assert reasons["1"] == ""


def test_models_in_wrappers() -> None:
    prepared = prepare(nn.DataParallel(fill(Net())))

    assert type(prepared.model) is Net
    assert prepared.notes[0] == "The model was taken out of its DataParallel wrapper."


def test_what_is_no_model() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"The model is a dict"):
        prepare({})  # type: ignore[arg-type]


def test_preparing_twice_changes_nothing_more() -> None:
    once = prepare(fill(Net()))
    twice = prepare(once.model)

    assert twice.notes == ()
    assert torch.equal(twice.model(IMAGE), once.model(IMAGE))
