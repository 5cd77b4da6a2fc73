"""How much of a model's weights are on codes, and why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Weights that stay float for one reason.

    Attributes:
        reason: Why.
        weights: Number of weights.
        layers: Names of the modules that hold them.
    """

    reason: str
    weights: int
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The share of a model's weights that is on codes.

    Weights are the entries of all float parameters with two axes or more, wherever they are held:
    matrices, kernels, tables. A shared parameter counts once, and as float if any module that
    shares it keeps it float.

    Attributes:
        weights: Number of weights of the model.
        on_codes: Those that are held as integer codes.
        left_out: The others by reason, most weights first.
    """

    weights: int
    on_codes: int
    left_out: tuple[LeftOut, ...]

    @property
    def share(self) -> float:
        """Share of the weights that is on codes, 0 to 1; 0 without weights."""
        return self.on_codes / self.weights if self.weights else 0.0
