"""Folding a BatchNorm changes nothing but rounding, and happens only where that holds."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine.preparation.batchnorm import Folding
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.prepared_model import PreparedModel
from tests.quant_engine.layer_cases import fill, seeded


class Pair(nn.Module):
    """A layer, a BatchNorm behind it, and what else a forward may do with the two."""

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module,
        run: Callable[[Pair, Tensor], Any] = lambda net, x: net.norm(net.layer(x)),
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.run = layer, norm, run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def prepared_for(model: nn.Module, x: Tensor) -> PreparedModel:
    return prepare_for(model, x)[0]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[nn.Module, nn.Module, Tensor]:
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kind, norm, axes = draw(
        st.sampled_from(
            [
                (nn.Conv1d, nn.BatchNorm1d, 1),
                (nn.Conv2d, nn.BatchNorm2d, 2),
                (nn.Conv3d, nn.BatchNorm3d, 3),
                (nn.ConvTranspose1d, nn.BatchNorm1d, 1),
                (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
                (nn.ConvTranspose3d, nn.BatchNorm3d, 3),
                (nn.Linear, nn.BatchNorm1d, 0),
            ]
        )
    )
    seed, bias = draw(st.integers(0, 99)), draw(st.booleans())
    eps, affine = draw(st.sampled_from([1e-5, 1.0])), draw(st.booleans())
    batchnorm = fill(norm(outputs, eps=eps, affine=affine), seed)
    x = seeded((2, inputs, *[5] * axes), seed)
    if kind is nn.Linear:
        return fill(nn.Linear(inputs, outputs, bias), seed), batchnorm, x
    arguments: dict[str, Any] = {
        "kernel_size": draw(st.integers(1, 3)),
        "stride": draw(st.integers(1, 2)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": bias,
    }
    if not kind.__name__.startswith("ConvTranspose"):
        arguments["padding"] = draw(st.integers(0, 2))
    return fill(kind(inputs, outputs, **arguments), seed), batchnorm, x


@given(pair=pairs(), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40)
def test_any_pair(pair: tuple[nn.Module, nn.Module, Tensor], dtype: torch.dtype) -> None:
    layer, batchnorm, x = (part.to(dtype) for part in pair)
    expected = batchnorm(layer(x))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12

    prepared = prepared_for(Pair(layer, batchnorm), x)

    is_transposed = type(layer).__name__.startswith("ConvTranspose")
    assert prepared.folded == (Folding("norm", "layer", is_transposed),)
    assert type(prepared.model.norm) is nn.Identity
    torch.testing.assert_close(prepared.model(x), expected, rtol=tolerance, atol=tolerance)
    assert prepared.model.layer.weight.dtype == dtype


def test_worked_by_hand() -> None:
    convolution, batchnorm = nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1, eps=0.0)
    with torch.no_grad():
        convolution.weight.fill_(3.0)
        convolution.bias.fill_(1.0)
        batchnorm.running_mean.fill_(5.0)
        batchnorm.running_var.fill_(4.0)
        batchnorm.weight.fill_(10.0)
        batchnorm.bias.fill_(7.0)

    folded = prepared_for(Pair(convolution, batchnorm).eval(), seeded((2, 1, 3))).model.layer

    # (3x + 1 - 5) / 2 · 10 + 7 = 15x - 13
    assert folded.weight.item() == 15.0
    assert folded.bias.item() == -13.0
    assert convolution.weight.item() == 3.0


def test_padded_borders_are_right_too() -> None:
    """The offset is added after the convolution, so padding does not see it."""
    model = Pair(fill(nn.Conv2d(2, 3, 3, padding=2)), fill(nn.BatchNorm2d(3)))
    x = torch.zeros(1, 2, 4, 4)

    torch.testing.assert_close(prepared_for(model, x).model(x), model(x))


def test_whether_it_is_trained_stays() -> None:
    convolution = nn.Conv2d(2, 3, 1, bias=False).requires_grad_(False)

    layer = prepared_for(Pair(convolution, nn.BatchNorm2d(3)).eval(), IMAGE).model.layer

    assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad


IMAGE = seeded((2, 2, 5, 5))


class NormAndActivation(nn.BatchNorm2d):
    """A BatchNorm with an activation in its forward, as vision libraries have them."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
        return F.leaky_relu(x, 0.3)


