"""What a change of the output is measured in: its name, its unit, and how a value is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

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
        about: What it is, to follow "it is".
        unit: "nats", or empty for a plain number.
        of_value: What a value of the metric `key` is as a degradation: it never falls where the
            answer gets worse.
    """

    key: str
    label: str
    short: str
    column: str
    about: str
    unit: str = ""
    of_value: Callable[[float], float] = float

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Name and unit as the title of an axis; a function keeps its name as it is written."""
        return self.title if self.label == self.key else f"{self.title[0].upper()}{self.title[1:]}"

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


KL = Degradation(
    "kl_divergence",
    "KL divergence",
    "KL",
    "kl_divergence_nats",
    "the KL divergence of its probabilities from the float model's, in nats: 0 is not at all, "
    "above 0.1 answers change",
    "nats",
)
NMSE = Degradation(
    "nmse",
    "output NMSE",
    "NMSE",
    "output_nmse",
    "the energy of the output's error as a share of the output's own (NMSE): 0 is not at all",
)
COSINE = Degradation(
    "cosine",
    "1 − cosine",
    "1 − cosine",
    "one_minus_cosine",
    "1 minus the cosine with the float model's output: 0 is the same direction",
    of_value=lambda cosine: max(0.0, 1.0 - cosine),
)
MEAN_IOU = Degradation(
    "mean_iou",
    "1 − mean IoU",
    "1 − mean IoU",
    "one_minus_mean_iou",
    "1 minus the mean IoU with the float model's mask: 0 is the same mask",
    of_value=lambda overlap: max(0.0, 1.0 - overlap),
)
PEAK_ERROR = Degradation(
    "psnr_db",
    "squared error / peak²",
    "error / peak²",
    "squared_error_over_peak",
    "the mean squared error as a share of the squared peak, what PSNR says in decibels: 0 is the "
    "same image",
    of_value=lambda decibels: math.pow(10.0, -decibels / 10.0),
)
RATIO_ABOUT = (
    "Each output's degradation divided by that of the fully quantized model; of several outputs "
    "the largest ratio counts. 0 is the float model's output, 1 is as bad as all layers quantized."
)
RATIO = Degradation(
    RATIO_KEY,
    "degradation ratio",
    "degradation ratio",
    RATIO_KEY,
    f"the degradation ratio. {RATIO_ABOUT}".removesuffix("."),
)

DEGRADATIONS: Mapping[str, Degradation] = {
    one.key: one for one in (KL, NMSE, COSINE, MEAN_IOU, PEAK_ERROR, RATIO)
}
"""What there is a degradation of its own for, by the engine's name of the metric."""

_READ_AS = {
    "sqnr_db": NMSE,
    # Counts of the same answers: few, and tied.
    **dict.fromkeys(("top1_agreement", "accuracy_drop", "perplexity"), KL),
}


@cache
def degradation_by(metric: str) -> Degradation:
    """Return what a layer costs an output that is judged by a metric.

    Args:
        metric: The engine's name of a metric, or of a function of the caller's.

    Example:
        >>> degradation_by("cosine").label, degradation_by("accuracy_drop").label
        ('1 − cosine', 'KL divergence')
        >>> degradation_by("box_error").named(0.25)
        'box_error 0.25'
    """
    known = DEGRADATIONS.get(metric) or _READ_AS.get(metric)
    about = f"what the function `{metric}` says of it, mean over the samples: larger is worse"
    return known or Degradation(metric, metric, metric, metric, about)


def degradation_interval(
    measure: Degradation, interval: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of a metric's value as one of its degradation."""
    ends = sorted(map(measure.of_value, interval))
    return ends[0], ends[1]


def moved_text(measure: Degradation | None) -> str:
    """Return in a sentence what it means that an answer moves; nothing where that is not known."""
    return "" if measure is None else f"How far the answer moves is {measure.about}."
