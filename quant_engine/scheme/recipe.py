"""Schemes for one tensor, for one layer, and for a whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from quant_engine.errors import (
    SchemeError,
    is_whole_number,
    require_bool,
    require_choice,
    require_keys,
)
from quant_engine.scheme.remedies import REMEDIES, Remedy

R = TypeVar("R", bound=Remedy)

MIN_BITS = 2
MAX_BITS = 8
GRANULARITIES = ("per_tensor", "per_channel", "per_group")
MIN_GROUP_SIZE = 2
MAX_GROUP_SIZE = 65536
OBSERVERS = ("minmax", "percentile", "mse", "entropy")
"""Range rules for any tensor."""

HQQ = "hqq"
WEIGHT_OBSERVERS = (HQQ,)
"""Range rules for asymmetric weights alone: they choose zero points, and read every weight."""


def observers_for(*, symmetric: bool, is_weight: bool) -> tuple[str, ...]:
    """Return the range rules that a tensor can have.

    Example:
        >>> observers_for(symmetric=True, is_weight=True)
        ('minmax', 'percentile', 'mse', 'entropy')
    """
    return (*OBSERVERS, *WEIGHT_OBSERVERS) if is_weight and not symmetric else OBSERVERS


@dataclass(frozen=True, slots=True)
class TensorScheme:
    """How the values of one tensor are mapped to integers.

    Attributes:
        bits: Width of the integers, 2 to 8. They live in an int8 container.
        symmetric: True: zero point 0, codes [-(2^(b-1)-1), 2^(b-1)-1]. False: the range is
            shifted by a zero point, codes [-2^(b-1), 2^(b-1)-1].
        granularity: "per_tensor" (one scale), "per_channel" (one scale for each output channel) or
            "per_group" (one for each `group_size` consecutive weights of an output channel).
        observer: Rule that turns the values seen into a range; "hqq" is for asymmetric weights.
        percentile: For the observer "percentile": the share of values, in percent, that stays
            inside the range. Asymmetric ranges cut half of the rest from each side.
        is_dynamic: For an input: the range is that of each batch, from its smallest to its largest
            value, found when the layer runs; nothing is calibrated. Needs the observer "minmax".
        group_size: For "per_group", and only there: weights that share a scale, 2 to 65536. The
            weights of an output channel are cut in their order in memory, in a convolution input
            channels first, then the kernel; the last group holds what is left.

    Raises:
        SchemeError: If a field is outside what is listed above.

    Example:
        >>> TensorScheme(bits=4).qmin, TensorScheme(bits=4).qmax
        (-7, 7)
        >>> TensorScheme(symmetric=False).qmin
        -128
    """

    bits: int = 8
    symmetric: bool = True
    granularity: str = "per_tensor"
    observer: str = "minmax"
    percentile: float = 99.9
    is_dynamic: bool = False
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not is_whole_number(self.bits) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise SchemeError(
                f"bits is {self.bits!r}. It must be an integer from {MIN_BITS} to {MAX_BITS}."
            )
        require_bool("symmetric", self.symmetric)
        require_choice("granularity", self.granularity, GRANULARITIES)
        require_choice("observer", self.observer, (*OBSERVERS, *WEIGHT_OBSERVERS))
        if self.symmetric and self.observer in WEIGHT_OBSERVERS:
            raise SchemeError(
                f"observer is {self.observer!r}, which chooses zero points, but a symmetric scheme "
                f"has none. Use symmetric=False, or one of {', '.join(OBSERVERS)}."
            )
        if (
            not (isinstance(self.percentile, float) or is_whole_number(self.percentile))
            or not math.isfinite(self.percentile)
            or not (50.0 < self.percentile <= 100.0)
        ):
            raise SchemeError(
                f"percentile is {self.percentile!r}. It must be a number above 50 and up to 100, "
                "in percent."
            )
        require_bool("is_dynamic", self.is_dynamic)
        if self.is_dynamic and self.observer != "minmax":
            raise SchemeError(
                f"observer is {self.observer!r}, but a dynamic range is always 'minmax': use that."
            )
        self._check_group_size()

    def _check_group_size(self) -> None:
        size = self.group_size
        if self.granularity != "per_group":
            if size is not None:
                raise SchemeError(
                    f"group_size is {size!r}, but granularity is {self.granularity!r}. Use "
                    "'per_group', or leave group_size out."
                )
        elif not is_whole_number(size) or not MIN_GROUP_SIZE <= size <= MAX_GROUP_SIZE:  # type: ignore[operator]
            raise SchemeError(
                f"group_size is {size!r}. For 'per_group' it must be an integer from "
                f"{MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}, usually 32, 64 or 128."
            )

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def has_one_scale(self) -> bool:
        """Whether all values of the tensor share one scale."""
        return self.granularity == "per_tensor"

    @property
    def granularity_name(self) -> str:
        """The granularity in words, such as "per channel" or "per group of 32"."""
        words = self.granularity.replace("_", " ")
        return words if self.group_size is None else f"{words} of {self.group_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `group_size` only where there are groups."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.group_size is None:
            del values["group_size"]
        return values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorScheme:
        """Build a scheme from `to_dict`'s result; unknown keys raise SchemeError."""
        return cls(**require_keys("TensorScheme", data, (f.name for f in fields(cls))))


