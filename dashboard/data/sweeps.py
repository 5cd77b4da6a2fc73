"""What one sensitivity measurement switches: its mode, the parts, and the widths it tries.

A run keeps one measurement for each sweep. A stored measurement says itself which one it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from quant_engine import bit_options
from quant_engine.report import SensitivityReport
from quant_engine.scheme import LayerScheme, Recipe
from quant_engine.sensitivity import CURVE_POINTS, LEAVE_ONE_OUT, ONE_AT_A_TIME
from quant_engine.variants import ACTIVATIONS, BOTH, WEIGHTS

STOPPING_SHARE = 0.3
"""Layers far below this share of the largest effect need not be run on all samples."""

DIRECTION_LABELS = {ONE_AT_A_TIME: "Single-layer", LEAVE_ONE_OUT: "Leave-one-out"}
PARTS_LABELS = {BOTH: "Weights and inputs", WEIGHTS: "Weights only", ACTIVATIONS: "Inputs only"}


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sensitivity measurement switches.

    Attributes:
        direction: "one_at_a_time" or "leave_one_out".
        parts: "both", "weights" or "activations" (the inputs of layers).
        bits: Widths of the weights that every layer is tried at, widest first; empty for the run's
            own scheme.
        precision: Share of the largest effect below which a layer may be stopped early; None runs
            all layers on all samples. It says how the sweep is measured, not which one it is.
    """

    direction: str = ONE_AT_A_TIME
    parts: str = BOTH
    bits: tuple[int, ...] = ()
    precision: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(sorted(set(self.bits), reverse=True)))

    @property
    def key(self) -> str:
        """A short name that only this sweep has.

        Example:
            >>> Sweep().key, Sweep(parts="weights", bits=(4, 8)).key
            ('one_at_a_time', 'one_at_a_time-weights-8.4')
        """
        words = [self.direction]
        words += [self.parts] if self.parts != BOTH else []
        words += [".".join(str(width) for width in self.bits)] if self.bits else []
        return "-".join(words)

    @property
    def has_settings(self) -> bool:
        """Whether it differs from the run's own scheme in more than its direction."""
        return self.parts != BOTH or bool(self.bits)

    def settled(self, recipe: Recipe) -> Sweep:
        """Return the plainest sweep that does the same under a recipe.

        Widths of weights change nothing where only inputs are rounded, and where no input is
        rounded, weights alone are all there is.
        """
        if self.parts == ACTIVATIONS:
            return replace(self, bits=())
        if self.parts == WEIGHTS and not rounds_inputs(recipe):
            return replace(self, parts=BOTH)
        return self

    def options(self, recipe: Recipe) -> dict[str, LayerScheme] | None:
        """Return the schemes to try on every layer; None for the run's own."""
        if not self.bits:
            return None
        switched = replace(recipe, activation=None) if self.parts == WEIGHTS else recipe
        return bit_options(switched, self.bits)

    def count_runs(self, layers: int) -> int:
        """Return how often the model runs on each batch, at most.

        Under every option: each layer switched, and all of them; then the curve, of which the first
        point and two that stand in the sweep need no run of their own.

        Example:
            >>> Sweep().count_runs(22), Sweep(bits=(8, 4)).count_runs(22)
            (29, 52)
        """
        curve = 1 + max(0, min(CURVE_POINTS, layers + 1) - 3)
        return max(1, len(self.bits)) * (layers + 1) + curve


def rounds_inputs(recipe: Recipe) -> bool:
    """Whether the inputs of any layer may be rounded under a recipe."""
    own = (scheme.activation for scheme in recipe.overrides.values())
    return any(activation is not None for activation in (recipe.activation, *own))


def sweep_of(report: SensitivityReport) -> Sweep:
    """Return the sweep that a measurement comes from."""
    widths = tuple(scheme.weight.bits for scheme in report.schemes)
    return Sweep(report.direction, report.parts, widths)


def split_options(report: SensitivityReport) -> dict[str, SensitivityReport]:
    """Return the measurement of each option by the option's label, such as "4 bits".

    A measurement of the run's own scheme is one, without a label.
    """
    if not report.schemes:
        return {"": report}
    widths = [scheme.weight.bits for scheme in report.schemes]
    return {
        f"{width} bits" if widths.count(width) == 1 else name: report.only(name)
        for name, width in zip(report.options, widths, strict=True)
    }


def describe_sweep(sweep: Sweep) -> str:
    """Return a sweep in a few words.

    Example:
        >>> describe_sweep(Sweep(parts="weights", bits=(8, 4)))
        'single-layer, weights only, 8 and 4 bits'
    """
    words = [DIRECTION_LABELS[sweep.direction]]
    words += [PARTS_LABELS[sweep.parts]] if sweep.parts != BOTH else []
    if sweep.bits:
        *most, last = (str(width) for width in sweep.bits)
        words.append(f"{', '.join(most)} and {last} bits" if most else f"{last} bits")
    return ", ".join(word.lower() for word in words)
