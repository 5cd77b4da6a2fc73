"""Several outputs: which of them have a share of what the fully quantized model does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from quant_engine import LogitResponse, search_configuration
from quant_engine.response.trust import describe_degradation
from quant_engine.search.space import SearchSpace
from tests.quant_engine.judging.test_judged import Heads, X, Y
from tests.quant_engine.layer_cases import fill


@pytest.fixture(scope="module")
def of_two_outputs() -> LogitResponse:
    return LogitResponse.measure(fill(Heads()), [(X, Y)], agreement_configurations=8)


def with_references(response: LogitResponse, *references: float) -> LogitResponse:
    pairs = zip(response.report.outputs, references, strict=True)
    outputs = tuple(replace(output, reference=reference) for output, reference in pairs)
    return replace(response, report=replace(response.report, outputs=outputs))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reference", [0.0, math.inf, math.nan, -1e-17])
def test_an_output_whose_reference_has_no_shares_does_not_enter_a_prediction(
    of_two_outputs: LogitResponse, reference: float
) -> None:
    response = with_references(of_two_outputs, 0.5, reference)
    configuration = dict.fromkeys(response.layers, response.options[-1])
    chosen = response.chosen(configuration)
    score, (first, _) = response.score(configuration), response.output_degradations([chosen])

    assert [output.ratio for output in score.outputs] == [pytest.approx(2.0 * first[0]), None]
    assert score.decided_by == "output 1"
    assert response.degradations([chosen]) == pytest.approx([score.degradation])
    assert response.joined(np.array([[0.1], [math.inf]])) == pytest.approx([0.2])
    words = describe_degradation(score.degradation, response.report.outputs)
    assert words.endswith("does to an output (largest of `output 1`)")

    space = SearchSpace(response)
    space.protect([space.uniform(1)])
    assert space.most is not None
    assert np.isfinite(space.most).tolist() == [True, False]
    (products,) = space.products
    assert np.isfinite(products).all()
    assert search_configuration(response, effective_bits=9.0).predicted.degradation > 0.0

    nothing = with_references(of_two_outputs, reference, reference)
    assert nothing.score(configuration).degradation == 0.0
    assert nothing.degradations([chosen]).tolist() == [0.0]
