"""What repairs a layer that quantization breaks: the settings of every remedy.

What they do, and what they cost, is in `docs/remedies.md`; `quant_engine.remedies` does it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from quant_engine.errors import (
    SchemeError,
    is_whole_number,
    require_bool,
    require_choice,
    require_keys,
)

AUTO = "auto"
CALIBRATION = "calibration"
BATCH_NORM = "batch_norm"
MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of weights, codes or biases that makes quantization lose less.

    Attributes:
        layers: Names or shell wildcards of the layers to treat. Layers that can only be treated
            together are, if all of them match; otherwise the report says that they were not.
    """

    kind: ClassVar[str] = ""

    layers: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Check the names."""
        if isinstance(self.layers, str) or not isinstance(self.layers, Iterable):
            raise SchemeError(
                f"layers of {type(self).__name__} is {self.layers!r}. It must be a list of layer "
                "names or wildcards, such as ('*',)."
            )
        layers = tuple(self.layers)
        if not layers or not all(isinstance(name, str) for name in layers):
            raise SchemeError(
                f"layers of {type(self).__name__} is {layers!r}. Give at least one layer name or "
                "wildcard, such as '*'."
            )
        object.__setattr__(self, "layers", tuple(dict.fromkeys(layers)))

    @property
    def is_local(self) -> bool:
        """Whether it treats every layer by itself, as if no other one were quantized."""
        return False

    def treats(self, layer: str) -> bool:
        """Whether a layer is one of those to treat."""
        return any(layer == pattern or fnmatchcase(layer, pattern) for pattern in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the kind and the fields as plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind, **values, "layers": list(self.layers)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Remedy:
        """Build a remedy from `to_dict`'s result; unknown kinds and keys raise SchemeError."""
        if not isinstance(data, Mapping):
            raise SchemeError(f"A remedy must be a mapping of settings, got {data!r}.")
        kind = data.get("kind")
        require_choice("kind of a remedy", kind, tuple(REMEDIES))
        cls = REMEDIES[str(kind)]
        rest = {key: value for key, value in data.items() if key != "kind"}
        return cls(**require_keys(cls.__name__, rest, (f.name for f in fields(cls))))


@dataclass(frozen=True, slots=True)
class CrossLayerEqualization(Remedy):
    """Move factors between two layers until the channels between them have equal ranges.

    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019. The float model computes what it computed.

    Attributes:
        layers: As for every remedy; a pair of layers is treated if both match.
        absorb_bias: Whether to move large offsets of a channel into the bias of the next layer
            too, where that changes nothing on the calibration data.
    """

    kind: ClassVar[str] = "cross_layer_equalization"

    absorb_bias: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        Remedy.__post_init__(self)
        require_bool("absorb_bias", self.absorb_bias)


@dataclass(frozen=True, slots=True)
class SmoothQuant(Remedy):
    """Divide loud input channels of layers, and multiply the weights that read them.

    Xiao et al., "SmoothQuant", ICML 2023. The division is folded into what computes the channels,
    so the float model computes what it computed.

    Attributes:
        layers: As for every remedy; all layers that read one tensor are treated together.
        alpha: How much of the difficulty moves from inputs to weights, 0 to 1; "auto": for each
            tensor the one that gives the smallest output error, or none if none makes it smaller.
    """

    kind: ClassVar[str] = "smooth_quant"

    alpha: float | str = AUTO

    def __post_init__(self) -> None:
        """Check the settings."""
        Remedy.__post_init__(self)
        if self.alpha == AUTO:
            return
        _require_number("alpha", self.alpha, 0.0, 1.0)
        object.__setattr__(self, "alpha", float(self.alpha))


@dataclass(frozen=True, slots=True)
class Awq(Remedy):
    """Multiply the weights that read large input channels, then narrow ranges of weights.

    Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
    MLSys 2024. Weights that matter more are rounded finer: the factors are folded into what
    computes the channels, so the float model computes what it computed. Then ranges are narrowed as
    by `OutputMse`. Layers that can only be scaled together are, if all of them match; ranges are
    narrowed in every layer that matches.
    """

    kind: ClassVar[str] = "awq"


@dataclass(frozen=True, slots=True)
class OutputMse(Remedy):
    """Narrow each range of weights to the share with the smallest error of the layer's output.

    A range is that of a group, a channel or the whole weight; it begins as the scheme's range rule
    chooses it. The search is that of sequential MSE in AIMET, on the float inputs of the layer. Awq
    ends with it too.
    """

    kind: ClassVar[str] = "output_mse"

    @property
    def is_local(self) -> bool:
        """Whether it treats every layer by itself: always."""
        return True


