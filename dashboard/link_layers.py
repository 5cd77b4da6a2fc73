"""Layers that a link names: those that its model does not have are left out, and said so."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from dashboard.links import shorten
from quant_engine.scheme import Overrides, Recipe

MOST_NAMES = 256
"""Names and wildcards of layers that a link may give for each key; the rest is left out."""

MOST_NOTICES = 5
LONGEST_NAME = 200

_MOST_SUGGESTIONS = 3
_LEAST_LIKENESS = 0.3


def bound_names(params: Mapping[str, Sequence[str]], key: str, notices: list[str]) -> list[str]:
    """Return what a link gives for a key that names layers, as many as are read.

    Every name is compared with every layer, so what is read is bounded.
    """
    given = [name for name in params.get(key, ()) if name]
    kept = [name for name in given if len(name) <= LONGEST_NAME][:MOST_NAMES]
    if len(kept) < len(given):
        notices.append(
            f"The link's {key} names {len(given)} layers. Allowed: {MOST_NAMES}, each in at most "
            f"{LONGEST_NAME} characters. {len(given) - len(kept)} left out."
        )
    return kept


def drop_unknown_layers(recipe: Recipe, names: Sequence[str]) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe without names and wildcards that fit no layer, and a notice for each.

    Args:
        recipe: What a link asks for.
        names: Names of the model's layers.
    """

    def is_known(pattern: str) -> bool:
        return any(name == pattern or fnmatchcase(name, pattern) for name in names)

    excluded = tuple(pattern for pattern in recipe.exclude_layers if is_known(pattern))
    overrides = {name: scheme for name, scheme in recipe.overrides.items() if is_known(name)}
    notices = [
        f"The link keeps the layer “{shorten(pattern)}” in float, which this model does not have. "
        f"{_nearest(pattern, names)}Left out."
        for pattern in recipe.exclude_layers
        if pattern not in excluded
    ]
    notices += [
        f"The link gives bits to the layer “{shorten(name)}”, which this model does not have. "
        f"{_nearest(name, names)}Left out."
        for name in recipe.overrides
        if name not in overrides
    ]
    if len(notices) > MOST_NOTICES:
        more = len(notices) - MOST_NOTICES
        notices[MOST_NOTICES:] = [
            f"The link names {more} more layers that this model does not have."
        ]
    kept = replace(recipe, exclude_layers=excluded, overrides=Overrides(overrides))
    return kept, tuple(notices)


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return the layers that were probably meant, in a sentence; the first ones if none is near."""
    near = difflib.get_close_matches(name, names, _MOST_SUGGESTIONS, _LEAST_LIKENESS)
    if near:
        return f"Nearest: {', '.join(near)}. "
    return f"Its layers are called {', '.join(names[:_MOST_SUGGESTIONS])} and so on. "
