"""Which module feeds which, and only that one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.dataflow import sequential_links, trace_links
from quant_engine.errors import UnsupportedLayerError
from tests.quant_engine.layer_cases import seeded


class Net(nn.Module):
    """Two layers and whatever forward does with them."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


@dataclass
class Result:
    logits: Tensor


def remembering(net: Any, x: Tensor) -> Tensor:
    net.seen = [net.conv(x)]
    return net.norm(net.seen[0])


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.add_(1.0)
    return net.norm(y)


def two_outputs(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return net.norm(y), y


LINKED: dict[str, Callable[[Any, Tensor], Any]] = {
    "in a row": lambda net, x: net.norm(net.conv(x)),
    "with a skip around both": lambda net, x: net.norm(net.conv(x)) + x,
    "shape of the input is read": lambda net, x: net.norm(net.conv(x)).view(x.shape[0], -1),
    "as a dictionary": lambda net, x: {"logits": net.norm(net.conv(x)), "x": x},
    "as an object": lambda net, x: Result(net.norm(net.conv(x))),
    "functions around": lambda net, x: F.relu(net.norm(net.conv(F.pad(x, (1, 1))))).flatten(1),
    "numbers from other weights": lambda net, x: net.norm(net.conv(x)) * torch.ones(2).sum(),
}
NOT_LINKED: dict[str, Callable[[Any, Tensor], Any]] = {
    "the other way round": lambda net, x: net.conv(net.norm(x)),
    "something between": lambda net, x: net.norm(F.relu(net.conv(x))),
    "a second reader": lambda net, x: net.norm(y := net.conv(x)) + y,
    "returned too": two_outputs,
    "called twice": lambda net, x: net.norm(net.conv(net.conv(x))),
    "norm called twice": lambda net, x: net.norm(net.norm(net.conv(x))),
    "norm never called": lambda net, x: net.conv(x),
    "changed in place": in_place,
    "weight used elsewhere": lambda net, x: net.norm(net.conv(x)) + x * net.conv.weight.view(1, -1),
    "numbers from the weight": lambda net, x: (
        net.norm(net.conv(x)) * net.conv.weight.abs().mean(dim=(1, 2, 3))
    ),
    "detached weight used elsewhere": lambda net, x: (
        net.norm(net.conv(x)) + x * net.conv.weight.detach()[0, 0, 0, 0]
    ),
    "bare weight as a factor": lambda net, x: (
        net.norm(net.conv(x)) * net.norm.weight.sum() + F.conv2d(x, net.conv.weight)
    ),
    "kept for later": remembering,
}
UNTRACEABLE: dict[str, Callable[[Any, Tensor], Any]] = {
    "decides on values": lambda net, x: net.norm(net.conv(x)) if x.sum() > 0 else x,
    "length of the batch": lambda net, x: [net.norm(net.conv(x)) for _ in range(len(x))],
    "raises": lambda net, x: net.nothing(x),
}


@pytest.mark.parametrize("run", LINKED.values(), ids=LINKED)
def test_linked(run: Callable[[Any, Tensor], Any]) -> None:
    assert ("conv", "norm") in trace_links(Net(run))


@pytest.mark.parametrize("run", NOT_LINKED.values(), ids=NOT_LINKED)
def test_not_linked(run: Callable[[Any, Tensor], Any]) -> None:
    assert ("conv", "norm") not in trace_links(Net(run))


@pytest.mark.parametrize("run", UNTRACEABLE.values(), ids=UNTRACEABLE)
def test_untraceable(run: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(UnsupportedLayerError):
        trace_links(Net(run))


def test_models_with_defaults_and_several_inputs() -> None:
    class Model(Net):
        def forward(  # type: ignore[override]
            self, x: Tensor, y: Tensor, mask: Tensor | None = None, *, twice: bool = False
        ) -> Tensor:
            out = self.norm(self.conv(x if mask is None else x * mask))
            return out if twice else out + y

    assert trace_links(Model(lambda net, x: x)) == [("conv", "norm")]


def masked(net: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    y = net.conv(x)
    return net.norm(y if mask is None else y * mask)


def flagged(net: Any, x: Tensor, features: bool = False) -> Tensor:
    y = net.conv(x)
    return y if features else net.norm(y)


def both(net: Any, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if a is None or b is None else y


def one(net: Any, x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    y = net.conv(x)
    return y if a is not None and b is None else net.norm(y)


def weighted(net: Any, x: Tensor, weighted: bool = False) -> Tensor:
    return x * net.conv.weight.sum() if weighted else net.norm(net.conv(x))


def more(net: Any, x: Tensor, *others: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) + sum(y * other for other in others)


@pytest.mark.parametrize("run", [masked, flagged, both, one, weighted, more])
def test_a_use_behind_an_optional_argument_counts(run: Callable[..., Any]) -> None:
    assert trace_links(with_forward(run)) == []


def with_forward(run: Callable[..., Any]) -> nn.Module:
    return type("Model", (Net,), {"forward": run})(run)


def early(net: Any, x: Tensor, is_short: bool = False) -> Tensor:
    return x if is_short else net.norm(net.conv(x))


def by_name(net: Any, x: Tensor, *, scale: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * scale


@pytest.mark.parametrize("run", [early, by_name])
def test_arguments_that_change_no_use(run: Callable[..., Any]) -> None:
    assert trace_links(with_forward(run)) == [("conv", "norm")]


def test_any_number_of_inputs() -> None:
    class Model(Net):
        def forward(self, *inputs: Tensor, **options: Any) -> Tensor:
            return self.norm(self.conv(inputs[0]))

    assert trace_links(Model(lambda net, x: x)) == [("conv", "norm")]


def test_arguments_of_any_name_may_hide_a_use() -> None:
    class Model(Net):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + (y if options.get("skip") else 0)

    with pytest.raises(UnsupportedLayerError, match="arguments of any name"):
        trace_links(Model(lambda net, x: x))


def test_what_the_forward_asks_of_its_arguments_is_not_known() -> None:
    with pytest.raises(UnsupportedLayerError, match="asks for the type of x"):
        trace_links(Net(lambda net, x: net.norm(net.conv(x)) if isinstance(x, Tensor) else x))


def test_nested_modules_have_full_names() -> None:
    block = Net(lambda net, x: net.norm(net.conv(x)))
    model = nn.Sequential(nn.Sequential(block, nn.ReLU()), nn.Conv2d(2, 3, 1))

    assert trace_links(model) == [
        ("0.0.conv", "0.0.norm"),
        ("0.0.norm", "0.1"),
        ("0.1", "1"),
    ]


def test_shared_modules_are_not_linked() -> None:
    conv = nn.Conv2d(2, 2, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(2), conv, nn.BatchNorm2d(2))

    assert trace_links(model) == []
    assert sequential_links(model) == []


def test_a_hook_is_a_reader_one_cannot_see_through() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 2, 1))
    model = nn.Sequential(inner, nn.BatchNorm2d(2))
    calls: list[Any] = []
    inner.register_forward_hook(lambda *args: calls.append(args))

    links = trace_links(model)

    assert ("0.0", "1") not in links
    assert calls == []
    assert len(inner._forward_hooks) == 1


def test_nothing_is_left_behind() -> None:
    model = Net(remembering)
    before = {key: id(value) for key, value in vars(model).items()}
    call = nn.Module.__call__

    trace_links(model)

    assert {key: id(value) for key, value in vars(model).items()} == before
    assert nn.Module.__call__ is call
    assert isinstance(model(seeded((1, 2, 3, 3))), Tensor)


def test_models_in_other_threads_are_not_disturbed() -> None:
    """While one thread traces, another one's forward must run on its own tensors."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(net: Any, x: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return net.norm(net.conv(x))

    links: list[Any] = []
    thread = threading.Thread(target=lambda: links.extend(trace_links(Net(wait))))
    thread.start()
    assert inside.wait(30)
    other = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    y = other(torch.ones(1, 2))
    go_on.set()
    thread.join(30)

    assert isinstance(y, Tensor)
    assert links == [("conv", "norm")]


def test_sequential_neighbours() -> None:
    class Loop(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model = nn.Sequential(
        nn.Conv2d(2, 2, 1), nn.ReLU(), Loop(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    )

    assert sequential_links(model) == [("0", "1"), ("1", "2")]


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.MultiheadAttention(2, 1)])
def test_a_bare_layer_has_no_links(module: nn.Module) -> None:
    assert trace_links(module) == []