@dataclass(frozen=True, slots=True)
class Gptq(Remedy):
    """Round weights column by column, each making up for the error of those before it.

    Frantar et al., "GPTQ", ICLR 2023. Only codes change, grids stay.

    Attributes:
        layers: As for every remedy.
        damping: What is added to the diagonal of XXᵀ, as a share of its mean.
    """

    kind: ClassVar[str] = "gptq"

    damping: float = 0.01

    @property
    def is_local(self) -> bool:
        """Whether it treats every layer by itself: always."""
        return True

    def __post_init__(self) -> None:
        """Check the settings."""
        Remedy.__post_init__(self)
        _require_number("damping", self.damping, 0.0, 1.0)
        object.__setattr__(self, "damping", float(self.damping))


@dataclass(frozen=True, slots=True)
class AdaRound(Remedy):
    """Learn for every weight whether it is rounded up or down, so that outputs stay.

    Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020. Only
    codes change, each to one of the two next to its weight; grids stay.

    Attributes:
        layers: As for every remedy.
        steps: Steps of Adam for each layer, each on all calibration data, 1 to 100,000.
        learning_rate: Of Adam.
        regularization: λ, how much weights are driven to one of their two codes, as a multiple of
            what one weight, off by a step, adds to the squared error of its output.
        is_sequential: Whether each layer is rounded behind layers that are already rounded, for the
            inputs that it gets from them. Otherwise each is by itself, on float inputs.
    """

    kind: ClassVar[str] = "adaround"

    steps: int = 1000
    learning_rate: float = 0.01
    regularization: float = 1.0
    is_sequential: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        Remedy.__post_init__(self)
        require_bool("is_sequential", self.is_sequential)
        if not is_whole_number(self.steps) or not 1 <= self.steps <= MOST_STEPS:
            raise SchemeError(
                f"steps is {self.steps!r}. It must be an integer from 1 to {MOST_STEPS}; 1000 is "
                "usual."
            )
        _require_number("learning_rate", self.learning_rate, 1e-5, 1.0)
        _require_number("regularization", self.regularization, 1e-3, 1e3)
        object.__setattr__(self, "learning_rate", float(self.learning_rate))
        object.__setattr__(self, "regularization", float(self.regularization))

    @property
    def is_local(self) -> bool:
        """Whether it treats every layer by itself."""
        return not self.is_sequential


@dataclass(frozen=True, slots=True)
class BiasCorrection(Remedy):
    """Take the mean error of every output channel out of the bias.

    Nagel et al., as above. A layer without a bias gets one.

    Attributes:
        layers: As for every remedy.
        is_sequential: Whether each layer is corrected behind layers that are already corrected, for
            all that reaches it. Otherwise each is by itself, on float inputs, for the rounding of
            its own weights: E[(Ŵ - W) x].
        means: Where mean errors come from: "calibration", measured on the calibration data; or
            "batch_norm", computed for each layer by itself from the mean input that a BatchNorm's
            statistics tell, (Ŵ - W) E[x]. With these, leave `is_sequential` out.
    """

    kind: ClassVar[str] = "bias_correction"

    is_sequential: bool = True
    means: str = CALIBRATION

    def __post_init__(self) -> None:
        """Check the settings."""
        Remedy.__post_init__(self)
        require_bool("is_sequential", self.is_sequential)
        require_choice("means of BiasCorrection", self.means, (CALIBRATION, BATCH_NORM))
        if self.means == BATCH_NORM and not self.is_sequential:
            raise SchemeError(
                "is_sequential is False, but means is 'batch_norm', which treats every layer by "
                "itself anyway. Leave one of the two out."
            )

    @property
    def is_local(self) -> bool:
        """Whether it treats every layer by itself."""
        return not self.is_sequential

    def to_dict(self) -> dict[str, Any]:
        """Return the kind and the fields as plain values; `means` only if not the usual."""
        values = Remedy.to_dict(self)
        if self.means == CALIBRATION:
            del values["means"]
        return values


def _require_number(what: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise SchemeError(f"{what} is {value!r}. It must be a number from {low:g} to {high:g}.")


REMEDIES: Mapping[str, type[Remedy]] = {
    cls.kind: cls
    for cls in (CrossLayerEqualization, SmoothQuant, Awq, OutputMse, Gptq, AdaRound, BiasCorrection)
}
"""Every remedy by its kind, in the order in which they are applied."""
