"""What can be chosen for one layer: a scheme, and what repairs the layer under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from quant_engine.errors import SchemeError, require_choice
from quant_engine.scheme.recipe import LayerScheme, Recipe
from quant_engine.scheme.remedies import AdaRound, BiasCorrection, Gptq, OutputMse, Remedy

OUTPUT_MSE, GPTQ, ADAROUND = OutputMse.kind, Gptq.kind, AdaRound.kind
BIAS_CORRECTION = BiasCorrection.kind

LOCAL_REMEDIES: Mapping[str, Remedy] = {
    remedy.kind: remedy
    for remedy in (
        OutputMse(),
        Gptq(),
        AdaRound(is_sequential=False),
        BiasCorrection(is_sequential=False),
    )
}
"""Remedies that look at one layer alone, by kind, in the order in which they are applied."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What can be chosen for one layer.

    Attributes:
        scheme: Grids of weight and input.
        remedies: Kinds of `LOCAL_REMEDIES` that treat the layer, in any order. Without one, each
            weight is rounded to the nearest code.

    Raises:
        SchemeError: If a field is not of the kind described above.
    """

    scheme: LayerScheme
    remedies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, LayerScheme):
            raise SchemeError(f"scheme must be a LayerScheme, got {type(self.scheme).__name__}.")
        if isinstance(self.remedies, str) or not isinstance(self.remedies, Iterable):
            raise SchemeError(
                f"remedies is {self.remedies!r}. It must be a list of kinds, such as ({GPTQ!r},)."
            )
        given = tuple(self.remedies)
        for kind in given:
            require_choice("kind of a remedy of one layer", kind, tuple(LOCAL_REMEDIES))
        ordered = tuple(kind for kind in LOCAL_REMEDIES if kind in given)
        object.__setattr__(self, "remedies", ordered)

    @property
    def plain(self) -> Candidate:
        """The same scheme without a remedy."""
        return Candidate(self.scheme)

    def without(self, kinds: Iterable[str]) -> Candidate:
        """Return a copy without some remedies."""
        left_out = set(kinds)
        return replace(self, remedies=tuple(k for k in self.remedies if k not in left_out))

    @classmethod
    def of(cls, recipe: Recipe, layer: str) -> Candidate | None:
        """Return what a recipe does to one layer; None if it stays float."""
        scheme = recipe.layer_scheme(layer)
        kinds = (kind for kind, remedy in local_remedies(recipe).items() if remedy.treats(layer))
        return None if scheme is None else cls(scheme, tuple(kinds))


def local_remedies(recipe: Recipe) -> dict[str, Remedy]:
    """Return the remedies of a recipe that look at one layer alone, by kind."""
    return {remedy.kind: remedy for remedy in recipe.remedies if remedy.is_local}
