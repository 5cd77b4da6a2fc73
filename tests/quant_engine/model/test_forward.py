from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from quant_engine.errors import ModelForwardError, NotCalibratedError
from quant_engine.model.batches import Batch
from quant_engine.model.forward import (
    eval_mode,
    layer_input,
    primary_output,
    run_model,
    watched_layers,
)

X = torch.ones(2, 3)


class Answering(nn.Module):
    """Answers with whatever it was told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.linear = nn.Linear(3, 3)

    def forward(self, x, scale=1.0):
        return self.answer(x) * scale if callable(self.answer) else self.answer


@dataclass
class Output:
    logits: object


def batch(*args, **kwargs):
    return Batch(args, kwargs, samples=2, where="calibration_data, batch 3")


def test_arguments_reach_the_model_and_no_gradients_come_back():
    model = nn.Linear(3, 1)
    y = run_model(model, batch(X))
    assert not y.requires_grad
    assert torch.equal(run_model(Answering(lambda x: x), batch(X, scale=2.0)), 2 * X)


def test_inference_mode_outside_leaves_usable_tensors():
    with torch.inference_mode():
        y = run_model(nn.Linear(3, 3), batch(torch.ones(2, 3)))
    assert not y.is_inference()


def test_a_failure_says_which_batch_which_shapes_and_which_layer():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
    with pytest.raises(ModelForwardError) as caught:
        run_model(model, batch(X))
    message = str(caught.value)
    for part in (
        "calibration_data, batch 3",
        "input 0: (2, 3) float32",
        "layer '1.1' (Linear)",
        "RuntimeError",
    ):
        assert part in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failure_in_the_model_itself_and_with_keywords():
    def fail(x):
        raise KeyError("mask")

    with pytest.raises(ModelForwardError, match="in the model itself: KeyError: 'mask'"):
        run_model(Answering(fail), batch(X))
    with pytest.raises(ModelForwardError, match=r"input x: \(2, 3\)"):
        run_model(Answering(fail), batch(x=X))


def test_errors_of_this_package_pass_through():
    def fail(x):
        raise NotCalibratedError("calibrate first")

    with pytest.raises(NotCalibratedError, match="calibrate first"):
        run_model(Answering(fail), batch(X))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_through(interrupt):
    def stop(x):
        raise interrupt

    with pytest.raises(interrupt):
        run_model(Answering(stop), batch(X))


IDS = torch.tensor([1, 2])


@pytest.mark.parametrize(
    "output",
    [
        X,
        (X, IDS),
        [IDS, X],
        (None, (IDS, X)),
        {"hidden": torch.zeros(1), "logits": X},
        {"ids": IDS, "scores": X},
        Output(X),
    ],
    ids=["tensor", "tuple", "list", "nested", "logits", "mapping", "object"],
)
def test_the_output_a_model_is_judged_by(output):
    assert primary_output(output) is X


@pytest.mark.parametrize("output", [None, 3, "text", (), (IDS,), {}, {"a": 3}, Output(None)])
def test_outputs_without_a_float_tensor_have_none(output):
    assert primary_output(output) is None


def test_watching_reports_every_call_and_leaves_no_hook():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    seen = []
    with watched_layers({"a": shared, "b": model[1]}, lambda *call: seen.append(call)):
        y = run_model(model, batch(X))
    assert [name for name, *_ in seen] == ["a", "b", "a"]
    _, args, kwargs, output = seen[-1]
    assert torch.equal(output, y)
    assert torch.equal(layer_input(args, kwargs), seen[1][3])
    run_model(model, batch(X))
    assert len(seen) == 3
    assert not shared._forward_hooks


def test_hooks_are_gone_after_a_failure_too():
    layer = nn.Linear(3, 3)

    def fail(*_):
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), watched_layers({"a": layer}, fail):
        layer(X)
    assert not layer._forward_hooks


def test_inputs_given_by_keyword_are_found():
    assert layer_input((), {"mask": None, "x": X}) is X
    assert layer_input((None, X), {}) is X
    assert layer_input((1,), {}) is None


def test_every_module_gets_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(3, 3)))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_modes_come_back_after_a_failure_too():
    model = nn.Sequential(nn.Dropout())

    def fail():
        with eval_mode(model):
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert model.training
    assert model[0].training