@dataclass(frozen=True, slots=True)
class LayerScheme:
    """How one layer is quantized.

    Attributes:
        weight: Scheme of the layer's weight.
        activation: Scheme of the layer's input, or None to keep the input in float.
    """

    weight: TensorScheme
    activation: TensorScheme | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weight, TensorScheme):
            raise SchemeError(
                f"weight must be a TensorScheme, got {type(self.weight).__name__}. "
                "Use activation=None for weights only; to keep a layer in float, exclude it."
            )
        if self.weight.is_dynamic:
            raise SchemeError("weight has is_dynamic=True. Only an activation can be dynamic.")
        if self.activation is None:
            return
        if not isinstance(self.activation, TensorScheme):
            raise SchemeError(
                f"activation must be a TensorScheme or None, got {type(self.activation).__name__}."
            )
        if self.activation.observer in WEIGHT_OBSERVERS:
            raise SchemeError(
                f"activation observer is {self.activation.observer!r}, which is made for the "
                f"errors of weights. Use one of {', '.join(OBSERVERS)}."
            )
        if not self.activation.has_one_scale:
            raise SchemeError(
                f"activation granularity is {self.activation.granularity!r}. Only 'per_tensor' is "
                "allowed: an input scale that differs between channels cannot be taken out of the "
                "integer sum."
            )

    @property
    def has_calibrated_input(self) -> bool:
        """Whether the input is rounded to a grid that calibration chooses beforehand."""
        return self.activation is not None and not self.activation.is_dynamic

    def with_bits(self, weight_bits: int, activation_bits: int | None = None) -> LayerScheme:
        """Return a copy with other bit widths; None keeps the activation's."""
        activation = self.activation
        if activation is not None and activation_bits is not None:
            activation = replace(activation, bits=activation_bits)
        return LayerScheme(replace(self.weight, bits=weight_bits), activation)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "weight": self.weight.to_dict(),
            "activation": None if self.activation is None else self.activation.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerScheme:
        """Build a layer scheme from `to_dict`'s result; unknown keys raise SchemeError."""
        data = require_keys("LayerScheme", data, ("weight", "activation"))
        if "weight" not in data:
            raise SchemeError("LayerScheme needs the key 'weight'.")
        activation = data.get("activation")
        return cls(
            TensorScheme.from_dict(data["weight"]),
            None if activation is None else TensorScheme.from_dict(activation),
        )


