"""What remedies did to the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass

from quant_engine.scheme import Remedy


@dataclass(frozen=True, slots=True)
class Treatment:
    """What one remedy did to one layer, or to layers that it treats together.

    Errors are shares of the signal: √(Σ(x - x̂)² / Σx²), 1.0 where the error is as large as the
    signal.

    Attributes:
        remedy: Kind of the remedy, such as "gptq".
        layers: Names of the layers, in the order they run.
        is_applied: Whether anything was changed.
        reason: Why not; of an applied remedy, what else there is to know, or empty.
        scales: Factor of each channel between the layers: what the outputs of the first were
            divided by, and the weights of those that read them multiplied by.
        shift: What was taken out of each output channel's mean.
        error_before: Error without the remedy; None where it was not measured.
        error_after: Error with it.
        error_of: What the error is one of, in words, such as "weights".
        error_by_gptq: Error that rounding by GPTQ leaves on the same data, of AdaRound.
        alpha: The α of SmoothQuant or Awq that was chosen.
        folded_into: Name of the module that the division of SmoothQuant or Awq was folded into.
        step: Which of its steps, of a remedy that has several: of Awq "factors" or "ranges".
    """

    remedy: str
    layers: tuple[str, ...]
    is_applied: bool
    reason: str = ""
    scales: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    error_before: float | None = None
    error_after: float | None = None
    error_of: str = ""
    error_by_gptq: float | None = None
    alpha: float | None = None
    folded_into: str = ""
    step: str = ""

    @classmethod
    def refused(cls, remedy: Remedy, *layers: str, reason: str) -> Treatment:
        """Return the entry of layers that a remedy left alone."""
        return cls(remedy.kind, layers, is_applied=False, reason=reason)
