import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from quant_engine import Output, Recipe, analyze, convert_execution, measure_times, quantize_model
from quant_engine.analysis.gaps import measure_gaps
from quant_engine.execution.timing import time_executions
from quant_engine.judging.judged import Judged, JudgedOutput
from quant_engine.model.batches import Batch
from quant_engine.report import NOT_COMPARED, ExecutionGap, ModelReport
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((32, 6))


def gaps_of(answers, outputs, batch):
    return measure_gaps(answers, batch, Judged(outputs))


def test_a_gap_is_a_root_mean_square_over_the_values_that_count():
    ids = torch.ones(1, 3, dtype=torch.long)
    mask = torch.tensor([[1, 1, 0]])
    batch = Batch((), {"ids": ids, "mask": mask}, samples=1)
    rows = {
        "float": [[3.0, 4.0], [0.0, 0.0], [9.0, 9.0]],
        "simulated": [[3.0, 6.0], [0.0, 0.0], [1.0, 1.0]],
        "integer": [[3.5, 6.0], [0.0, 0.0], [7.0, 7.0]],
    }
    answers = {name: torch.tensor([values]) for name, values in rows.items()}
    tokens = JudgedOutput("tokens", kind="logits", metric="kl_divergence", mask="mask")
    ((gap,), notes) = gaps_of(answers, (tokens,), batch)

    # Four values count; the squares are 0.5², 2² and 3² + 4².
    assert gap == ExecutionGap("integer", "tokens", 1, 0.25, 1.0, 2.5)
    assert gap.share == 0.25
    assert notes == []


def test_every_output_has_a_gap_of_its_own():
    answers = {
        "float": (torch.zeros(2, 1), torch.zeros(2, 2)),
        "simulated": (torch.ones(2, 1), torch.zeros(2, 2)),
        "integer": (torch.full((2, 1), 1.5), torch.ones(2, 2)),
        "integer_lowered": (torch.ones(2, 1), torch.zeros(2, 2)),
    }
    outputs = (JudgedOutput("a", 0), JudgedOutput("b", 1))
    gaps, _ = gaps_of(answers, outputs, Batch((X,), samples=2))
    shares = {(gap.execution, gap.output): gap.share for gap in gaps}
    assert shares == {
        ("integer", "a"): 0.5,
        ("integer", "b"): math.inf,
        ("integer_lowered", "a"): 0.0,
        ("integer_lowered", "b"): 0.0,
    }


def test_what_cannot_be_compared_says_why():
    answers = dict.fromkeys(("float", "simulated", "integer"), (torch.zeros(2, 1),))
    gaps, (note,) = gaps_of(answers, (JudgedOutput("b", 1),), Batch((X,), samples=2))
    assert gaps == ()
    assert note.startswith(NOT_COMPARED)
    assert "index 1" in note
    del answers["simulated"]
    gaps, (note,) = gaps_of(answers, (JudgedOutput("a"),), Batch((X,), samples=2))
    assert gaps == ()
    assert note == f"{NOT_COMPARED}: the simulation was not timed."


def test_the_gaps_are_those_of_the_models_that_were_timed():
    # Rounds often, so that a code somewhere lies on a tie.
    model = fill(nn.Sequential(*(part for _ in range(5) for part in (nn.Linear(6, 6), nn.Tanh()))))
    quantized = quantize_model(model, X, Recipe.default())
    batch = Batch((X,), samples=len(X))
    compare = partial(measure_gaps, judged=Judged())
    gaps = time_executions(model, quantized, batch, compare=compare).gaps
    with torch.no_grad():
        models = (convert_execution(quantized), quantized, model)
        integer, simulated, expected = (m(X).double().numpy() for m in models)

    assert [(gap.execution, gap.samples) for gap in gaps] == [
        ("integer", len(X)),
        ("integer_lowered", len(X)),
    ]
    # Nothing is rounded once more between these layers, so the lowered model answers the same.
    for gap in gaps:
        error = np.sqrt(np.mean((simulated - expected) ** 2))
        assert gap.quantization_error == pytest.approx(error, rel=1e-5)
        assert gap.signal == pytest.approx(np.sqrt(np.mean(expected**2)), rel=1e-5)
        difference = np.sqrt(np.mean((integer - simulated) ** 2))
        assert gap.difference == pytest.approx(difference, rel=1e-3, abs=1e-7)
        assert 0 < gap.share < 0.5


def test_a_report_with_times_has_the_gaps_of_what_is_judged():
    model = fill(nn.Sequential(nn.Linear(6, 2)))
    report = analyze(model, X, time_budget_s=0.1)
    assert {gap.output for gap in report.timing.gaps} == {report.output.name}
    assert ModelReport.from_json(report.to_json()) == report
    chosen = measure_times(report, model, X, output=Output(first_column), time_budget_s=0.1)
    signals = [found.timing.gaps[0].signal for found in (report, chosen)]
    with torch.no_grad():
        seen = model(X[: report.timing.gaps[0].samples]), model(X[: chosen.timing.gaps[0].samples])
    wanted = [seen[0].square().mean().sqrt(), seen[1][:, :1].square().mean().sqrt()]
    assert signals == pytest.approx([float(value) for value in wanted], rel=1e-5)


def first_column(answer):
    return answer[:, :1]


def test_a_model_that_draws_random_numbers_has_no_gaps_and_says_why():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    report = analyze(fill(nn.Sequential(Noisy(6, 2))), X, time_budget_s=0.1)
    assert report.timing.gaps == ()
    assert f"{NOT_COMPARED}: the model draws random numbers." in report.timing.notes
