"""What a measurement switches: told apart, read back from reports, and given to the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dashboard.data.settings import Settings
from dashboard.data.sweeps import (
    Sweep,
    describe_sweep,
    rounds_inputs,
    split_options,
    sweep_of,
)
from dashboard.work import service
from quant_engine.scheme import PRESETS, LayerScheme, Recipe, TensorScheme
from quant_engine.variants import OPTION_BITS
from tests.dashboard.factories import make_sensitivity
from tests.dashboard.option_reports import make_options

EVERY = [
    Sweep(direction, parts, bits)
    for direction in ("one_at_a_time", "leave_one_out")
    for parts in ("both", "weights", "activations")
    for bits in ((), (4,), OPTION_BITS)
]


class Counter:
    """Remembers how many forward passes were planned."""

    total = 0

    def progress(self, done: int, total: int, text: str) -> None:
        self.total = total

    def on_update(self, snapshot: Callable[[], object]) -> None:
        snapshot()


def test_every_sweep_has_a_key_and_a_description_of_its_own() -> None:
    assert len({sweep.key for sweep in EVERY}) == len(EVERY)
    assert len({describe_sweep(sweep) for sweep in EVERY}) == len(EVERY)


def test_the_order_and_number_of_widths_make_no_difference() -> None:
    assert Sweep(bits=(2, 8, 4, 8)) == Sweep(bits=(8, 4, 2))


def test_a_sweep_settles_on_the_plainest_that_does_the_same() -> None:
    weights_only = PRESETS["int8_weights_only"]
    own = {"fc": LayerScheme(TensorScheme(), TensorScheme())}

    assert Sweep(parts="activations", bits=(4,)).settled(Recipe.default()).bits == ()
    assert Sweep(parts="weights").settled(weights_only) == Sweep()
    assert Sweep(parts="weights").settled(Recipe.default()).parts == "weights"
    mixed = replace(weights_only, overrides=own)
    assert rounds_inputs(mixed)
    assert Sweep(parts="weights").settled(mixed).parts == "weights"


def test_options_are_the_runs_scheme_at_other_widths() -> None:
    recipe = PRESETS["int8_mse"]
    found = Sweep(bits=(8, 3)).options(recipe)

    assert found is not None
    assert [scheme.weight.bits for scheme in found.values()] == [8, 3]
    assert {scheme.activation for scheme in found.values()} == {recipe.activation}
    assert {scheme.weight.observer for scheme in found.values()} == {"mse"}
    assert Sweep().options(recipe) is None


def test_options_of_weights_alone_do_not_speak_of_integer_inputs() -> None:
    found = Sweep(parts="weights", bits=(4,)).options(Recipe.default())

    assert found is not None
    assert list(found) == ["int4 weights + float inputs"]


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep(),
        Sweep("leave_one_out"),
        Sweep(parts="weights", bits=(8, 4)),
        Sweep(parts="activations"),
        Sweep(bits=(2,)),
    ],
    ids=lambda sweep: sweep.key,
)
def test_the_engine_measures_the_sweep_and_the_report_says_which(sweep: Sweep) -> None:
    settings, counter = Settings("mlp"), Counter()
    report = service.measure_settings(settings, sweep, counter)

    assert sweep_of(report) == sweep
    layers = len(service.layer_options("mlp"))
    batches = len(service.evaluation_batches("mlp"))
    assert len(split_options(report)) == max(1, len(sweep.bits))
    # Calibration and quantizing are steps as well; they are a small part of all.
    assert counter.total <= sweep.count_runs(layers) * batches + 30
    assert counter.total >= sweep.count_runs(layers) * batches


def test_a_report_on_the_recipes_own_schemes_is_of_the_plain_sweep() -> None:
    own = make_sensitivity("leave_one_out")

    assert sweep_of(own) == Sweep("leave_one_out")
    assert split_options(own) == {"": own}


def test_a_report_is_split_by_width() -> None:
    report = make_options(Sweep(bits=(8, 4, 2)))
    parts = split_options(report)

    assert list(parts) == ["8 bits", "4 bits", "2 bits"]
    assert {x.option for x in parts["4 bits"].layers} == {"int4 weights + int8 inputs"}
    assert sweep_of(parts["4 bits"]).bits == (4,)
    assert [bool(part.cumulative) for part in parts.values()] == [True, False, False]


def test_what_was_switched_is_read_from_schemes_whatever_the_options_are_called() -> None:
    report = make_options(Sweep(bits=(8, 4)))
    ranking = replace(report.rankings[0], option="mine")
    renamed = replace(report, rankings=(ranking, report.rankings[1]))

    assert sweep_of(renamed).bits == (8, 4)
    assert list(split_options(renamed)) == ["8 bits", "4 bits"]
