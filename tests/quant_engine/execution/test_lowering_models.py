"""Whole small models of the kinds that people bring: masks, folded BatchNorms, shapes, joins."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import quantize_model
from quant_engine.execution.convert import convert_execution, execution_notes, list_executions
from quant_engine.execution.lowering.lower import LoweredModel, is_lowered, lowered_steps
from sample_models import get_model_info, list_models, load_model
from tests.quant_engine.layer_cases import fill, seeded

WORDS = torch.arange(24).view(3, 8) % 11


@dataclass
class Answer:
    logits: Tensor
    hidden_states: tuple[Tensor, ...]


class Decoder(nn.Module):
    """One block of a language model: shapes unpacked, an optional mask, a dataclass answer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 16), nn.Embedding(32, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 11)
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(3)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Answer:
        b, t = input_ids.shape
        x = self.words(input_ids) + self.places(torch.arange(t, device=input_ids.device))
        q, k, v = self.qkv(self.norms[0](x)).view(b, t, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()
        mixed = F.scaled_dot_product_attention(q, k, v, mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, -1))
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return Answer(self.head(self.norms[2](x)), (x,))


@torch.no_grad()
def test_a_language_model_lowers_with_and_without_a_mask() -> None:
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0
    quantized = quantize_model(fill(Decoder()), [{"input_ids": WORDS}])
    simulated = convert_execution(quantized, "simulated", lowered=True)
    assert isinstance(simulated, LoweredModel)
    calls: list[dict[str, Any]] = [
        {"input_ids": WORDS},
        {"input_ids": WORDS, "attention_mask": mask},
        {"input_ids": WORDS[:2], "attention_mask": mask[:2]},
        {"input_ids": WORDS[:, :5]},
        {"input_ids": WORDS[:1, :6]},
    ]
    for call in calls:
        found, expected = simulated(**call), quantized(**call)
        assert type(found) is Answer
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.hidden_states[0], expected.hidden_states[0])
    integer = convert_execution(simulated)  # with the graphs of all calls
    for call in calls:
        expected = quantized(**call)
        torch.testing.assert_close(integer(**call).logits, expected.logits, rtol=0.1, atol=0.1)
    assert not torch.equal(simulated(**calls[0]).logits[1], simulated(**calls[1]).logits[1])
    assert execution_notes(simulated) == ()
    assert len(simulated._programs) == 3  # without a mask, with one, and of any length
    up = {e.name: e for e in list_executions(integer)}["up"]
    assert (up.has_code_input, up.has_code_output) == (True, True)


class BatchNormAct(nn.BatchNorm2d):
    """Normalizes and activates, as timm's does."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return self.act(self.drop(y))


class Joined(nn.Module):
    """BatchNorms with an activation inside, two branches joined, a shape unpacked, `+=`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), BatchNormAct(8)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.mix, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(self.stem(x))
        z = self.mix(torch.cat([F.relu(self.left(y)), self.right(y)], dim=1))
        z += y
        z = z.view(b, -1, h * w).transpose(1, 2).relu_()
        answer: Tensor = self.head(z.mean(dim=1) * c)
        return answer


@torch.no_grad()
def test_a_folded_batchnorm_with_an_activation_and_a_join_run_on_codes() -> None:
    images = seeded((4, 3, 8, 8))
    model = fill(Joined())
    model.norm.running_var.uniform_(0.5, 2.0)
    quantized = quantize_model(model, images)
    assert isinstance(quantized.norm, BatchNormAct)
    simulated = convert_execution(quantized, "simulated", lowered=True)
    integer = convert_execution(simulated)

    steps = lowered_steps(integer)
    assert steps["stem"].activation == "relu"
    assert steps["left"].activation == "relu"
    assert all(steps[name].output_qparams is not None for name in ("stem", "left", "right"))
    assert all(steps[name].takes_codes for name in ("left", "right", "mix"))
    for samples in (4, 1, 3):
        x = images[:samples]
        scale = quantized(x).abs().max()
        # The residual is rounded once more.
        assert (simulated(x) - quantized(x)).abs().max() < 0.05 * scale
        assert (integer(x) - simulated(x)).abs().max() < 0.02 * scale


_GRAPHS: dict[tuple[Any, ...], nn.Module] = {}


def lower(quantized: nn.Module) -> nn.Module:
    """Lower a model, one with tensors of the same shapes as another before by the graph of that."""
    numbers = quantized.state_dict()
    key = tuple((name, tensor.shape) for name, tensor in numbers.items())
    if key not in _GRAPHS:
        _GRAPHS[key] = convert_execution(quantized, "simulated", lowered=True)
        return _GRAPHS[key]
    lowered = copy.deepcopy(_GRAPHS[key])
    lowered.model.load_state_dict(numbers)
    return lowered


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_every_sample_model_answers_alike_simulated_on_integers_and_lowered(name: str) -> None:
    info, model = get_model_info(name), load_model(name)
    calibration, _ = info.load_inputs("calibration")
    x, _ = info.load_inputs("test")
    quantized = quantize_model(model, calibration)
    simulated = lower(quantized)
    assert is_lowered(simulated)
    expected, found = quantized(x), simulated(x)
    if all(step._skip is None for step in lowered_steps(simulated).values()):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:  # residuals are rounded once more, which moves outputs by about the quantization error
        error = (expected - model(x)).norm()
        assert (found - expected).norm() < 1.5 * error
    for kernel in ("auto", "portable"):
        kernels: set[str] = set()
        for form, wanted, bound in ((quantized, expected, 0.05), (simulated, found, 0.02)):
            # Codes next to a tie round apart: a share of the largest logit.
            integer = convert_execution(form, kernel=kernel)
            answers = integer(x)
            assert torch.equal(answers.argmax(dim=1), wanted.argmax(dim=1)), kernel
            assert (answers - wanted).abs().max() < bound * wanted.abs().max(), kernel
            assert execution_notes(integer) == ()
            kernels |= {execution.kernel for execution in list_executions(integer)}
        if kernels <= {"", "portable"}:  # "auto" has taken what the other would
            break
