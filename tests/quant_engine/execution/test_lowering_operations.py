"""What is left out of the list of operations that a lowered model runs on integers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant_engine import convert_execution, quantize_model
from quant_engine.execution.kernels import reference
from tests.quant_engine.execution.test_lowering import IMAGES, Net, conv, head
from tests.quant_engine.layer_cases import fill, seeded


@pytest.fixture(autouse=True)
def _float_products(monkeypatch):
    """Sums by float products, as on a processor without instructions for products of bytes."""
    monkeypatch.setattr(reference, "has_integer_products", lambda device: False)


def on_integers(model, x):
    """The lowered model, and the list of operations it runs on `x`, which must equal its steps."""
    lowered = convert_execution(quantize_model(model, x), kernel="portable", lowered=True)
    found = lowered(x)
    lowered.runs_steps = True
    assert torch.equal(found, lowered(x))
    lowered.runs_steps = False
    (call,) = lowered._bound.calls.values()
    assert call.run is not call.steps
    return lowered, [node for node in call.run.graph.nodes if node.op.startswith("call")]


def named(operations, name):
    return [node for node in operations if name in str(node.target)]


def zero_points(model):
    return {int(m.input_grid.zero_point) % 2 for m in model.modules() if hasattr(m, "input_grid")}


@torch.no_grad()
def test_a_layer_between_others_takes_a_product_and_five_operations():
    x, found = seeded((5, 6)), set()
    for seed in range(3):
        model = fill(nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))), seed=seed)
        lowered, operations = on_integers(model, x)
        # Of each: division, limits, rounding; product, factor, bias. Then the layout of the result.
        assert len(operations) == 3 * 3 + 3 * 3 + 1
        found |= zero_points(lowered)
    assert found == {0, 1}


@torch.no_grad()
def test_a_residual_is_added_to_what_is_rounded_once():
    def run(m, x):
        y = F.relu(m.a(x))
        return head(m, F.relu(m.b(y) + y))

    model = fill(Net(run, a=conv(3, 6), b=conv(6, 6), fc=nn.Linear(6, 4)))
    _, operations = on_integers(model, IMAGES)
    assert len(named(operations, "round_")) == 3
    assert len(named(operations, "relu")) == 1  # of the sum, which is read as float values
    assert all(node.meta["val"].dtype == torch.float32 for node in operations if node.meta)


@torch.no_grad()
def test_codes_that_something_else_reads_stay_bytes():
    model = fill(
        Net(
            lambda m, x: head(m, m.b(m.pool(F.relu(m.a(x))))),
            a=conv(3, 6),
            pool=nn.MaxPool2d(2),
            b=conv(6, 6),
            fc=nn.Linear(6, 4),
        )
    )
    _, operations = on_integers(model, IMAGES)
    assert len(named(operations, "round_")) == 2
    (pool,) = named(operations, "max_pool2d")
    assert pool.args[0].meta["val"].dtype == torch.uint8


@pytest.mark.parametrize("axes", [(4,), (4, 2)])
@torch.no_grad()
def test_a_part_of_what_is_rounded_lies_as_its_product_wants_it(axes):
    model = fill(
        Net(
            lambda m, x: m.c(m.b(m.a(x)[:, 0])),
            **{name: nn.Linear(6, 6) for name in "abc"},
        )
    )
    x = seeded((5, *axes, 6))
    lowered, _ = on_integers(model, x)
    torch.testing.assert_close(lowered(x), lowered.model(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_numbers_of_the_model_itself_are_read_at_every_call():
    model = fill(
        Net(lambda m, x: m.b(m.a(x) * m.factor.exp()), a=nn.Linear(6, 6), b=nn.Linear(6, 3))
    )
    model.factor = nn.Parameter(torch.zeros(6))
    x = seeded((5, 6))
    lowered, _ = on_integers(model, x)
    before = lowered(x)
    lowered.model.factor.sub_(1.0)
    after = lowered(x)
    assert not torch.equal(before, after)
    lowered.runs_steps = True
    assert torch.equal(after, lowered(x))
