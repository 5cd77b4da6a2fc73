"""Schemes as short readable text for a link, and back.

`8-symmetric-per_channel-mse`, `8-asymmetric-per_tensor-percentile99.5`, `none` (input in float),
`4-symmetric-per_group32-mse` (groups of 32), `8-asymmetric-per_tensor-minmax-dynamic` (a range per
batch),
`conv1:4` (weight bits of one layer), `conv1:4:6` (weight and input bits) or, where a layer has a
scheme of its own, `conv1:<scheme>:<scheme>`. Remedies are `gptq` (for all layers),
`smooth_quant-0.5` (with a setting), `adaround-500_0.01_2.0` (with three),
`bias_correction:head:blocks.*` (for some layers).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from quant_engine.errors import suggest
from quant_engine.scheme import (
    BATCH_NORM,
    GRANULARITIES,
    OBSERVERS,
    REMEDIES,
    WEIGHT_OBSERVERS,
    AdaRound,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    Overrides,
    Recipe,
    Remedy,
    SmoothQuant,
    TensorScheme,
)

NO_ACTIVATION = "none"
KEEP_OFFSETS = "keep_offsets"
BY_THEMSELVES = "each_layer"
EVERY_LAYER = ("*",)
DYNAMIC = "dynamic"
GROUPS = "per_group"
_SYMMETRY = {"symmetric": True, "asymmetric": False}
_RULES = (*OBSERVERS, *WEIGHT_OBSERVERS)

MOST_NAMES = 256
"""Names and wildcards of layers that a link may give for each key; the rest is left out."""
LONGEST_NAME = 200
MOST_SHOWN = 40
"""Characters of text from outside that a message repeats."""
MOST_NOTICES = 5
_MOST_SUGGESTIONS = 3
_LEAST_LIKENESS = 0.3

LayerBits = tuple[int, int | None]
"""Bits of a layer's weight and of its input; None where the input stays as the recipe says."""


class LinkError(ValueError):
    """A part of a link that cannot be read."""


def shorten(text: str) -> str:
    """Return text from outside in one short, harmless line.

    Example:
        >>> shorten("`seed`" + "1" * 50)
        ' seed 111111111111111111111111111111111…'
    """
    line = "".join(c if c.isprintable() and c not in "`[]<>*_$\\" else " " for c in text)
    return line if len(line) <= MOST_SHOWN else line[: MOST_SHOWN - 1] + "…"


def scheme_to_text(scheme: TensorScheme) -> str:
    """Return a scheme as text.

    Example:
        >>> scheme_to_text(TensorScheme(bits=4, observer="percentile", percentile=99.5))
        '4-symmetric-per_tensor-percentile99.5'
        >>> scheme_to_text(TensorScheme(granularity="per_group", group_size=64))
        '8-symmetric-per_group64-minmax'
    """
    symmetry = "symmetric" if scheme.symmetric else "asymmetric"
    observer = scheme.observer
    if observer == "percentile":
        observer += repr(float(scheme.percentile))
    granularity = f"{scheme.granularity}{scheme.group_size or ''}"
    words = [str(scheme.bits), symmetry, granularity, observer]
    return "-".join([*words, DYNAMIC] if scheme.is_dynamic else words)


def scheme_from_text(text: str) -> TensorScheme:
    """Read a scheme; missing parts are the usual ones.

    Raises:
        LinkError: If a part is not a word a scheme has.
        SchemeError: If a value is outside what a scheme allows.

    Example:
        >>> scheme_from_text("4-asymmetric-percentile99.5")
        TensorScheme(bits=4, symmetric=False, granularity='per_tensor', observer='percentile',
        percentile=99.5, is_dynamic=False, group_size=None)
    """
    bits, symmetric, granularity, observer = 8, True, "per_tensor", "minmax"
    percentile, is_dynamic, group_size = 99.9, False, None
    words = (*_SYMMETRY, *GRANULARITIES, *_RULES, DYNAMIC)
    for part in text.split("-"):
        if part.isascii() and part.isdigit() and len(part) <= 3:
            bits = int(part)
        elif part in _SYMMETRY:
            symmetric = _SYMMETRY[part]
        elif part in GRANULARITIES:
            granularity, group_size = part, None
        elif part.startswith(GROUPS):
            size, granularity = part.removeprefix(GROUPS), GROUPS
            group_size = _whole_number(size, "a group size, such as 32", 5)
        elif part in _RULES:
            observer = part
        elif part == DYNAMIC:
            is_dynamic = True
        elif part.startswith("percentile"):
            observer = "percentile"
            percentile = _number(part.removeprefix("percentile"))
        else:
            raise LinkError(f"“{part[:30]}” is not a word of a scheme. {suggest(part, words)}")
    return TensorScheme(bits, symmetric, granularity, observer, percentile, is_dynamic, group_size)


