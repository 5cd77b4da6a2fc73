"""What a change of the output is measured in: its name, its unit, and how a value is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dashboard.words.formatting import format_nats, format_number

RATIO_KEY = "degradation_ratio"
"""The engine's name for what reports of several outputs rank by."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """One measure of how much worse an output is, 0 where it is the float model's.

    Attributes:
        key: The engine's name for it.
        label: Its name for people.
        short: The same where there is little room.
        column: Its name in files, with the unit.
        unit: "nats", or empty for a plain number.
    """

    key: str
    label: str
    short: str
    column: str
    unit: str = ""

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def head(self) -> str:
        """Short name and unit."""
        return f"{self.short} ({self.unit})" if self.unit else self.short

    def text(self, value: float | None, digits: int = 3) -> str:
        """Return a value with its unit.

        Example:
            >>> KL.text(0.0123), NMSE.text(0.0123)
            ('0.0123 nats', '0.0123')
        """
        return format_nats(value, digits) if self.unit else format_number(value, digits)

    def named(self, value: float | None, digits: int = 3) -> str:
        """Return a value with its short name and unit.

        Example:
            >>> KL.named(0.0123), NMSE.named(0.0123)
            ('KL 0.0123 nats', 'NMSE 0.0123')
        """
        return f"{self.short} {self.text(value, digits)}"


KL = Degradation("kl_divergence", "KL divergence", "KL", "kl_divergence_nats", "nats")
NMSE = Degradation("nmse", "output NMSE", "NMSE", "output_nmse")
COSINE = Degradation("cosine", "1 − cosine", "1 − cosine", "one_minus_cosine")
RATIO = Degradation(RATIO_KEY, "degradation ratio", "degradation ratio", RATIO_KEY)
RATIO_ABOUT = (
    "Each output's degradation divided by that of the fully quantized model; of several outputs "
    "the largest ratio counts. 0 is the float model's output, 1 is as bad as all layers quantized."
)

DEGRADATIONS: Mapping[str, Degradation] = {one.key: one for one in (KL, NMSE, COSINE, RATIO)}
"""What predictions are about, by the engine's name."""
