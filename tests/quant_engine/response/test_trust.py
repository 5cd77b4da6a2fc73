"""Up to where predictions hold, by hand, and in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from quant_engine import LogitResponse
from quant_engine.report import AgreementPoint, TrustRegion
from quant_engine.response import describe_degradation, describe_region, find_region
from quant_engine.response.agreement import judge
from quant_engine.response.trust import FACTOR
from tests.quant_engine.response_cases import case, measure


def pairs(count: int, ratio: float, start: float = 1e-4) -> list[tuple[float, float]]:
    return [(start * (1 + i), start * (1 + i) / ratio) for i in range(count)]


def test_the_region_ends_where_predictions_begin_to_be_off() -> None:
    right, wrong = pairs(30, 1.0), pairs(30, 5.0, start=0.1)

    region = find_region([*wrong, *right])

    assert region.limit == 0.003
    assert region.checked == 30
    assert region.factor == 1.0
    assert region.beyond == pytest.approx(5.0)
    assert region.beyond_checked == 30
    assert region.holds(0.003)
    assert region.holds(0.0)
    assert not region.holds(0.0031)


def test_predictions_that_are_too_large_or_too_small_count_alike() -> None:
    for ratio in (1.01 * FACTOR, 1 / (1.01 * FACTOR)):
        assert find_region(pairs(30, ratio)).limit == 0
    for ratio in (0.99 * FACTOR, 1 / (0.99 * FACTOR)):
        assert find_region(pairs(30, ratio)).limit == 0.003


def test_a_few_stray_pairs_do_not_end_the_region() -> None:
    stray = [(p, m / 9) if i % 8 == 3 else (p, m) for i, (p, m) in enumerate(pairs(40, 1.0))]

    assert find_region(stray).limit == 0.004
    assert find_region(stray).factor == pytest.approx(9)


def test_too_few_pairs_show_nothing_and_pairs_without_degradation_are_left_out() -> None:
    assert not find_region(pairs(7, 1.0)).limit
    nothing = [(0.0, 0.1), (0.1, 0.0), (math.inf, 1.0), (1.0, math.nan)]
    assert find_region(nothing).limit == 0
    assert find_region([*pairs(20, 1.0), *nothing]).checked == 20


@pytest.mark.parametrize(
    ("beyond", "count", "words"),
    [
        (0.4, 9, "Beyond it they are optimistic: 0.4 × what was measured, the median of 9."),
        (3.0, 9, "Beyond it they are pessimistic: 3 × what was measured, the median of 9."),
        (1.1, 9, "Beyond it they scatter: 1.1 × what was measured"),
        (0.4, 2, "Only 2 of those checked lay beyond"),
        (None, 0, "None of those checked lay beyond"),
    ],
)
def test_words_say_up_to_where_and_what_comes_beyond(
    beyond: float | None, count: int, words: str
) -> None:
    text = describe_region(TrustRegion(0.01, 1.42, 50, beyond, count), ())
    assert text.startswith("Predictions hold up to a degradation of 0.01: 9 of 10 of the 50 that")
    assert "at most 1.4 × off" in text
    assert words in text


def test_a_verdict_names_the_region_and_the_response_hands_it_out() -> None:
    response = measure(*case("in_place"))
    agreement = response.agreement
    checked = [(p.predicted, p.measured) for p in agreement.single_points]
    checked += [(p.predicted, p.measured) for p in agreement.random_points]
    points = tuple(AgreementPoint((("a", "four"),), p, m) for p, m in pairs(30, 1.0))
    judged = judge(points, points, ["four"], 5, response.report.outputs)
    known = LogitResponse(replace(response.report, agreement=judged), response.output_arrays)

    assert response.trust_region.limit in (0.0, find_region(checked).limit)
    assert known.trust_region.limit == 0.003
    assert describe_region(known.trust_region, response.report.outputs) in judged.verdict
    assert known.trust_region == LogitResponse.from_bytes(known.to_bytes()).trust_region
    for level, limit in (("rough", 0.003), ("poor", 0.0), ("unknown", 0.0)):
        changed = replace(known.report, agreement=replace(judged, level=level))
        assert LogitResponse(changed, response.output_arrays).trust_region.limit == limit


def test_a_degradation_has_the_unit_of_its_outputs() -> None:
    (output,) = measure(*case("in_place")).report.outputs
    for metric, words in (
        ("kl_divergence", "KL 0.01 nats"),
        ("nmse", "NMSE 0.01"),
        ("cosine", "1 - cosine 0.01"),
    ):
        assert describe_degradation(0.01, (replace(output, metric=metric),)) == words
    several = [replace(output, name=name, reference=0.5) for name in ("boxes", "scores")]
    several.append(replace(output, name="idle", reference=0.0))
    assert describe_degradation(0.01, several) == (
        "0.01 of what the fully quantized model does to an output (largest of `boxes`, `scores`)"
    )
