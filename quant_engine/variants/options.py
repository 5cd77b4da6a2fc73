"""What is tried on a layer: schemes and remedies, and what to call them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from quant_engine.errors import SchemeError
from quant_engine.scheme import (
    ADAROUND,
    BIAS_CORRECTION,
    GPTQ,
    LOCAL_REMEDIES,
    OUTPUT_MSE,
    Candidate,
    LayerScheme,
    Recipe,
    Remedy,
    TensorScheme,
    local_remedies,
)

FLOAT_OPTION = "float"
"""What a layer that is left alone is called wherever options are named."""

OPTION_BITS = (8, 6, 4, 3, 2)
"""Widths of the weights that are tried on every layer unless others are given."""

Options: TypeAlias = Mapping[str, LayerScheme | Candidate] | Iterable[LayerScheme | Candidate]
"""What to try on every layer, with names of the caller's or with those of `describe_option`. A
scheme stands for rounding to the nearest code."""

REMEDY_WORDS = {
    OUTPUT_MSE: "narrow ranges",
    GPTQ: "GPTQ",
    ADAROUND: "AdaRound",
    BIAS_CORRECTION: "bias correction",
}
"""What remedies of single layers are called in names of options."""


def describe_option(scheme: LayerScheme) -> str:
    """Return a layer scheme in words, as short as tells the usual ones apart.

    Example:
        >>> describe_option(Recipe.default().layer_scheme("any"))
        'int8 weights + int8 inputs'
    """
    inputs = "float inputs" if scheme.activation is None else f"int{scheme.activation.bits} inputs"
    return f"int{scheme.weight.bits} weights + {inputs}"


def describe_option_fully(scheme: LayerScheme) -> str:
    """Return every setting of a layer scheme in words; different schemes read differently.

    Example:
        >>> describe_option_fully(LayerScheme(TensorScheme(bits=4)))
        'int4 weights (symmetric, per tensor, minmax) + float inputs'
    """
    inputs = "float inputs"
    if scheme.activation is not None:
        inputs = f"int{scheme.activation.bits} inputs ({_settings(scheme.activation)})"
    return f"int{scheme.weight.bits} weights ({_settings(scheme.weight)}) + {inputs}"


def name_options(options: Options) -> dict[str, Candidate]:
    """Give every option a name of its own.

    Args:
        options: A mapping is taken as it is; those in a list get the short description where it
            tells them apart, and the full one where it does not.

    Returns:
        Name -> candidate, in the order given; the same one twice counts once.

    Raises:
        SchemeError: If there is none, one is no LayerScheme or Candidate, or a name is empty or
            "float".

    Example:
        >>> eight = LayerScheme(TensorScheme())
        >>> list(name_options([eight, eight.with_bits(4), Candidate(eight.with_bits(4), (GPTQ,))]))
        ['int8 weights + float inputs', 'int4 weights + float inputs', \
'int4 weights + float inputs, GPTQ']
    """
    if isinstance(options, Mapping):
        named = {name: _as_candidate(option) for name, option in options.items()}
    else:
        candidates = list(dict.fromkeys(map(_as_candidate, options)))
        short = [_describe(candidate, describe_option) for candidate in candidates]
        named = {
            text if short.count(text) == 1 else _describe(candidate, describe_option_fully): (
                candidate
            )
            for text, candidate in zip(short, candidates, strict=True)
        }
    if not named:
        raise SchemeError("options is empty. Give at least one LayerScheme to try.")
    for name in named:
        if not isinstance(name, str) or not name or name == FLOAT_OPTION:
            raise SchemeError(
                f"options has the name {name!r}. Names are text; {FLOAT_OPTION!r} is taken: it "
                "stands for a layer that is left alone."
            )
    return named


def bit_options(recipe: Recipe, bits: Iterable[int] = OPTION_BITS) -> dict[str, LayerScheme]:
    """Return the recipe's scheme with other widths of the weights; inputs keep their width.

    Example:
        >>> list(bit_options(Recipe.default(), bits=(8, 4)))
        ['int8 weights + int8 inputs', 'int4 weights + int8 inputs']
    """
    scheme = LayerScheme(recipe.weight, recipe.activation)
    named = name_options([scheme.with_bits(width) for width in bits])
    return {name: candidate.scheme for name, candidate in named.items()}


def in_groups(options: Options, size: int) -> dict[str, Candidate]:
    """Return the same options with a scale for each `size` weights, under names that say so.

    Example:
        >>> list(in_groups(bit_options(Recipe.default(), bits=(4,)), 32))
        ['int4 weights + int8 inputs, groups of 32']
    """
    found = {}
    for name, candidate in name_options(options).items():
        weight = replace(candidate.scheme.weight, granularity="per_group", group_size=size)
        scheme = replace(candidate.scheme, weight=weight)
        found[f"{name}, groups of {size}"] = replace(candidate, scheme=scheme)
    return found


def treated(options: Options, *remedies: str) -> dict[str, Candidate]:
    """Return the same options with layers treated by remedies, under names that say so.

    Args:
        options: What is treated; what treats them already stays.
        remedies: Kinds of `LOCAL_REMEDIES`.

    Raises:
        SchemeError: If a remedy is none of them.

    Example:
        >>> list(treated(bit_options(Recipe.default(), bits=(4,)), "gptq", "bias_correction"))
        ['int4 weights + int8 inputs, GPTQ + bias correction']
    """
    found = {}
    for name, candidate in name_options(options).items():
        more = replace(candidate, remedies=(*candidate.remedies, *remedies))
        found[name.removesuffix(remedies_suffix(candidate)) + remedies_suffix(more)] = more
    return found


def remedies_suffix(candidate: Candidate) -> str:
    """Return how the name of a candidate ends that is treated by remedies: ", GPTQ"."""
    words = [REMEDY_WORDS[kind] for kind in candidate.remedies]
    return f", {' + '.join(words)}" if words else ""


def default_options(recipe: Recipe) -> dict[str, Candidate]:
    """Return the recipe's scheme at all widths; with its remedies of single layers as well."""
    plain = name_options(bit_options(recipe))
    return plain | treated(plain, *local_remedies(recipe))