def _whole_number(text: str, what: str, digits: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > digits:
        raise LinkError(f"“{text[:30]}” is not {what}.")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LinkError(f"“{text[:30]}” is not a number.") from None


def activation_to_text(scheme: TensorScheme | None) -> str:
    """Return the scheme of the layer inputs as text; "none" keeps them in float."""
    return NO_ACTIVATION if scheme is None else scheme_to_text(scheme)


def activation_from_text(text: str) -> TensorScheme | None:
    """Read the scheme of the layer inputs; raises as `scheme_from_text` does."""
    return None if text == NO_ACTIVATION else scheme_from_text(text)


def own_bits(scheme: LayerScheme, recipe: Recipe) -> LayerBits | None:
    """Return a layer's own bits if nothing but its bits differs from the recipe, else None.

    Example:
        >>> recipe = Recipe.default().with_layer_bits("stem", 4)
        >>> own_bits(recipe.overrides["stem"], recipe)
        (4, None)
    """
    base, bits = LayerScheme(recipe.weight, recipe.activation), scheme.weight.bits
    if scheme == base.with_bits(bits):
        return bits, None
    if scheme.activation is not None and scheme == base.with_bits(bits, scheme.activation.bits):
        return bits, scheme.activation.bits
    return None


def override_to_text(name: str, scheme: LayerScheme, recipe: Recipe) -> str:
    """Return one layer's own scheme as text, as bits alone where only the bits differ."""
    own = own_bits(scheme, recipe)
    if own is None:
        return f"{name}:{scheme_to_text(scheme.weight)}:{activation_to_text(scheme.activation)}"
    return ":".join([name, *(str(bits) for bits in own if bits is not None)])


def override_from_text(text: str, recipe: Recipe) -> tuple[str, LayerScheme]:
    """Read one layer's own scheme; the inverse of `override_to_text`.

    Raises:
        LinkError: If the text is not `layer:bits`, `layer:bits:bits` or `layer:scheme:scheme`.
        SchemeError: If a value is outside what a scheme allows.
    """
    base = LayerScheme(recipe.weight, recipe.activation)
    name, *parts = text.split(":")
    if not name or len(parts) not in (1, 2) or not all(parts):
        raise LinkError(f"“{text[:40]}” is not written as layer:bits.")
    if all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        return name, base.with_bits(*(int(part) for part in parts))
    if len(parts) == 1:
        raise LinkError(f"“{parts[0][:30]}” is not a number of bits.")
    return name, LayerScheme(scheme_from_text(parts[0]), activation_from_text(parts[1]))


def _adaround_to_text(remedy: AdaRound) -> str:
    text = f"{remedy.steps}_{remedy.learning_rate!r}_{remedy.regularization!r}"
    return text if remedy.is_sequential else f"{text}_{BY_THEMSELVES}"


def _adaround_from_text(text: str) -> dict[str, Any] | None:
    numbers = text.removesuffix(f"_{BY_THEMSELVES}")
    if numbers.count("_") != 2:
        return None
    steps, rate, weight = numbers.split("_")
    return {
        "steps": _whole_number(steps, "a number of steps", 6),
        "learning_rate": _number(rate),
        "regularization": _number(weight),
        "is_sequential": numbers == text,
    }


_OFFSET_WORDS: dict[str, dict[str, Any]] = {KEEP_OFFSETS: {"absorb_bias": False}}
_BIAS_WORDS: dict[str, dict[str, Any]] = {
    BY_THEMSELVES: {"is_sequential": False},
    BATCH_NORM: {"means": BATCH_NORM},
}
_SETTINGS: dict[
    type[Remedy], tuple[Callable[[Any], str], Callable[[str], dict[str, Any] | None]]
] = {
    CrossLayerEqualization: (lambda remedy: KEEP_OFFSETS, _OFFSET_WORDS.get),
    SmoothQuant: (lambda remedy: repr(remedy.alpha), lambda text: {"alpha": _number(text)}),
    Gptq: (lambda remedy: repr(remedy.damping), lambda text: {"damping": _number(text)}),
    AdaRound: (_adaround_to_text, _adaround_from_text),
    BiasCorrection: (
        lambda remedy: remedy.means if remedy.is_sequential else BY_THEMSELVES,
        _BIAS_WORDS.get,
    ),
}
"""Remedy -> what writes the settings of one that is not the usual, and what reads them: fields, or
None where the text is no setting. Other remedies have no settings."""


def remedy_to_text(remedy: Remedy) -> str:
    """Return a remedy as text; what is usual is left out.

    Example:
        >>> remedy_to_text(SmoothQuant(layers=("head",), alpha=0.5))
        'smooth_quant-0.5:head'
    """
    kind, layers = remedy.kind, () if remedy.layers == EVERY_LAYER else remedy.layers
    if remedy != type(remedy)(remedy.layers):
        write, _ = _SETTINGS[type(remedy)]
        kind += f"-{write(remedy)}"
    return ":".join([kind, *layers])


def remedy_from_text(text: str) -> Remedy:
    """Read a remedy; the inverse of `remedy_to_text`.

    Raises:
        LinkError: If it is no remedy, or its setting is not one.
        SchemeError: If a value is outside what the remedy allows.
    """
    head, *names = text.split(":")
    kind, dash, setting = head.partition("-")
    if kind not in REMEDIES:
        raise LinkError(f"“{kind[:30]}” is not a remedy. {suggest(kind, REMEDIES)}")
    cls, layers = REMEDIES[kind], tuple(name for name in names if name) or EVERY_LAYER
    if not dash:
        return cls(layers)
    _, read = _SETTINGS.get(cls, (str, lambda text: None))
    fields = read(setting)
    if fields is None:
        raise LinkError(f"“{setting[:30]}” is not a setting of {kind}.")
    return cls(layers, **fields)


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
    missing = [(n, f"keeps the layer “{shorten(n)}” in float") for n in recipe.exclude_layers]
    missing += [(n, f"gives bits to the layer “{shorten(n)}”") for n in recipe.overrides]
    remedies = []
    for remedy in recipe.remedies:
        layers = tuple(pattern for pattern in remedy.layers if is_known(pattern))
        missing += [(n, f"treats the layer “{shorten(n)}” by {remedy.kind}") for n in remedy.layers]
        remedies += [replace(remedy, layers=layers)] if layers else []
    notices = [
        f"The link {what}, which this model does not have. {_nearest(name, names)}Left out."
        for name, what in missing
        if not is_known(name)
    ]
    more = len(notices) - MOST_NOTICES
    if more > 0:
        rest = f"The link names {more} more layers that this model does not have."
        notices[MOST_NOTICES:] = [rest]
    kept: dict[str, Any] = {"exclude_layers": excluded, "overrides": Overrides(overrides)}
    return replace(recipe, **kept, remedies=tuple(remedies)), tuple(notices)


def _nearest(name: str, names: Sequence[str]) -> str:
    """Return the layers that were probably meant, in a sentence; the first ones if none is near."""
    near = difflib.get_close_matches(name, names, _MOST_SUGGESTIONS, _LEAST_LIKENESS)
    if near:
        return f"Nearest: {', '.join(near)}. "
    return f"Its layers are called {', '.join(names[:_MOST_SUGGESTIONS])} and so on. "
