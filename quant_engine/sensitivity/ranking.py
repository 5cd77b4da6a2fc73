"""From what variants answered to a ranking of layers that says which are statistically tied.

Every metric is written as a degradation: one number per sample, of which the mean is larger where
the answer is worse. Intervals and comparisons are those of the mean degradation.

Neighbours in the ranking are compared by a paired bootstrap of the difference of their
degradations, over the same resamples. That is sharper than asking whether their intervals overlap:
most of an interval is which samples happened to be drawn, and both layers share that. They are
distinguishable if the 95 % interval of the difference lies above 0 and at least `MIN_DIFFERING`
samples differ. With fewer, all differing in the same direction would be nothing unusual for two
equal layers (5 samples: 1 in 16), and a bootstrap cannot see that. Comparisons are not corrected
for their number. Neighbours in a ranking are the closest pairs, so sorting first does not favour
claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from quant_engine.errors import DataError, SchemeError, suggest
from quant_engine.metrics.bootstrap import bootstrap_means, percentile_intervals
from quant_engine.report import NeighbourComparison, Ranking
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.outcomes import Metric, Outcome

MIN_DIFFERING = 6
"""Samples that must differ before two layers are distinguishable: (1/2)^5 is below 5 %."""

KL_DIVERGENCE = "kl_divergence"
NMSE = "nmse"


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to say how much a variant degrades the output.

    Attributes:
        name: What reports call it.
        needs: What it cannot be had without, in words.
        degradation: Outcome and float model's correctness -> degradation of each sample, shape
            (samples,); None if it cannot be had.
        to_value: Mean degradation -> the metric's value.
        is_relative: Whether the mean degradation is Σdegradation / Σsignal.
    """

    name: str
    needs: str
    degradation: Callable[[Outcome, FloatArray | None], FloatArray | None]
    to_value: Callable[[float], float] = float
    is_relative: bool = False

    def read(self, outcome: Outcome, correct: FloatArray | None) -> FloatArray:
        """Return the degradation of each sample.

        Raises:
            DataError: If it cannot be had.
        """
        degradation = self.degradation(outcome, correct)
        if degradation is None:
            raise DataError(
                f"The metric {self.name!r} needs {self.needs}. "
                "Give that, or choose another metric: nmse works for every output."
            )
        return degradation


def _to_sqnr_db(nmse: float) -> float:
    return -10.0 * math.log10(nmse) if nmse > 0.0 else math.inf


def _disagreement(outcome: Outcome, _correct: FloatArray | None) -> FloatArray | None:
    return None if outcome.agreement is None else 1.0 - outcome.agreement


def _accuracy_drop(outcome: Outcome, correct: FloatArray | None) -> FloatArray | None:
    return None if outcome.correct is None or correct is None else correct - outcome.correct


_CUSTOM = "an answer of the function on every batch"
MEASURES = {
    measure.name: measure
    for measure in (
        Measure(KL_DIVERGENCE, "logits", lambda outcome, _: outcome.divergence),
        Measure(NMSE, "an output", lambda outcome, _: outcome.noise, is_relative=True),
        Measure("sqnr_db", "an output", lambda outcome, _: outcome.noise, _to_sqnr_db, True),
        Measure("top1_agreement", "logits", _disagreement, lambda degradation: 1.0 - degradation),
        Measure("accuracy_drop", "logits and labels in evaluation_data", _accuracy_drop),
    )
}
"""The metrics that can be named."""


def check_metric(metric: str | Metric | None) -> None:
    """Check that a metric is None, a known name or a function.

    Raises:
        SchemeError: If it is something else.
    """
    if metric is None or callable(metric) or (isinstance(metric, str) and metric in MEASURES):
        return
    raise SchemeError(
        f"metric is {metric!r}. {suggest(str(metric), tuple(MEASURES))} Or give a function "
        "(float_output, changed_output, labels) -> one number per sample."
    )