class Overrides(Mapping[str, LayerScheme]):
    """An immutable, hashable mapping from a layer name or shell wildcard to its LayerScheme."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, LayerScheme] | None = None) -> None:
        """Copy `items`; later changes to them are not seen."""
        checked: dict[str, LayerScheme] = {}
        for name, scheme in (items or {}).items():
            if not isinstance(name, str):
                raise SchemeError(f"overrides has the key {name!r}. Keys are layer names.")
            if not isinstance(scheme, LayerScheme):
                raise SchemeError(
                    f"overrides[{name!r}] must be a LayerScheme, got {type(scheme).__name__}."
                )
            checked[name] = scheme
        self._items = checked

    def __getitem__(self, name: str) -> LayerScheme:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __eq__(self, other: object) -> bool:
        """Compare in order: the first wildcard that matches wins, so order is part of it."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return tuple(self.items()) == tuple(other.items())

    def __repr__(self) -> str:
        return f"Overrides({self._items!r})"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a whole model is quantized.

    Attributes:
        weight: Scheme of every quantized layer's weight.
        activation: Scheme of every quantized layer's input; None quantizes weights only.
        exclude_layers: Layer names, or shell wildcards such as "blocks.*.fc?", that stay float. A
            model that is a single layer has the name "".
        overrides: Layer name or wildcard -> LayerScheme that replaces both schemes there. An exact
            name wins over a wildcard, the first matching wildcard over later ones.
        name: What to call the recipe; it changes nothing else.
        remedies: What repairs layers, at most one of each kind. They are applied in the order of
            `REMEDIES`, in whatever order they are given.

    Raises:
        SchemeError: If a field is not of the kind described above.

    Example:
        >>> recipe = Recipe.default().with_excluded("head")
        >>> recipe.layer_scheme("head") is None
        True
        >>> recipe.with_layer_bits("stem", 4).layer_scheme("stem").weight.bits
        4
    """

    weight: TensorScheme
    activation: TensorScheme | None = None
    exclude_layers: tuple[str, ...] = ()
    overrides: Mapping[str, LayerScheme] = field(default_factory=Overrides)
    name: str = ""
    remedies: tuple[Remedy, ...] = ()

    def __post_init__(self) -> None:
        LayerScheme(self.weight, self.activation)
        if isinstance(self.exclude_layers, str):
            raise SchemeError(
                f"exclude_layers is the text {self.exclude_layers!r}. "
                f"It must be a list of names: ({self.exclude_layers!r},)."
            )
        excluded = tuple(self.exclude_layers)
        for pattern in excluded:
            if not isinstance(pattern, str):
                raise SchemeError(f"exclude_layers holds {pattern!r}. It takes layer names.")
        if not isinstance(self.name, str):
            raise SchemeError(f"name is {self.name!r}. It must be text.")
        object.__setattr__(self, "exclude_layers", tuple(dict.fromkeys(excluded)))
        if not isinstance(self.overrides, Overrides):
            if not isinstance(self.overrides, Mapping):
                raise SchemeError(
                    "overrides must be a mapping from layer names to LayerScheme, got "
                    f"{type(self.overrides).__name__}."
                )
            object.__setattr__(self, "overrides", Overrides(self.overrides))
        object.__setattr__(self, "remedies", _in_order(self.remedies))

    @classmethod
    def default(cls) -> Recipe:
        """Return the preset "int8_per_channel", the usual choice for a first try."""
        return PRESETS["int8_per_channel"]

    def layer_scheme(self, layer: str) -> LayerScheme | None:
        """Return the scheme of the layer called `layer`, or None if it is excluded."""
        if self.excluding_pattern(layer) is not None:
            return None
        if layer in self.overrides:
            return self.overrides[layer]
        for pattern, scheme in self.overrides.items():
            if fnmatchcase(layer, pattern):
                return scheme
        return LayerScheme(self.weight, self.activation)

    def excluding_pattern(self, layer: str) -> str | None:
        """Return the entry of `exclude_layers` that excludes `layer`, or None."""
        for pattern in self.exclude_layers:
            if layer == pattern or fnmatchcase(layer, pattern):
                return pattern
        return None

    def with_excluded(self, *layers: str) -> Recipe:
        """Return a copy that also keeps `layers` in float."""
        return replace(self, exclude_layers=(*self.exclude_layers, *layers))

    def with_included(self, layer: str) -> Recipe:
        """Return a copy without the entries of `exclude_layers` that exclude `layer`."""
        kept = tuple(p for p in self.exclude_layers if p != layer and not fnmatchcase(layer, p))
        return replace(self, exclude_layers=kept)

    def with_override(self, layer: str, scheme: LayerScheme) -> Recipe:
        """Return a copy in which `layer` has its own scheme."""
        return replace(self, overrides=Overrides({**self.overrides, layer: scheme}))

    def with_remedy(self, remedy: Remedy) -> Recipe:
        """Return a copy with a remedy, in the place of one of its kind."""
        others = tuple(r for r in self.remedies if r.kind != remedy.kind)
        return replace(self, remedies=(*others, remedy))

    def without_remedy(self, kind: type[Remedy]) -> Recipe:
        """Return a copy without the remedy of one kind."""
        kept = tuple(found for found in self.remedies if not isinstance(found, kind))
        return replace(self, remedies=kept)

    def remedy(self, kind: type[R]) -> R | None:
        """Return the remedy of one kind, or None if the recipe has none."""
        return next((found for found in self.remedies if isinstance(found, kind)), None)

    def with_layer_bits(
        self, layer: str, weight_bits: int, activation_bits: int | None = None
    ) -> Recipe:
        """Return a copy in which `layer` has other bit widths and is not excluded."""
        included = self.with_included(layer)
        scheme = included.layer_scheme(layer) or LayerScheme(self.weight, self.activation)
        return included.with_override(layer, scheme.with_bits(weight_bits, activation_bits))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            **LayerScheme(self.weight, self.activation).to_dict(),
            "exclude_layers": list(self.exclude_layers),
            "overrides": {name: scheme.to_dict() for name, scheme in self.overrides.items()},
            "name": self.name,
            "remedies": [remedy.to_dict() for remedy in self.remedies],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s result; unknown keys raise SchemeError."""
        data = require_keys("Recipe", data, (f.name for f in fields(cls)))
        schemes = LayerScheme.from_dict(
            {k: v for k, v in data.items() if k in ("weight", "activation")}
        )
        overrides = data.get("overrides", {})
        if not isinstance(overrides, Mapping):
            raise SchemeError(f"overrides is {overrides!r}. It must be a mapping by layer name.")
        return cls(
            weight=schemes.weight,
            activation=schemes.activation,
            exclude_layers=tuple(_listed(data, "exclude_layers", "layer names")),
            overrides=Overrides({k: LayerScheme.from_dict(v) for k, v in overrides.items()}),
            name=data.get("name", ""),
            remedies=tuple(
                Remedy.from_dict(remedy) for remedy in _listed(data, "remedies", "remedies")
            ),
        )


