"""What repairs a layer: the remedies that its findings point to, and what a remedy did in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from dashboard.facts.diagnosis import findings as rules
from dashboard.facts.diagnosis.findings import Finding
from dashboard.facts.tensors import best_choice, observer_name
from dashboard.words.formatting import format_percent, percent
from dashboard.words.recipes import REMEDY_NAMES
from quant_engine.remedies import Targets
from quant_engine.report import LayerReport, TensorReport, Treatment
from quant_engine.scheme import (
    MAX_BITS,
    AdaRound,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    Recipe,
    Remedy,
    SmoothQuant,
    TensorScheme,
)


@dataclass(frozen=True, slots=True)
class Offer:
    """A remedy that a finding points to, to be run and compared.

    Attributes:
        remedy: Key of the remedy, as findings name it.
        key: A name that no other offer for the layer has.
        label: What a button says.
        recipe: The run's recipe with the remedy.
        whole: The recipe with the remedy for all layers; None where that is not another one.
    """

    remedy: str
    key: str
    label: str
    recipe: Recipe
    whole: Recipe | None = None


def offers(
    finding: Finding, layer: LayerReport, recipe: Recipe, targets: Targets
) -> tuple[Offer, ...]:
    """Return the remedies that a finding points to and that this layer can have.

    Args:
        finding: One of the layer's findings.
        layer: The layer.
        recipe: The run's recipe; what it has already is not offered again.
        targets: What equalization and smoothing can treat in this model.
    """
    return tuple(
        offer
        for remedy in finding.remedies
        for offer in _OFFERS[remedy](layer, recipe, targets)
        if offer.recipe != recipe
    )


def _equalize(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    found = []
    for pair in targets.pairs:
        if layer.name in pair:
            other = pair[1 - pair.index(layer.name)]
            remedy = CrossLayerEqualization(layers=pair)
            label = f"Equalize with `{other}` and compare"
            found.append(_remedied(rules.EQUALIZE, label, recipe, remedy, key=f"equalize_{other}"))
    return found


def _equalize_input(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    pairs = tuple(pair for pair in targets.pairs if pair[1] == layer.name)
    return _equalize(layer, recipe, replace(targets, pairs=pairs))


def _smooth(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    for group in targets.groups:
        into = recipe.layer_scheme(group.folded_into) if group.folded_into else None
        if into is not None and into.weight.has_one_scale:
            continue  # a division cannot be folded into weights with one scale
        if layer.name in group.layers:
            others = [f"`{name}`" for name in group.layers if name != layer.name]
            along = f" with {', '.join(others)}" if others else ""
            label = f"Smooth (α auto){along} and compare"
            return [_remedied(rules.SMOOTH, label, recipe, SmoothQuant(layers=group.layers))]
    return []


def _float_input(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    scheme = recipe.layer_scheme(layer.name)
    if scheme is None or scheme.activation is None:
        return []
    changed = recipe.with_override(layer.name, LayerScheme(scheme.weight))
    label = "Keep its inputs in float and compare"
    return [Offer(rules.FLOAT_INPUT, rules.FLOAT_INPUT, label, changed)]


def _float(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    excluded = recipe.with_excluded(layer.name)
    return [Offer(rules.FLOAT, rules.FLOAT, "Keep it in float and compare", excluded)]


Make: TypeAlias = Callable[[LayerReport, Recipe, Targets], list[Offer]]


def _alone(remedy: str, kind: type[Remedy], what: str) -> tuple[str, Make]:
    """Return a remedy that treats one layer by itself, under its key."""

    def make(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
        return [_remedied(remedy, f"{what} and compare", recipe, kind(layers=(layer.name,)))]

    return remedy, make


def _scheme(remedy: str, part: str, what: str, **changes: object) -> tuple[str, Make]:
    """Return another scheme of a layer's weights or inputs, under its key.

    It is offered for the layer, and for all layers that have the recipe's scheme.

    Args:
        remedy: The key.
        part: "weight" or "activation".
        what: What the button says; where `{}` stands in it, the range estimator that a finding on
            outliers or on clipping points to is chosen and named.
        changes: What is changed.
    """

    def make(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
        scheme, change, label = recipe.layer_scheme(layer.name), changes, what
        if "{}" in what:
            rule = _better_rule(layer.weight if part == "weight" else layer.input)
            if rule is None:
                return []
            change, label = {"observer": rule}, what.format(observer_name(rule))
        if scheme is None or getattr(scheme, part) is None:
            return []
        own = replace(scheme, **{part: _changed(getattr(scheme, part), change)})
        changed = recipe.with_override(layer.name, own) if own != scheme else recipe
        usual = getattr(recipe, part)
        new: dict[str, Any] = {} if usual is None else {part: _changed(usual, change)}
        every = replace(recipe, **new)
        whole = every if every != recipe else None
        return [Offer(remedy, remedy, f"{label} and compare", changed, whole)]

    return remedy, make


_OFFERS: Mapping[str, Make] = {
    rules.EQUALIZE: _equalize,
    rules.EQUALIZE_INPUT: _equalize_input,
    rules.SMOOTH: _smooth,
    rules.FLOAT_INPUT: _float_input,
    rules.FLOAT: _float,
    **dict(
        (
            _alone(rules.GPTQ, Gptq, "Round by GPTQ"),
            _alone(rules.ADAROUND, AdaRound, "Round by AdaRound"),
            _alone(rules.BIAS, BiasCorrection, "Correct the bias"),
            _scheme(
                rules.PER_CHANNEL,
                "weight",
                "Scale per channel",
                granularity="per_channel",
                group_size=None,
            ),
            _scheme(rules.MORE_BITS, "weight", f"Give its weights {MAX_BITS} bits", bits=MAX_BITS),
            _scheme(rules.WEIGHT_RANGE, "weight", "Choose the weights' range by {}"),
            _scheme(rules.INPUT_RANGE, "activation", "Choose the inputs' range by {}"),
            _scheme(
                rules.ASYMMETRIC, "activation", "Give the inputs a zero point", symmetric=False
            ),
        )
    ),
}
"""What makes the offers of each remedy that a finding may point to."""


def _better_rule(tensor: TensorReport | None) -> str | None:
    """Return the range estimator that a finding on outliers or on clipping points to."""
    if tensor is None:
        return None
    clips = rules.clipping(tensor, "input") is not None
    found = rules.wider_choice(tensor) if clips else best_choice(tensor.range_choices)
    return None if found is None else found.observer


def _remedied(remedy: str, label: str, recipe: Recipe, change: Remedy, *, key: str = "") -> Offer:
    every = recipe.with_remedy(type(change)())
    changed = with_more(recipe, change)
    return Offer(remedy, key or remedy, label, changed, every if every != changed else None)


def _changed(scheme: TensorScheme, changes: Mapping[str, object]) -> TensorScheme:
    return TensorScheme.from_dict({**scheme.to_dict(), **changes})


def with_more(recipe: Recipe, remedy: Remedy) -> Recipe:
    """Return a recipe with a remedy, for the layers that it treats already too.

    Example:
        >>> recipe = Recipe.default().with_remedy(BiasCorrection(layers=("a",)))
        >>> with_more(recipe, BiasCorrection(layers=("b",))).remedies[0].layers
        ('a', 'b')
    """
    for known in recipe.remedies:
        if known.kind == remedy.kind:
            if "*" in known.layers:
                return recipe
            return recipe.with_remedy(replace(known, layers=(*known.layers, *remedy.layers)))
    return recipe.with_remedy(remedy)


def treatments_of(layer: str, treatments: Iterable[Treatment]) -> tuple[Treatment, ...]:
    """Return what remedies did to a layer, or why they did nothing."""
    return tuple(found for found in treatments if layer in found.layers)


def treatment_table(treatments: Iterable[Treatment]) -> list[dict[str, str]]:
    """Return what remedies did as a table for people, a row for each entry of a report.

    The column of GPTQ's errors is there where one of the entries has such an error.

    Example:
        >>> treatment_table([Treatment("gptq", ("a",), is_applied=False, reason="it is float")])
        [{'Remedy': 'Round by GPTQ', 'Layers': 'a', 'Error before': '–', 'Error after': '–',
        'Error of': '', 'Remark': 'not applied: it is float'}]
    """
    entries = tuple(treatments)
    has_gptq = any(found.error_by_gptq is not None for found in entries)
    return [
        {
            "Remedy": _name_of(found),
            "Layers": ", ".join(found.layers),
            "Error before": format_percent(found.error_before),
            **({"Error by GPTQ": format_percent(found.error_by_gptq)} if has_gptq else {}),
            "Error after": format_percent(found.error_after),
            "Error of": found.error_of,
            "Remark": found.reason if found.is_applied else f"not applied: {found.reason}",
        }
        for found in entries
    ]


def treatment_columns(layer: str, treatments: Iterable[Treatment]) -> dict[str, object]:
    """Return what remedies did to a layer under the names of a table's columns."""
    row: dict[str, object] = {}
    for found in treatments_of(layer, treatments):
        name = "_".join(word for word in (found.remedy, found.step) if word)
        row |= {
            f"{name}_applied": found.is_applied,
            f"{name}_error_before_percent": percent(found.error_before),
            f"{name}_error_after_percent": percent(found.error_after),
        }
        if found.error_by_gptq is not None:
            row[f"{name}_error_by_gptq_percent"] = percent(found.error_by_gptq)
    return row