class SamePadding(nn.Conv2d):
    """A convolution that pads by the size of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, [x.shape[-1] % 2, 1, 1, 0]), self.weight, self.bias, self.stride)


@pytest.mark.parametrize(
    ("layer", "norm"),
    [
        (lambda: nn.Conv2d(2, 3, 3), lambda: NormAndActivation(3)),
        (lambda: SamePadding(2, 3, 3, bias=False), lambda: nn.BatchNorm2d(3)),
        (lambda: nn.Conv2d(2, 3, 3), lambda: nn.SyncBatchNorm(3)),
        (lambda: nn.DataParallel(nn.Conv2d(2, 3, 3)), lambda: nn.BatchNorm2d(3)),
    ],
    ids=["fused activation", "own padding", "synchronized", "data parallel"],
)
def test_what_counts_is_what_a_module_computes(
    layer: Callable[[], nn.Module], norm: Callable[[], nn.Module]
) -> None:
    model = fill(Pair(layer(), norm()))

    prepared = prepared_for(model, IMAGE)

    assert len(prepared.folded) == 1
    torch.testing.assert_close(prepared.model(IMAGE), model(IMAGE))
    running_mean = dict(prepared.model.named_buffers()).get("norm.running_mean")
    assert running_mean is None or not running_mean.any()


def test_rows_of_a_linear_layer_may_be_put_in_one_axis() -> None:
    model = fill(
        Pair(
            nn.Linear(4, 3),
            nn.BatchNorm1d(3),
            lambda net, x: net.norm((y := net.layer(x)).flatten(0, 1)).reshape_as(y),
        )
    )
    x = seeded((2, 5, 4))

    prepared = prepared_for(model, x)

    assert prepared.folded == (Folding("norm", "layer"),)
    torch.testing.assert_close(prepared.model(x), model(x))


def in_place_before(net: Pair, x: Tensor) -> Tensor:
    y = net.layer(x)
    y.add_(1)
    return net.norm(y)


def view_changed(net: Pair, x: Tensor) -> Tensor:
    y = net.layer(x)
    y.view(-1).mul_(2)
    return net.norm(y)


class Weighted(nn.Conv2d):
    """Changes its weight by its input in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - x.mean(), self.bias)


def conv() -> nn.Module:
    return nn.Conv2d(2, 3, 1)


def bn(**arguments: Any) -> nn.Module:
    return nn.BatchNorm2d(3, **arguments)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = MethodType(lambda self, x: type(self).forward(self, x) + 1, layer)
    return layer


