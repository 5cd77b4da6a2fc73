"""What a forward learns about its values while it is traced must be true of tensors too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import quantize_model
from quant_engine.dataflow import trace_links
from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution import convert_execution, execution_notes
from quant_engine.lowering import is_lowered
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((5, 3, 6))

Question = Callable[[Any, Tensor, Tensor], bool]


class Asking(nn.Module):
    """Takes one of two ways, as a question about the values says."""

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.memory, self.question = nn.LSTM(6, 6, batch_first=True), question

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.question(self, x, y):
            y = torch.tanh(y) * 3
        z: Tensor = self.last(y)
        return z


ANSWERED: dict[str, Question] = {
    "is a layer's output a tensor": lambda m, x, y: isinstance(y, Tensor),
    "is a sum a tensor": lambda m, x, y: isinstance(y + 1, Tensor),
    "is a slice a tensor": lambda m, x, y: isinstance(y[:, 0], Tensor),
    "is it a tensor, as torch asks": lambda m, x, y: torch.is_tensor(y),
    "is it a tuple": lambda m, x, y: isinstance(y, tuple),
    "is it a mapping": lambda m, x, y: isinstance(y, Mapping),
    "is it a parameter": lambda m, x, y: isinstance(y, nn.Parameter),
    "is the input a tensor": lambda m, x, y: isinstance(x, Tensor),
    "is the input a list": lambda m, x, y: isinstance(x, list),
    "has it logits": lambda m, x, y: hasattr(y, "logits"),
    "has it a shape": lambda m, x, y: hasattr(y, "shape"),
    "what are its logits": lambda m, x, y: getattr(y, "logits", None) is None,
}
UNANSWERED: dict[str, Question] = {
    "is a size a number": lambda m, x, y: isinstance(y.shape[-1], int),
    "is a size a tensor": lambda m, x, y: isinstance(y.size(0), Tensor),
    "is a shape a tuple": lambda m, x, y: isinstance(y.shape, tuple),
    "is twice a size a number": lambda m, x, y: isinstance(y.size(0) * 2, int),
    "are parts a tensor": lambda m, x, y: isinstance(y.chunk(2), tuple),
    "are an LSTM's outputs a tuple": lambda m, x, y: isinstance(m.memory(y), tuple),
}


@pytest.mark.parametrize("question", ANSWERED.values(), ids=ANSWERED)
@torch.no_grad()
def test_a_question_is_answered_as_for_a_tensor(question: Question) -> None:
    quantized = quantize_model(fill(Asking(question)), X)
    lowered = convert_execution(quantized, "simulated", lowered=True)

    assert execution_notes(lowered) == ()
    assert is_lowered(lowered)
    torch.testing.assert_close(lowered(X), quantized(X))


@pytest.mark.parametrize("question", UNANSWERED.values(), ids=UNANSWERED)
@torch.no_grad()
def test_where_the_answer_is_not_sure_the_model_is_not_traced(question: Question) -> None:
    model = fill(Asking(question))
    quantized = quantize_model(model, X)
    lowered = convert_execution(quantized, "simulated", lowered=True)

    assert "asks for the type of" in execution_notes(lowered)[0]
    assert torch.equal(lowered(X), quantized(X))
    with pytest.raises(UnsupportedLayerError, match="asks for the type of"):
        trace_links(model)
