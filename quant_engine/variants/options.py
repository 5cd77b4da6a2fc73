"""What is tried on a layer: schemes, and what to call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from quant_engine.errors import SchemeError
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme

FLOAT_OPTION = "float"
"""What a layer that is left alone is called wherever options are named."""

Options: TypeAlias = Mapping[str, LayerScheme] | Iterable[LayerScheme]
"""Schemes to try on every layer, with names of the caller's or with those of `describe_option`."""


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


def name_options(options: Options) -> dict[str, LayerScheme]:
    """Give every option a name of its own.

    Args:
        options: A mapping is taken as it is; schemes in a list get the short description where it
            tells them apart, and the full one where it does not.

    Returns:
        Name -> scheme, in the order given; the same scheme twice counts once.

    Raises:
        SchemeError: If there is none, one is no LayerScheme, or a name is empty or "float".

    Example:
        >>> eight = LayerScheme(TensorScheme())
        >>> list(name_options([eight, eight.with_bits(4)]))
        ['int8 weights + float inputs', 'int4 weights + float inputs']
    """
    if isinstance(options, Mapping):
        named = dict(options)
    else:
        schemes = list(dict.fromkeys(options))
        for scheme in schemes:
            _require_scheme(scheme)
        short = [describe_option(scheme) for scheme in schemes]
        named = {
            text if short.count(text) == 1 else describe_option_fully(scheme): scheme
            for text, scheme in zip(short, schemes, strict=True)
        }
    if not named:
        raise SchemeError("options is empty. Give at least one LayerScheme to try.")
    for name, scheme in named.items():
        _require_scheme(scheme)
        if not isinstance(name, str) or not name or name == FLOAT_OPTION:
            raise SchemeError(
                f"options has the name {name!r}. Names are text; {FLOAT_OPTION!r} is taken: it "
                "stands for a layer that is left alone."
            )
    return named


def bit_options(recipe: Recipe, bits: Iterable[int] = (8, 6, 4, 3, 2)) -> dict[str, LayerScheme]:
    """Return the recipe's scheme with other widths of the weights; inputs keep their width.

    Example:
        >>> list(bit_options(Recipe.default(), bits=(8, 4)))
        ['int8 weights + int8 inputs', 'int4 weights + int8 inputs']
    """
    scheme = LayerScheme(recipe.weight, recipe.activation)
    return name_options([scheme.with_bits(width) for width in bits])


def _require_scheme(scheme: object) -> None:
    if not isinstance(scheme, LayerScheme):
        raise SchemeError(f"options holds {scheme!r}. It takes LayerSchemes, or name: LayerScheme.")


def _settings(scheme: TensorScheme) -> str:
    symmetry = "symmetric" if scheme.symmetric else "asymmetric"
    rule = scheme.observer
    if rule == "percentile":
        rule = f"percentile {scheme.percentile:g}"
    if scheme.is_dynamic:
        rule = "dynamic"
    return f"{symmetry}, {scheme.granularity_name}, {rule}"
