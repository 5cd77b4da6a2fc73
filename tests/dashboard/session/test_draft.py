"""Bits of single layers: they follow the recipe they are read with, and richer schemes stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.data.link_words import own_bits
from dashboard.session.draft import with_layer_bits
from dashboard.views.experiment.recipe_form import _bits_of_rows
from quant_engine.scheme import PRESETS, LayerScheme, Recipe, TensorScheme

RICH = LayerScheme(TensorScheme(bits=5, observer="entropy"), None)


def test_bits_are_read_back_only_where_nothing_else_differs() -> None:
    recipe = Recipe.default().with_layer_bits("a", 4).with_layer_bits("b", 4, 6)
    recipe = recipe.with_override("rich", RICH)

    assert own_bits(recipe.overrides["a"], recipe) == (4, None)
    assert own_bits(recipe.overrides["b"], recipe) == (4, 6)
    assert own_bits(recipe.overrides["rich"], recipe) is None


@pytest.mark.parametrize("name", PRESETS)
def test_bits_take_the_rest_from_the_new_recipe(name: str) -> None:
    recipe = with_layer_bits(PRESETS[name], {"a": (3, None)}, Recipe.default())

    assert recipe.overrides["a"].weight == replace(PRESETS[name].weight, bits=3)
    assert recipe.overrides["a"].activation == PRESETS[name].activation


def test_bits_that_say_the_same_as_the_recipe_are_left_out() -> None:
    assert with_layer_bits(Recipe.default(), {"a": (8, None), "b": (8, 8)}, Recipe.default()) == (
        Recipe.default()
    )


def test_richer_schemes_stay_until_the_layer_gets_its_own_bits() -> None:
    base = Recipe.default().with_override("rich", RICH)

    kept = with_layer_bits(PRESETS["int8_mse"], {}, base)
    replaced = with_layer_bits(PRESETS["int8_mse"], {"rich": (2, None)}, base)

    assert kept.overrides["rich"] == RICH
    assert replaced.overrides["rich"].weight == replace(PRESETS["int8_mse"].weight, bits=2)


def test_empty_cells_mean_as_chosen_above() -> None:
    rows = [
        {"Layer": "empty", "Weight bits": None, "Input bits": float("nan")},
        {"Layer": "weights", "Weight bits": 4.0, "Input bits": None},
        {"Layer": "inputs", "Weight bits": None, "Input bits": 6},
        {"Layer": "no inputs", "Weight bits": 3},
    ]

    assert _bits_of_rows(rows, 7) == {
        "weights": (4, None),
        "inputs": (7, 6),
        "no inputs": (3, None),
    }
