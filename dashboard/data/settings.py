"""Settings of a run, and their form as a link.

`Settings` names a run completely: the same settings give the same run. They travel in the link as
plain words, so that a link can be read, and anything in a link that makes no sense falls back to
the usual choice with a notice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, unquote

from dashboard.data.link_words import (
    MOST_NAMES,
    LinkError,
    activation_from_text,
    activation_to_text,
    bound_names,
    drop_unknown_layers,
    override_from_text,
    override_to_text,
    remedy_from_text,
    remedy_to_text,
    scheme_from_text,
    scheme_to_text,
    shorten,
)
from quant_engine.errors import QuantizationError, SchemeError, suggest
from quant_engine.scheme import PRESETS, LayerScheme, Overrides, Recipe, Remedy, TensorScheme

DEFAULT_MODEL = "resnet"
DEFAULT_CALIBRATION_SAMPLES = 200
MIN_CALIBRATION_SAMPLES = 8
MAX_CALIBRATION_SAMPLES = 2000
MAX_SEED = 999_999

LINK_KEYS = (
    "model",
    "preset",
    "weight",
    "activation",
    "exclude",
    "bits",
    "remedy",
    "samples",
    "seed",
)
"""What the words of a link that name a run begin with; model and preset need no key."""

_PLAIN = ":*?[]!"
"""Characters of wildcards and schemes that stand in a link's words as they are."""

Params = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what a run computes.

    Attributes:
        model_name: Name of the sample model.
        recipe: How it is quantized.
        calibration_samples: Calibration samples drawn at most.
        seed: Decides which calibration samples are drawn.
    """

    model_name: str = DEFAULT_MODEL
    recipe: Recipe = field(default_factory=Recipe.default)
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", canonical(self.recipe))
        low, high = MIN_CALIBRATION_SAMPLES, MAX_CALIBRATION_SAMPLES
        if not low <= self.calibration_samples <= high:
            raise SchemeError(
                f"calibration samples are {self.calibration_samples!r}. "
                f"Allowed: {low} to {high}. Choose a number in between."
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise SchemeError(f"seed is {self.seed!r}. Allowed: 0 to {MAX_SEED}.")

    @property
    def run_id(self) -> str:
        """A short name that only these settings have; it stays the same across restarts."""
        excluded = tuple(sorted(self.recipe.exclude_layers))
        recipe = replace(self.recipe, name="", exclude_layers=excluded).to_dict()
        if not self.recipe.remedies:  # the same run was called so before there were any
            del recipe["remedies"]
        text = json.dumps([self.model_name, recipe, self.calibration_samples, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def preset_of(recipe: Recipe) -> str | None:
    """Return the preset whose two schemes `recipe` has, or None.

    Example:
        >>> preset_of(Recipe.default().with_excluded("head"))
        'int8_per_channel'
    """
    for name, preset in PRESETS.items():
        if (preset.weight, preset.activation) == (recipe.weight, recipe.activation):
            return name
    return None


def canonical(recipe: Recipe) -> Recipe:
    """Return the one way to write a recipe: called after its preset, idle percentiles usual."""
    overrides = {name: _canonical_layer(scheme) for name, scheme in recipe.overrides.items()}
    plain = _canonical_layer(LayerScheme(recipe.weight, recipe.activation))
    schemes = replace(recipe, weight=plain.weight, activation=plain.activation)
    result = replace(schemes, overrides=Overrides(overrides))
    return replace(result, name=preset_of(result) or "")


def _canonical_layer(scheme: LayerScheme) -> LayerScheme:
    activation = None if scheme.activation is None else _canonical_tensor(scheme.activation)
    return LayerScheme(_canonical_tensor(scheme.weight), activation)


def _canonical_tensor(scheme: TensorScheme) -> TensorScheme:
    """An observer other than "percentile" does not read the percentile."""
    if scheme.observer == "percentile":
        return replace(scheme, percentile=float(scheme.percentile))
    return replace(scheme, percentile=TensorScheme().percentile)


def settings_to_params(settings: Settings) -> dict[str, list[str]]:
    """Return the settings as keys and values of a link; what is usual is left out."""
    recipe = settings.recipe
    params: dict[str, list[str]] = {"model": [settings.model_name]}
    preset = preset_of(recipe)
    if preset is not None:
        params["preset"] = [preset]
    else:
        params["weight"] = [scheme_to_text(recipe.weight)]
        params["activation"] = [activation_to_text(recipe.activation)]
    if recipe.exclude_layers:
        params["exclude"] = list(recipe.exclude_layers)
    if recipe.overrides:
        params["bits"] = [override_to_text(n, s, recipe) for n, s in recipe.overrides.items()]
    if recipe.remedies:
        params["remedy"] = [remedy_to_text(remedy) for remedy in recipe.remedies]
    if settings.calibration_samples != DEFAULT_CALIBRATION_SAMPLES:
        params["samples"] = [str(settings.calibration_samples)]
    if settings.seed:
        params["seed"] = [str(settings.seed)]
    return params


def settings_to_text(settings: Settings) -> str:
    """Return the settings in one line of words, as the link's key `run` holds them.

    Example:
        >>> settings_to_text(Settings("mlp", Recipe.default().with_excluded("head")))
        'mlp int8_per_channel exclude:head'
    """
    params = settings_to_params(settings)
    words = [params.pop("model")[0], *params.pop("preset", [])]
    words += [f"{key}:{quote(value, safe=_PLAIN)}" for key in params for value in params[key]]
    return " ".join(words)


def params_from_text(text: str) -> dict[str, list[str]]:
    """Split `settings_to_text`'s words by key; a word without a key is the model or the preset."""
    params: dict[str, list[str]] = {}
    for word in text.split():
        key, colon, value = word.partition(":")
        if not colon:
            key, value = ("preset" if "model" in params else "model"), word
        params.setdefault(key, []).append(unquote(value))
    return params


