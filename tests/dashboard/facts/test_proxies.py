from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.proxies import PROXIES, describe_correlation, measure_agreement
from quant_engine.report import ErrorMetrics, LayerSize, ModelReport
from tests.dashboard import factories
from tests.dashboard.small_sensitivity import make_layer, make_report

KL = METRICS["kl_divergence"]
LOCAL = PROXIES["local"]


def make_model_report(local_db: dict[str, float | None]) -> ModelReport:
    layers = []
    for name, sqnr_db in local_db.items():
        error = None
        if sqnr_db is not None:
            error = ErrorMetrics(10, sqnr_db, 1e-3, 1.0, 1e-3, 0.1)
        size = LayerSize(400, 100, 4, 1, 0)
        base = replace(factories.make_report().layers[0], weight=None, input=None)
        layers.append(replace(base, name=name, kind="Linear", size=size, local_error=error))
    return replace(factories.make_report(), layers=tuple(layers), output=None)


def test_full_agreement_is_plus_one_and_opposite_order_minus_one():
    report = make_model_report({"a": 10.0, "b": 20.0, "c": 30.0})
    same = make_report([make_layer("a", 3.0), make_layer("b", 2.0), make_layer("c", 1.0)])
    opposite = make_report([make_layer("a", 1.0), make_layer("b", 2.0), make_layer("c", 3.0)])
    assert measure_agreement(report, same, KL, LOCAL).spearman == pytest.approx(1.0)
    assert measure_agreement(report, same, KL, LOCAL).kendall == pytest.approx(1.0)
    assert measure_agreement(report, opposite, KL, LOCAL).spearman == pytest.approx(-1.0)


def test_leave_one_out_turns_the_measured_order():
    report = make_model_report({"a": 10.0, "b": 20.0, "c": 30.0})
    layers = [make_layer("a", 1.0), make_layer("b", 2.0), make_layer("c", 3.0)]
    left_out = make_report(layers, direction="leave_one_out")
    assert measure_agreement(report, left_out, KL, LOCAL).spearman == pytest.approx(1.0)


@pytest.mark.parametrize("value", [1.0, 0.91, 0.75, 0.5, 0.39, 0.24, 0.0])
def test_words_for_a_correlation_are_as_strong_below_zero_as_above(value: float) -> None:
    pairs = {
        "nearly the same order": "nearly the opposite order",
        "a similar order": "mostly the opposite order",
        "a rough hint only": "a rough hint of the opposite order",
        "hardly related": "hardly related",
    }
    assert describe_correlation(-value) == pairs[describe_correlation(value)]


def test_values_worked_by_hand():
    # Cheap order a, b, c, d; measured order b, a, d, c: rank differences of 1, so
    # rho = 1 - 6*4/(4*15) = 0.6; 4 of 6 pairs agree and 2 do not, so tau = 1/3.
    report = make_model_report({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    measured = make_report(
        [make_layer("a", 3.0), make_layer("b", 4.0), make_layer("c", 1.0), make_layer("d", 2.0)]
    )
    agreement = measure_agreement(report, measured, KL, LOCAL)
    assert agreement.spearman == pytest.approx(0.6)
    assert agreement.kendall == pytest.approx(1 / 3)
    assert [pair.gap for pair in agreement.pairs] == [-1, 1, -1, 1]


def test_infinite_sqnr_ranks_as_least_sensitive():
    report = make_model_report({"a": math.inf, "b": 20.0, "c": 10.0})
    measured = make_report([make_layer("a", 0.0), make_layer("b", 1.0), make_layer("c", 2.0)])
    agreement = measure_agreement(report, measured, KL, LOCAL)
    assert agreement.spearman == pytest.approx(1.0)
    assert agreement.pairs[0].proxy_rank == 3


def test_layers_that_lack_one_of_the_numbers_are_left_out():
    report = make_model_report({"a": None, "b": 20.0, "c": 10.0, "d": 15.0})
    measured = make_report([make_layer(name, 1.0) for name in "abc"] + [make_layer("other", 2.0)])
    agreement = measure_agreement(report, measured, KL, LOCAL)
    assert [pair.name for pair in agreement.pairs] == ["b", "c"]
    assert agreement.spearman is None


@pytest.mark.parametrize("local", [{"a": 1.0, "b": 1.0, "c": 1.0}, {}])
def test_not_defined_where_nothing_varies_or_nothing_is_there(local):
    measured = make_report([make_layer(name, i) for i, name in enumerate("abc")])
    agreement = measure_agreement(make_model_report(local), measured, KL, LOCAL)
    assert agreement.spearman is None
    assert agreement.kendall is None


def test_the_worst_pair_is_the_one_furthest_off():
    report = make_model_report({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    measured = make_report(
        [make_layer("a", 4.0), make_layer("b", 1.0), make_layer("c", 2.0), make_layer("d", 3.0)]
    )
    worst = measure_agreement(report, measured, KL, LOCAL).worst
    assert worst is not None
    assert worst.name == "b"
    assert worst.gap == -2


def test_other_proxies_read_their_own_tensor():
    report = make_model_report({"a": 10.0})
    assert PROXIES["weight"].value(report.layers[0]) is None
    assert PROXIES["input"].value(report.layers[0]) is None
    assert LOCAL.value(report.layers[0]) == 10.0
