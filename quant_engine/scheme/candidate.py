"""What can be chosen for one layer: a scheme, and how its weights are rounded to it."""

from __future__ import annotations

from dataclasses import dataclass

from quant_engine.errors import SchemeError, require_choice
from quant_engine.scheme.recipe import LayerScheme

NEAREST = "nearest"
GPTQ = "gptq"
ROUNDINGS = (NEAREST, GPTQ)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What can be chosen for one layer.

    Attributes:
        scheme: Grids of weight and input.
        rounding: "nearest": each weight to the nearest code. "gptq": as the remedy `Gptq` does, to
            the same grid, so that nothing becomes larger.

    Raises:
        SchemeError: If a field is not of the kind described above.
    """

    scheme: LayerScheme
    rounding: str = NEAREST

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, LayerScheme):
            raise SchemeError(f"scheme must be a LayerScheme, got {type(self.scheme).__name__}.")
        require_choice("rounding", self.rounding, ROUNDINGS)