def choose_measure(metric: str | Metric | None, has_logits: bool) -> Measure:
    """Return what to rank by: by default the KL divergence, or the NMSE without logits."""
    if metric is None:
        return MEASURES[KL_DIVERGENCE if has_logits else NMSE]
    if isinstance(metric, str):
        return MEASURES[metric]
    name = getattr(metric, "__name__", type(metric).__name__)
    return Measure(name, _CUSTOM, lambda outcome, _: outcome.custom)


@dataclass(frozen=True, slots=True, eq=False)
class Degradations:
    """The degradation of several variants on the same samples, and what resampling makes of it.

    Attributes:
        measure: What the degradation is.
        samples: Degradation of each variant on each sample, shape (variants, samples).
        means: Mean degradation of each variant, shape (variants,).
        resampled: Mean degradations in resamples that all variants share, shape
            (variants, resamples).
    """

    measure: Measure
    samples: FloatArray
    means: FloatArray
    resampled: FloatArray

    @classmethod
    def of(
        cls,
        measure: Measure,
        outcomes: Sequence[Outcome],
        signal: FloatArray,
        correct: FloatArray | None,
        seed: int,
    ) -> Degradations:
        """Read the degradations from outcomes and resample them.

        Args:
            measure: What to read.
            outcomes: One for each variant, over all samples.
            signal: Σx² of the float output, shape (samples,).
            correct: Share of each sample's rows that the float model gets right, or None.
            seed: Seed of the resampling.

        Raises:
            DataError: If the measure needs something that model or data do not give.
        """
        samples = np.stack([measure.read(outcome, correct) for outcome in outcomes])
        weights = signal if measure.is_relative else None
        total = float(signal.sum()) if measure.is_relative else float(samples.shape[1])
        # An output that is zero throughout: no error is 0, any error is infinite, as in the NMSE.
        sums = samples.sum(axis=1)
        means = sums / total if total > 0.0 else np.where(sums > 0.0, math.inf, 0.0)
        return cls(measure, samples, means, bootstrap_means(samples, weights, seed=seed))

    def values(self) -> list[float]:
        """Return the metric's value for each variant."""
        return [self.measure.to_value(float(mean)) for mean in self.means]

    def intervals(self) -> list[tuple[float, float]]:
        """Return the 95 % interval of the metric's value for each variant."""
        found = []
        for ends in percentile_intervals(self.resampled):
            one, other = (self.measure.to_value(end) for end in ends)
            found.append((min(one, other), max(one, other)))
        return found

    def gain_interval(self, base: int, variant: int) -> tuple[float, float]:
        """Return the 95 % interval, in pairs, of how much less a variant degrades than another.

        Args:
            base: Index of the variant that it is compared with.
            variant: Index of the variant itself.
        """
        (ends,) = percentile_intervals((self.resampled[base] - self.resampled[variant])[None])
        return ends

    def rank(
        self, option: str, names: Sequence[str], variants: Sequence[int], *, is_left_out: bool
    ) -> Ranking:
        """Order layers by what they do, and compare neighbours.

        Args:
            option: What the ranking is called.
            names: The layers.
            variants: The variant of each, as an index into this object's rows.
            is_left_out: Whether a variant leaves its layer out. Then the less degradation is
                left, the more sensitive the layer. Equal layers keep their order.
        """
        sign = -1.0 if is_left_out else 1.0
        order = sorted(range(len(names)), key=lambda n: -sign * self.means[variants[n]])
        comparisons = []
        for above, below in pairwise(order):
            first, second = variants[above], variants[below]
            with np.errstate(invalid="ignore"):
                gap = sign * (self.means[first] - self.means[second])
            gaps = sign * (self.resampled[first] - self.resampled[second])
            (lower, upper) = percentile_intervals(gaps[None])[0]
            differing = int(np.count_nonzero(self.samples[first] != self.samples[second]))
            comparisons.append(
                NeighbourComparison(
                    above=names[above],
                    below=names[below],
                    difference=0.0 if math.isnan(gap) else float(gap),
                    interval=(lower, upper),
                    is_tied=lower <= 0.0 or differing < MIN_DIFFERING,
                )
            )
        return Ranking(option, tuple(names[n] for n in order), tuple(comparisons))