def _name_of(found: Treatment) -> str:
    return REMEDY_NAMES.get(found.remedy, found.remedy) + (f" ({found.step})" if found.step else "")


def describe_treatment(found: Treatment) -> str:
    """Return in one sentence what a remedy did, with its error before and after.

    Example:
        >>> describe_treatment(Treatment("gptq", ("a",), is_applied=False, reason="it is float"))
        'Round by GPTQ: not applied to a, because it is float.'
        >>> describe_treatment(Treatment("awq", ("a",), is_applied=True, step="ranges"))
        'Scale and clip by AWQ (ranges): a.'
    """
    name = _name_of(found)
    layers = " and ".join(found.layers) if len(found.layers) < 3 else ", ".join(found.layers)
    if not found.is_applied:
        return f"{name}: not applied to {layers or 'the model'}, because {found.reason}."
    parts = [f"{name}: {layers}"]
    if found.alpha is not None:
        parts.append(f"α {found.alpha:g}, folded into {found.folded_into}")
    if found.error_before is not None and found.error_after is not None:
        by_gptq = ""
        if found.error_by_gptq is not None:
            by_gptq = f" (GPTQ on the same inputs: {format_percent(found.error_by_gptq)})"
        parts.append(
            f"error of the {found.error_of} {format_percent(found.error_before)} → "
            f"{format_percent(found.error_after)}{by_gptq}"
        )
    if found.reason:
        parts.append(found.reason)
    return "; ".join(parts) + "."
