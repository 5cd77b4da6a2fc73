import copy
import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant_engine import LogitResponse, pareto_frontier, search_configuration, verify_frontier
from quant_engine.errors import BudgetError, SchemeError
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme
from quant_engine.search.moves import additive_optimum, apply_move, improve, is_allowed, rank_moves
from quant_engine.search.space import SearchSpace
from quant_engine.variants.options import bit_options
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import case, measure


def small_model(seed: int) -> nn.Module:
    model = fill(
        nn.Sequential(
            *(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.Tanh()),
            *(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)),
        ),
        seed,
    )
    for parameter in model.parameters():
        parameter.data *= 0.4
    return model


@cache
def small_response(seed: int) -> LogitResponse:
    options = bit_options(Recipe.default(), bits=(8, 5, 3))
    return measure(small_model(seed), seeded((24, 6), seed), options=options)


def everything(response: LogitResponse) -> list[dict[str, str]]:
    choices = ["float", *response.options]
    return [
        dict(zip(response.layers, picks, strict=True))
        for picks in itertools.product(choices, repeat=len(response.layers))
    ]


def greedy_by_single_degradation(response: LogitResponse, budget: float) -> float:
    """Add up single degradations; save most bytes for the least of it, one layer at a time."""
    now: dict[str, str] = {}
    single = {
        (layer, option): response.score({layer: option}).degradation
        for layer in response.layers
        for option in response.options
    }
    while response.size(now).model_bytes > budget:
        steps = []
        for layer, option in single:
            then = {**now, layer: option}
            saved = response.size(now).model_bytes - response.size(then).model_bytes
            if saved > 0:
                cost = single[layer, option] - single.get((layer, now.get(layer, "")), 0.0)
                steps.append((cost / saved, layer, option))
        _, layer, option = min(steps)
        now[layer] = option
    return response.score(now).degradation


@settings(max_examples=12)
@given(seed=st.integers(0, 5), share=st.floats(0.05, 0.95))
def test_search_finds_what_trying_everything_finds(seed, share):
    response = small_response(seed)
    scores = [response.score(configuration) for configuration in everything(response)]
    sizes = [score.size.model_bytes for score in scores]
    budget = min(sizes) + share * (max(sizes) - min(sizes))
    best = min(score.degradation for score in scores if score.size.model_bytes <= budget)
    found = search_configuration(response, model_bytes=int(budget))
    assert found.predicted.size.model_bytes <= budget
    assert found.predicted.degradation <= best * 1.02 + 1e-12


def test_search_beats_greedy_and_the_additive_optimum_somewhere_and_loses_nowhere():
    gains = []
    for seed in range(6):
        response = small_response(seed)
        space = SearchSpace(response)
        sizes = [response.size(response.uniform(o)).model_bytes for o in ("float", *space_names())]
        budget = int(np.mean(sizes[2:]))
        found = search_configuration(response, model_bytes=budget).predicted.degradation
        limit = space.limit("bytes", budget)
        start = additive_optimum(space, [limit])
        assert start is not None
        additive = float(space.degradations([start])[0])
        greedy = greedy_by_single_degradation(response, budget)
        assert found <= min(additive, greedy) * (1 + 1e-9)
        gains.append((found < 0.99 * additive, found < 0.99 * greedy))
    assert any(gain for gain, _ in gains)
    assert any(gain for _, gain in gains)


def test_kicks_lead_out_of_a_local_optimum():
    response, budget = small_response(5), 801
    space = SearchSpace(response)
    limits = [space.limit("bytes", budget)]
    _, without = improve(space, additive_optimum(space, limits), limits)
    scores = [response.score(configuration) for configuration in everything(response)]
    best = min(score.degradation for score in scores if score.size.model_bytes <= budget)
    found = search_configuration(response, model_bytes=budget).predicted.degradation
    assert without > 1.05 * best
    assert found == pytest.approx(best)


def space_names() -> tuple[str, ...]:
    return small_response(0).options


def test_budgets_on_bits_and_on_float_layers_are_kept():
    response = small_response(1)
    by_bits = search_configuration(response, effective_bits=9.0).predicted
    assert by_bits.size.effective_bits <= 9.0
    by_layers = search_configuration(response, float_layers=1)
    assert len(by_layers.configuration) >= len(response.layers) - 1
    scores = [response.score(c) for c in everything(response) if _floats(c) <= 1]
    assert by_layers.predicted.degradation <= min(score.degradation for score in scores) * 1.02
    both = search_configuration(response, effective_bits=9.0, float_layers=0)
    assert len(both.configuration) == len(response.layers)
    assert both.predicted.size.effective_bits <= 9.0


def _floats(configuration: dict[str, str]) -> int:
    return sum(option == "float" for option in configuration.values())