def _in_order(remedies: object) -> tuple[Remedy, ...]:
    """Check the remedies of a recipe and sort them by when they are applied."""
    given = tuple(remedies) if isinstance(remedies, tuple | list) else (remedies,)
    for remedy in given:
        if not isinstance(remedy, Remedy) or remedy.kind not in REMEDIES:
            names = ", ".join(cls.__name__ for cls in REMEDIES.values())
            raise SchemeError(f"remedies holds {remedy!r}. It takes: {names}.")
    kinds = [remedy.kind for remedy in given]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise SchemeError(
                f"remedies holds {kinds.count(kind)} of the kind {kind!r}. Give one, and name all "
                "its layers in it."
            )
    order = list(REMEDIES)
    return tuple(sorted(given, key=lambda remedy: order.index(remedy.kind)))


def _listed(data: Mapping[str, Any], key: str, of: str) -> Iterable[Any]:
    """Return a list from a recipe's settings, empty where it is missing."""
    values = data.get(key, ())
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise SchemeError(f"{key} is {values!r}. It must be a list of {of}.")
    return values


_ACTIVATION = TensorScheme(symmetric=False)
_PER_CHANNEL = TensorScheme(granularity="per_channel")

PRESETS: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(_PER_CHANNEL, _ACTIVATION, name="int8_per_channel"),
        Recipe(TensorScheme(), _ACTIVATION, name="int8_per_tensor"),
        Recipe(TensorScheme(), TensorScheme(), name="int8_symmetric"),
        Recipe(
            replace(_PER_CHANNEL, observer="mse"),
            replace(_ACTIVATION, observer="mse"),
            name="int8_mse",
        ),
        Recipe(_PER_CHANNEL, TensorScheme(observer="entropy"), name="int8_entropy"),
        Recipe(_PER_CHANNEL, replace(_ACTIVATION, is_dynamic=True), name="int8_dynamic"),
        Recipe(_PER_CHANNEL, None, name="int8_weights_only"),
        Recipe(replace(_PER_CHANNEL, bits=4, observer="mse"), _ACTIVATION, name="int4_weights"),
    )
}
"""Ready-made recipes by name; every one can be changed with dataclasses.replace."""
