"""A private copy of the caller's model, with plain weights."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from quant_engine.errors import UnsupportedLayerError
from quant_engine.model.copying import copy_model, materialize_weights
from quant_engine.model.modules import has_hooks
from tests.quant_engine.layer_cases import fill, seeded

old_norms = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


class Remembering(nn.Module):
    """Keeps activations that hang in the autograd graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.last: Tensor | None = None
        self.history: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.history.append({"y": self.last})
        return self.last


def test_copy_is_in_eval_mode_and_shares_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model[0].bias.requires_grad_(False)

    copied, notes = copy_model(model)

    assert notes == []
    assert model.training
    assert not any(module.training for module in copied.modules())
    theirs = {t.data_ptr() for t in model.state_dict().values()}
    assert not theirs & {t.data_ptr() for t in copied.state_dict().values()}
    assert not copied[0].bias.requires_grad
    assert copied[0].weight.requires_grad


def test_ties_stay() -> None:
    shared = nn.Linear(3, 3)
    tied = nn.Linear(3, 3)
    tied.weight = shared.weight
    copied, _ = copy_model(nn.Sequential(shared, tied, shared))

    assert copied[0] is copied[2]
    assert copied[0].weight is copied[1].weight


def test_remembered_activations_do_not_stop_the_copy() -> None:
    model = Remembering()
    model(seeded((2, 3)))
    last = model.last

    copied, _ = copy_model(model)

    assert model.last is last
    assert copied.last.grad_fn is None
    assert torch.equal(copied.last, last)
    assert copied.history[0]["y"] is copied.last


def test_what_cannot_be_copied_is_said() -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()

    with pytest.raises(UnsupportedLayerError, match=r"Linear cannot be copied.*lock"):
        copy_model(model)


@pytest.mark.parametrize("thing", [None, nn.Linear, "model", torch.ones(1)])
def test_only_modules(thing: object) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"Give an nn\.Module"):
        copy_model(thing)  # type: ignore[arg-type]


def test_wrappers_are_taken_off() -> None:
    inner = nn.Sequential(nn.Linear(2, 2))

    for wrapped, kind in (
        (nn.DataParallel(inner), "DataParallel"),
        (torch.compile(inner, backend="eager"), "OptimizedModule"),
    ):
        copied, notes = copy_model(wrapped)
        assert type(copied) is nn.Sequential
        assert notes == [f"The model was taken out of its {kind} wrapper."]


def old_weight_norm(layer: nn.Module) -> nn.Module:
    return torch.nn.utils.weight_norm(layer)


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", amount=0.4)
    return layer


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2.0 * weight


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


RECOMPUTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
    "old_weight_norm": old_weight_norm,
    "old_spectral_norm": torch.nn.utils.spectral_norm,
    "pruned": pruned,
    "doubled": doubled,
}


@old_norms
@pytest.mark.parametrize("recompute", RECOMPUTED.values(), ids=RECOMPUTED)
@pytest.mark.parametrize("has_run", [False, True])
def test_recomputed_weights_become_plain(
    recompute: Callable[[nn.Module], nn.Module], has_run: bool
) -> None:
    model = nn.Sequential(recompute(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    x = seeded((5, 4))
    if has_run:
        model(x)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    copied, _ = copy_model(model)
    notes = materialize_weights(copied)

    assert [type(layer) for layer in copied] == [nn.Linear, nn.ReLU, nn.Linear]
    assert copied[0]._parameters.keys() == {"weight", "bias"}
    assert not has_hooks(copied[0])
    assert len(notes) == 1
    assert notes[0].startswith("0: the ")
    torch.testing.assert_close(copied(x), model(x))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parametrized_buffers_stay_buffers_and_frozen_weights_frozen() -> None:
    layer = nn.BatchNorm1d(2)
    layer.weight.requires_grad_(False)
    for name in ("weight", "running_mean"):
        parametrize.register_parametrization(layer, name, Doubled())

    copied, _ = copy_model(layer)
    notes = materialize_weights(copied)

    assert len(notes) == 2
    assert not copied.weight.requires_grad
    assert copied.weight.tolist() == [2.0, 2.0]
    assert "running_mean" in dict(copied.named_buffers())
    assert parametrize.is_parametrized(layer, "weight")


def test_plain_models_get_no_notes() -> None:
    assert materialize_weights(fill(nn.Linear(2, 2))) == []


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_functions_are_shared_with_the_copy():
    def swish(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    model = nn.Sequential(nn.Linear(3, 3))
    model.activation = torch.jit.script(swish)
    model.table = {"swish": [model.activation]}
    copied, _ = copy_model(model)
    assert copied.activation is model.activation
    assert copied.table["swish"][0] is model.activation
    assert copied.table is not model.table
