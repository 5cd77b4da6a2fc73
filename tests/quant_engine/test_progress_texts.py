"""What progress says while work goes on: plain words that a reader of the dashboard understands."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from quant_engine import (
    LogitResponse,
    Recipe,
    TensorScheme,
    analyze,
    measure_sensitivity,
    pareto_frontier,
    quantize_model,
    verify_configurations,
)
from quant_engine.progress import Progress
from tests.quant_engine.sweep_models import make_batches, make_model

ENGINE_TALK = re.compile(r"\d+/\d+| - |\b(option|response|k least|meter|variant|evaluate|verify)\b")
RECIPE = Recipe(TensorScheme(bits=4), TensorScheme(symmetric=False))


def respond(progress: Progress | None) -> LogitResponse:
    model, batches = make_model(), make_batches()
    return LogitResponse.measure(model, batches, RECIPE, evaluation_data=batches, progress=progress)


def verify(progress: Progress) -> None:
    response = respond(None)
    options = dict.fromkeys(response.layers, response.options[0])
    verify_configurations(make_model(), make_batches(), response, [options], progress=progress)


WORK: dict[str, Callable[[Progress], object]] = {
    "analysis": lambda progress: analyze(
        make_model(),
        make_batches(),
        RECIPE,
        evaluation_data=make_batches(),
        time_budget_s=1.0,
        progress=progress,
    ),
    "quantizing": lambda progress: quantize_model(
        make_model(), make_batches(), RECIPE, progress=progress
    ),
    "sensitivity": lambda progress: measure_sensitivity(
        make_model(), make_batches(), RECIPE, evaluation_data=make_batches(), progress=progress
    ),
    "response": respond,
    "frontier": lambda progress: pareto_frontier(respond(None), progress=progress),
    "verification": verify,
}


@pytest.mark.parametrize("name", WORK)
def test_progress_is_told_in_plain_words(name: str) -> None:
    texts: list[str] = []

    WORK[name](lambda _done, _total, text: texts.append(text))

    assert texts
    for text in texts:
        assert not ENGINE_TALK.search(text), text
        assert len(text.split()) >= 2, text
