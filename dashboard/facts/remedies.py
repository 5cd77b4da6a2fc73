"""What repairs a layer: its findings, the remedy that each points to, and what it did in a run.

Rules, with their thresholds in `causes`:

- Weights with one scale of which so much became 0: a scale per channel, or equalization with a
  neighbour.
- Input channels that take the range of a quantized input: smoothing.
- Weights of few bits: rounding that the other weights make up for, and the mean shift of channels,
  which bias correction removes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dashboard.facts.causes import outlier_channels, zeros_of
from dashboard.words.formatting import format_percent
from dashboard.words.recipes import REMEDY_NAMES
from quant_engine.remedies import Targets
from quant_engine.report import LayerReport, ModelReport, Treatment
from quant_engine.scheme import (
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    Recipe,
    Remedy,
    SmoothQuant,
)

FEW_BITS = 4
"""From this width down, rounding shifts means so far that correcting them is offered."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A remedy that a finding points to, to be run and compared.

    Attributes:
        key: A name that no other offer for the layer has.
        label: What a button says.
        why: The rule and the figures that it rests on.
        recipe: The run's recipe with the remedy.
        whole: The recipe with the remedy for all layers; None where that is not another one.
    """

    key: str
    label: str
    why: str
    recipe: Recipe
    whole: Recipe | None = None


def offers(layer: LayerReport, report: ModelReport, targets: Targets) -> tuple[Offer, ...]:
    """Return the remedies that the findings of a layer point to, the most promising first.

    Args:
        layer: A layer of the report.
        report: The run.
        targets: What equalization and smoothing can treat in this model.
    """
    found: list[Offer] = []
    if layer.is_quantized:
        found += _for_lost_weights(layer, report.recipe, targets)
        found += _for_outlier_inputs(layer, report.recipe, targets)
        found += _for_few_bits(layer, report.recipe)
    return tuple(offer for offer in found if offer.recipe != report.recipe)


def _for_lost_weights(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    zeros, scheme = zeros_of(layer.weight), recipe.layer_scheme(layer.name)
    if zeros is None or not zeros.is_cause or scheme is None:
        return []
    found = []
    for pair in targets.get(CrossLayerEqualization.kind, ()):
        if layer.name in pair:
            other = pair[1 - pair.index(layer.name)]
            found.append(
                _offer(
                    f"equalize_{other}",
                    f"Equalize with `{other}` and compare",
                    f"{zeros.sentence}. Factors move between the two layers until the channels "
                    "have equal ranges; the float model stays what it is.",
                    recipe,
                    CrossLayerEqualization(layers=pair),
                )
            )
    if not scheme.weight.is_per_channel:
        own = LayerScheme(replace(scheme.weight, granularity="per_channel"), scheme.activation)
        every = replace(recipe, weight=replace(recipe.weight, granularity="per_channel"))
        found.append(
            Offer(
                "per_channel",
                "Scale per channel and compare",
                f"{zeros.sentence}. One scale per channel keeps them, at a few bytes.",
                recipe.with_override(layer.name, own),
                every if every != recipe else None,
            )
        )
    return found


def _for_outlier_inputs(layer: LayerReport, recipe: Recipe, targets: Targets) -> list[Offer]:
    outliers = outlier_channels(layer)
    if outliers is None or layer.input is None:
        return []
    for group in targets.get(SmoothQuant.kind, ()):
        if layer.name in group:
            others = [f"`{name}`" for name in group if name != layer.name]
            along = f" with {', '.join(others)}," if others else ""
            return [
                _offer(
                    "smooth",
                    "Smooth and compare",
                    f"{outliers.sentence}. They are divided, and the weights that read them "
                    f"multiplied{along}; the float model stays what it is.",
                    recipe,
                    SmoothQuant(layers=group),
                )
            ]
    return []


def _for_few_bits(layer: LayerReport, recipe: Recipe) -> list[Offer]:
    if layer.weight is None or layer.weight.scheme.bits > FEW_BITS:
        return []
    return [
        _offer(
            "gptq",
            "Round by GPTQ and compare",
            f"Weights of {layer.weight.scheme.bits} bits lose much by rounding alone. They are "
            "rounded one input at a time, and the rest make up for each error.",
            recipe,
            Gptq(layers=(layer.name,)),
        ),
        _offer(
            "bias",
            "Correct the bias and compare",
            f"Weights of {layer.weight.scheme.bits} bits shift the means of channels. The mean "
            "error is measured on the calibration data and taken out of the bias.",
            recipe,
            BiasCorrection(layers=(layer.name,)),
        ),
    ]


def _offer(key: str, label: str, why: str, recipe: Recipe, remedy: Remedy) -> Offer:
    why = f"{why[:1].upper()}{why[1:]}"
    every = recipe.with_remedy(type(remedy)())
    return Offer(key, label, why, with_more(recipe, remedy), every if every != recipe else None)


def with_more(recipe: Recipe, remedy: Remedy) -> Recipe:
    """Return a recipe with a remedy, for the layers that it treats already too.

    Example:
        >>> recipe = Recipe.default().with_remedy(BiasCorrection(layers=("a",)))
        >>> with_more(recipe, BiasCorrection(layers=("b",))).remedies
        (BiasCorrection(layers=('a', 'b')),)
    """
    for known in recipe.remedies:
        if known.kind == remedy.kind:
            if "*" in known.layers:
                return recipe
            return recipe.with_remedy(replace(known, layers=(*known.layers, *remedy.layers)))
    return recipe.with_remedy(remedy)


def repair_recipe(report: ModelReport, targets: Targets) -> Recipe:
    """Return the recipe with every remedy, for all layers, that a finding of any layer points to.

    Remedies that keep the scheme come before one scale per channel.
    """
    recipe = report.recipe
    for layer in report.layers:
        for offer in offers(layer, report, targets):
            for remedy in offer.recipe.remedies:
                if all(known.kind != remedy.kind for known in recipe.remedies):
                    recipe = recipe.with_remedy(type(remedy)())
    return recipe


def treatments_of(layer: str, treatments: Iterable[Treatment]) -> tuple[Treatment, ...]:
    """Return what remedies did to a layer, or why they did nothing."""
    return tuple(found for found in treatments if layer in found.layers)


def describe_treatment(found: Treatment) -> str:
    """Return in one sentence what a remedy did, with its error before and after.

    Example:
        >>> describe_treatment(Treatment("gptq", ("a",), is_applied=False, reason="it is float"))
        'Round by GPTQ: not applied to a, because it is float.'
    """
    name = REMEDY_NAMES.get(found.remedy, found.remedy)
    layers = " and ".join(found.layers) if len(found.layers) < 3 else ", ".join(found.layers)
    if not found.is_applied:
        return f"{name}: not applied to {layers or 'the model'}, because {found.reason}."
    parts = [f"{name}: {layers}"]
    if found.alpha is not None:
        parts.append(f"α {found.alpha:g}, folded into {found.folded_into}")
    if found.error_before is not None and found.error_after is not None:
        parts.append(
            f"error of the {found.error_of} {format_percent(found.error_before)} → "
            f"{format_percent(found.error_after)}"
        )
    if found.reason:
        parts.append(found.reason)
    return "; ".join(parts) + "."