def test_products_predict_moves_to_second_order():
    """Without rounding noise, and with small shifts, the sum of products is the degradation."""
    response = small_response(2)
    arrays = response.arrays
    arrays.shifts[:] *= 1e-3
    arrays.roundings[:] = 0.0
    arrays.__dict__.pop("rounding_degradation", None)
    try:
        space = SearchSpace(response)
        for assignment in ([1, 2, 3, 1], [3, 3, 3, 3], [0, 1, 0, 2]):
            places = np.arange(4) * space.choices + assignment
            second_order = space.products[0][np.ix_(places, places)].sum()
            degradation = space.degradations([np.array(assignment)])[0]
            assert second_order == pytest.approx(degradation, rel=1e-2)
    finally:
        small_response.cache_clear()


def test_moves_are_ranked_by_their_exact_change_to_second_order():
    space = SearchSpace(small_response(1))
    limits = [space.limit("bytes", 10**9)]
    assignment = np.array([1, 0, 3, 2])

    def second_order(at):
        places = np.arange(4) * space.choices + at
        return space.products[0][np.ix_(places, places)].sum()

    gains, moves = rank_moves(space, assignment, limits)
    assert len(moves) == 4 * 3 + 6 * 3 * 3
    for gain, move in zip(gains, moves, strict=True):
        moved = apply_move(assignment, move, space.choices)
        expected = second_order(moved) - second_order(assignment)
        assert gain == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_moves_never_make_it_worse_or_leave_the_budget():
    response = small_response(3)
    space = SearchSpace(response)
    for start in itertools.product(range(4), repeat=4):
        assignment = np.array(start)
        budget = response.size(space.configuration(assignment)).model_bytes
        limits = [space.limit("bytes", budget)]
        end, degradation = improve(space, assignment, limits)
        assert is_allowed(end, limits)
        assert degradation <= space.degradations([assignment])[0]


def test_a_frontier_falls_from_the_smallest_to_the_float_model():
    response = small_response(4)
    points = pareto_frontier(response, points=6).points
    sizes = [point.predicted.size.model_bytes for point in points]
    degradations = [point.predicted.degradation for point in points]
    assert sizes == sorted(sizes)
    assert degradations == sorted(degradations, reverse=True)
    smallest = min(response.size(c).model_bytes for c in everything(response))
    assert sizes[0] == smallest
    assert (points[-1].configuration, degradations[-1]) == ((), 0.0)


def test_a_verified_frontier_has_measured_scores_beside_the_predicted_ones():
    response, x = small_response(5), seeded((24, 6), 5)
    frontier = pareto_frontier(response, points=4)
    verified = verify_frontier(small_model(5), [x], response, frontier)
    for point, before in zip(verified.points, frontier.points, strict=True):
        assert point.predicted == before.predicted
        assert point.measured is not None
        assert point.measured.size == point.predicted.size
    assert verified.points[-1].measured.kl_divergence == 0.0
    assert verified.points[0].measured.kl_divergence > 0.0


def test_layers_with_one_weight_get_one_option():
    response = measure(*case("twice"))
    space = SearchSpace(response)
    assert [len(places) for places in space.units] == [1, 2]
    least = search_configuration(
        response, model_bytes=response.size(response.uniform("two")).model_bytes
    ).as_dict()
    assert least == response.uniform("two")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "No budget"),
        ({"model_bytes": 10}, "the least that these options allow"),
        ({"effective_bits": 1.0}, "the least"),
        ({"float_layers": -1}, "the least"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(budget, message):
    with pytest.raises(SchemeError, match=message):
        search_configuration(small_response(0), **budget)


def test_a_budget_that_is_too_small_says_the_least_that_works():
    response = small_response(0)
    with pytest.raises(BudgetError) as caught:
        search_configuration(response, model_bytes=10)
    least = min(
        response.size(dict(zip(response.layers, options, strict=True))).model_bytes
        for options in itertools.product(response.options, repeat=len(response.layers))
    )
    assert (caught.value.what, caught.value.most, caught.value.least) == ("bytes", 10, least)
    again = copy.copy(caught.value)  # as between processes
    assert (str(again), again.least) == (str(caught.value), least)
    assert search_configuration(response, model_bytes=least).predicted.size.model_bytes == least


def test_a_frontier_needs_two_points():
    with pytest.raises(SchemeError, match="points"):
        pareto_frontier(small_response(0), points=1)


def test_a_search_can_be_cancelled():
    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_configuration(small_response(0), effective_bits=9.0, progress=stop)


def test_bits_of_codes_alone_compare_groups_of_one_size() -> None:
    def in_groups(bits: int, size: int) -> LayerScheme:
        return LayerScheme(TensorScheme(bits, granularity="per_group", group_size=size))

    model, x = small_model(0), seeded((24, 6))
    alike = measure(model, x, options=[in_groups(4, 4), in_groups(3, 4)])
    mixed = measure(model, x, options=[in_groups(3, 4), in_groups(3, 2)])

    found = search_configuration(alike, weight_bits=3.5).as_dict()
    assert alike.size(found).weight_bits <= 3.5
    with pytest.raises(SchemeError, match="scales per group of 2, per group of 4"):
        search_configuration(mixed, weight_bits=3.5)
    # 32 bits for a scale of two weights, and of four.
    found = search_configuration(mixed, effective_bits=13).as_dict()
    (wide, _) = mixed.report.options
    assert set(found.values()) == {wide.name}
    assert mixed.size(found).effective_bits < 13