STAYS: dict[str, tuple[Callable[[], Pair], str]] = {
    "batch statistics": (lambda: Pair(conv(), bn(track_running_stats=False)), "each batch"),
    "read by another": (
        lambda: Pair(conv(), bn(), lambda net, x: net.norm(y := net.layer(x)) + y),
        "something else reads",
    ),
    "returned": (
        lambda: Pair(conv(), bn(), lambda net, x: (net.norm(y := net.layer(x)), y)),
        "something else reads",
    ),
    "changed in place": (lambda: Pair(conv(), bn(), in_place_before), "right behind"),
    "a view changed": (lambda: Pair(conv(), bn(), view_changed), "something else reads"),
    "behind a ReLU": (
        lambda: Pair(conv(), bn(), lambda net, x: net.norm(net.layer(x).relu())),
        "right behind",
    ),
    "in front": (
        lambda: Pair(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(2), lambda n, x: n.layer(n.norm(x))),
        "right behind",
    ),
    "layer twice": (
        lambda: Pair(conv(), bn(), lambda net, x: net.norm(net.layer(x)) + net.layer(x).relu()),
        "several times",
    ),
    "norm twice": (
        lambda: Pair(conv(), bn(), lambda net, x: net.norm(net.norm(net.layer(x)))),
        "several times",
    ),
    "computed weight": (lambda: Pair(Weighted(2, 3, 1), bn()), "computed or shared"),
    "weight read": (
        lambda: Pair(conv(), bn(), lambda n, x: n.norm(n.layer(x)) + n.layer.weight.sum()),
        "computed or shared",
    ),
    "other channels": (
        lambda: Pair(nn.Linear(5, 5), nn.BatchNorm1d(2), lambda n, x: n.norm(n.layer(x[..., 0]))),
        "not the features",
    ),
    "hook on the layer": (lambda: Pair(hooked(conv()), bn()), "hooks"),
    "hook on the norm": (lambda: Pair(conv(), hooked(bn())), "hooks"),
    "patched norm": (lambda: Pair(conv(), patched(bn())), "forward of their own"),
    "not run": (lambda: Pair(conv(), bn(), lambda net, x: net.layer(x)), "did not run"),
}


@pytest.mark.parametrize(("build", "reason"), STAYS.values(), ids=STAYS)
def test_what_stays_says_why(build: Callable[[], Pair], reason: str) -> None:
    model = fill(build())

    prepared = prepared_for(model, IMAGE)

    assert prepared.folded == ()
    assert any("norm" in note and reason in note for note in prepared.notes), prepared.notes
    assert isinstance(prepared.model.norm, nn.BatchNorm1d | nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tied_parameters_are_left_alone(name: str) -> None:
    model = Pair(conv(), bn())
    model.other = conv()
    setattr(model.other, name, getattr(model.layer, name))

    prepared = prepared_for(fill(model), IMAGE)

    assert prepared.folded == ()
    assert getattr(prepared.model.other, name) is getattr(prepared.model.layer, name)


def test_results_that_are_no_numbers_are_not_used() -> None:
    model = Pair(conv(), bn(eps=0.0)).eval()
    model.norm.running_var.zero_()

    prepared = prepared_for(model, IMAGE)

    assert prepared.folded == ()
    assert torch.equal(prepared.model.layer.weight, model.layer.weight)


class Deciding(nn.Module):
    """Its forward decides on values, so that it has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.features(x)))
        return x if x.sum() > 0 else -x


def test_without_a_graph_neighbours_in_a_sequential_are_folded() -> None:
    model = fill(Deciding())

    prepared = prepared_for(model, IMAGE)

    assert prepared.folded == (Folding("features.1", "features.0"),)
    assert any("could not be captured" in note for note in prepared.notes)
    torch.testing.assert_close(prepared.model(IMAGE), model(IMAGE))


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
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(True))
        self.blocks = nn.ModuleList(Block(4) for _ in range(2))
        self.up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x = self.stem(x) / (height * width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.up_norm(self.up(x)).mean(dim=(2, 3)).view(batch, -1))


def test_a_whole_net_is_folded_and_says_so() -> None:
    model = fill(Net())

    prepared = prepared_for(model, IMAGE)

    assert [(f.batchnorm, f.layer) for f in prepared.folded] == [
        ("stem.1", "stem.0"),
        ("blocks.0.bn1", "blocks.0.conv1"),
        ("blocks.0.bn2", "blocks.0.conv2"),
        ("blocks.1.bn1", "blocks.1.conv1"),
        ("blocks.1.bn2", "blocks.1.conv2"),
        ("up_norm", "up"),
    ]
    assert prepared.notes == tuple(
        f"{f.batchnorm} (BatchNorm2d) was folded into {f.layer} "
        f"({type(model.get_submodule(f.layer)).__name__})."
        for f in prepared.folded
    )
    assert not any(isinstance(m, nn.BatchNorm2d) for m in prepared.model.modules())
    torch.testing.assert_close(prepared.model(IMAGE), model(IMAGE))