def remedies_of(recipe: Recipe, options: Mapping[str, Candidate]) -> dict[str, Remedy]:
    """Return the remedies that are needed to make options, by kind; set as in the recipe."""
    kinds = {kind for option in options.values() for kind in option.remedies}
    own = local_remedies(recipe)
    return {kind: own.get(kind, usual) for kind, usual in LOCAL_REMEDIES.items() if kind in kinds}


def own_option(recipe: Recipe, options: Mapping[str, Candidate], layer: str) -> str:
    """Return the option that a recipe itself gives a layer, or else the one with most bits."""
    wanted = Candidate.of(recipe, layer)
    widest = max(options, key=lambda name: options[name].scheme.weight.bits)
    if wanted is None:
        return widest
    same = [name for name, option in options.items() if option == wanted]
    alike = [name for name, option in options.items() if option.scheme == wanted.scheme]
    return (*same, *alike, widest)[0]


def option_without(options: Mapping[str, Candidate], name: str, remedies: Collection[str]) -> str:
    """Return the option that leaves remedies out, but is the same otherwise; itself if none is."""
    wanted = options[name].without(remedies)
    return next((other for other, candidate in options.items() if candidate == wanted), name)


def _as_candidate(option: object) -> Candidate:
    if isinstance(option, LayerScheme):
        return Candidate(option)
    if not isinstance(option, Candidate):
        raise SchemeError(
            f"options holds {option!r}. It takes LayerSchemes and Candidates, or pairs of a name "
            "and one of them."
        )
    return option


def _describe(candidate: Candidate, describe: Callable[[LayerScheme], str]) -> str:
    return describe(candidate.scheme) + remedies_suffix(candidate)


def _settings(scheme: TensorScheme) -> str:
    symmetry = "symmetric" if scheme.symmetric else "asymmetric"
    rule = scheme.observer
    if rule == "percentile":
        rule = f"percentile {scheme.percentile:g}"
    if scheme.is_dynamic:
        rule = "dynamic"
    return f"{symmetry}, {scheme.granularity_name}, {rule}"