def settings_from_text(
    text: str, models: Sequence[str], layers_of: Callable[[str], Sequence[str]] | None = None
) -> tuple[Settings | None, tuple[str, ...]]:
    """Read `settings_to_text`'s words; arguments and result as for `settings_from_params`."""
    return settings_from_params(params_from_text(text), models, layers_of)


def settings_from_params(
    params: Params, models: Sequence[str], layers_of: Callable[[str], Sequence[str]] | None = None
) -> tuple[Settings | None, tuple[str, ...]]:
    """Read settings from a link; never raises.

    Args:
        params: Keys of the words and their values.
        models: Names of the models there are.
        layers_of: Returns the names of a model's layers; without it any name is taken.

    Returns:
        The settings, or None where the link names no run at all, and one notice for each part
        that made no sense and was replaced by the usual choice.
    """
    if not any(params.get(key) for key in LINK_KEYS):
        return None, ()
    notices: list[str] = []
    model_name = _model(params, models, notices)
    recipe = _schemes(params, notices)
    recipe = _layers(params, recipe, notices)
    recipe = replace(recipe, remedies=_remedies(params, notices))
    is_naming_layers = recipe.exclude_layers or recipe.overrides or recipe.remedies
    if layers_of is not None and is_naming_layers:
        recipe, unknown = drop_unknown_layers(recipe, layers_of(model_name))
        notices += unknown
    allowed = (MIN_CALIBRATION_SAMPLES, MAX_CALIBRATION_SAMPLES)
    samples = _number(params, "samples", DEFAULT_CALIBRATION_SAMPLES, allowed, notices)
    seed = _number(params, "seed", 0, (0, MAX_SEED), notices)
    return Settings(model_name, recipe, samples, seed), tuple(notices)


def _last(params: Params, key: str) -> str | None:
    values = params.get(key)
    return values[-1] if values else None


def _model(params: Params, models: Sequence[str], notices: list[str]) -> str:
    fallback = DEFAULT_MODEL if DEFAULT_MODEL in models or not models else models[0]
    name = _last(params, "model")
    if name is None:
        return fallback
    if name not in models:
        notices.append(
            f"The link names the model “{shorten(name)}”, which does not exist. "
            f"{suggest(name, models)} Using {fallback}."
        )
        return fallback
    return name


def _schemes(params: Params, notices: list[str]) -> Recipe:
    preset, usual = _last(params, "preset"), Recipe.default()
    recipe = usual if preset is None else PRESETS.get(preset, usual)
    if preset is not None and preset not in PRESETS:
        notices.append(
            f"The link names the preset “{shorten(preset)}”, which does not exist. "
            f"{suggest(preset, PRESETS)} Using {recipe.name}."
        )
    for key, read in (("weight", scheme_from_text), ("activation", activation_from_text)):
        text = _last(params, key)
        try:
            change: dict[str, Any] = {} if text is None else {key: read(text)}
            recipe = replace(recipe, **change)
        except (LinkError, QuantizationError) as error:
            notices.append(
                f"The link's {key} scheme was not understood: {error} Using the usual one."
            )
    return recipe


def _layers(params: Params, recipe: Recipe, notices: list[str]) -> Recipe:
    excluded = tuple(bound_names(params, "exclude", notices))
    overrides = {}
    for text in bound_names(params, "bits", notices):
        try:
            name, scheme = override_from_text(text, recipe)
        except (LinkError, QuantizationError) as error:
            notices.append(f"The link's bits for one layer were not understood: {error} Left out.")
        else:
            overrides[name] = scheme
    return replace(recipe, exclude_layers=excluded, overrides=Overrides(overrides))


def _remedies(params: Params, notices: list[str]) -> tuple[Remedy, ...]:
    """Read the remedies, the last of each kind."""
    found: dict[str, Remedy] = {}
    for text in params.get("remedy", ())[:MOST_NAMES]:
        head, *given = text.split(":")
        names = bound_names({"remedy": given}, "remedy", notices)
        if any(given) and not names:
            continue
        try:
            remedy = remedy_from_text(":".join([head, *names]))
        except (LinkError, QuantizationError) as error:
            notices.append(f"The link's remedy was not understood: {error} Left out.")
        else:
            found[remedy.kind] = remedy
    return tuple(found.values())


def _number(
    params: Params, key: str, fallback: int, allowed: tuple[int, int], notices: list[str]
) -> int:
    text = _last(params, key)
    if text is None:
        return fallback
    low, high = allowed
    if text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high:
        return int(text)
    notices.append(
        f"The link's {key} is “{shorten(text)}”. Allowed: {low} to {high}. Using {fallback}."
    )
    return fallback
