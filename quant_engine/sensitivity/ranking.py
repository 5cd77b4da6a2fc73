"""From what variants answered to a ranking of layers that says which are statistically tied.

Every metric has a degradation, larger where the answer is worse. Several outputs have several
units: an output's degradation is then divided by that of the fully quantized model, the reference,
and the largest of these ratios counts. An output that the reference does not degrade, or degrades
without end, does not enter.

Neighbours in the ranking are compared by a paired bootstrap of the difference of their
degradations, over the same resamples. That is sharper than asking whether their intervals overlap:
most of an interval is which samples happened to be drawn, and both layers share that. They count as
distinguishable if the 95 % interval of the difference lies above 0 and at least `MIN_DIFFERING`
samples differ. With fewer, all differing in the same direction would be nothing unusual for two
equal layers (5 samples: 1 in 16), and a bootstrap cannot see that. Comparisons are not corrected
for their number. Neighbours in a ranking are the pairs that are hardest to tell apart, so sorting
first does not favour claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
import numpy.typing as npt

from quant_engine.errors import DataError
from quant_engine.judging.judged import JudgedOutput
from quant_engine.metrics.bootstrap import Resampling, percentile_interval
from quant_engine.metrics.catalogue import LARGEST_RATIO, Metric
from quant_engine.metrics.counts import SampleCounts
from quant_engine.report import NeighbourComparison, OutputEffect, Ranking
from quant_engine.report.response import has_shares
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.outcomes import Outcome

MIN_DIFFERING = 6
"""Samples that must differ before two layers can be distinguished: (1/2)^5 is below 5 %."""


class OutputDegradations:
    """What several variants do to one output, and what resampling makes of it.

    Attributes:
        name: What the output is called.
        metric: What it is judged by.
        values: The metric's value for each variant, shape (variants,).
        means: Degradation of each variant, shape (variants,).
        resampled_values: Values in resamples that all variants share, shape (variants, resamples).
        resampled: Degradations likewise.
    """

    def __init__(
        self,
        output: JudgedOutput,
        counts: Sequence[SampleCounts],
        resampling: Resampling,
    ) -> None:
        """Make the figures of one output from the counts of every variant.

        Raises:
            DataError: If the metric needs something that model or data do not give.
        """
        self.name, self.metric = output.name, output.measure
        if not all(self.metric.is_known(found) for found in counts):
            raise DataError(
                f"The metric {self.metric.name!r} needs {self.metric.needs}. "
                "Give that, or choose another metric: nmse works for every output."
            )
        self._counts = counts
        columns = self.metric.columns
        totals = {name: np.stack([c[name].sum(axis=0) for c in counts]) for name in columns}
        resampled = resampling.all_totals(counts, columns)
        self.values = self.metric.value(totals)
        self.means = self.metric.degradation(totals)
        self.resampled_values = self.metric.value(resampled)
        self.resampled = self.metric.degradation(resampled)

    def differing(self, one: int, other: int) -> npt.NDArray[np.bool_]:
        """Return which samples two variants do something else to, shape (samples,)."""
        changed = [
            self._counts[one][name] != self._counts[other][name] for name in self.metric.columns
        ]
        rows = [x.reshape(len(x), -1).any(axis=1) for x in changed]
        found: npt.NDArray[np.bool_] = np.asarray(np.stack(rows).any(axis=0))
        return found

    def effect(self, variant: int, base: int) -> OutputEffect:
        """Return what a variant does to this output, and the share of what the reference does."""
        reference = float(self.means[base])
        degradation = float(self.means[variant])
        return OutputEffect(
            name=self.name,
            metric=self.metric.name,
            value=float(self.values[variant]),
            interval=percentile_interval(self.resampled_values[variant]),
            degradation=degradation,
            ratio=degradation / reference if has_shares(reference) else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """All variants on one scale: a metric's own, or shares of a reference.

    Attributes:
        values: What reports show for each variant, shape (variants,).
        resampled_values: The same in resamples, shape (variants, resamples).
        means: Degradations, shape (variants,).
        resampled: Degradations in resamples, shape (variants, resamples).
        decided_by: Index of the output that gave each variant's degradation; -1 if none did.
    """

    values: FloatArray
    resampled_values: FloatArray
    means: FloatArray
    resampled: FloatArray
    decided_by: Sequence[int]

    def interval(self, variant: int) -> tuple[float, float]:
        """Return the 95 % interval of a variant's value."""
        return percentile_interval(self.resampled_values[variant])

    def gain_interval(self, base: int, variant: int) -> tuple[float, float]:
        """Return the 95 % interval, in pairs, of how much less a variant degrades than another.

        Args:
            base: Index of the variant that it is compared with.
            variant: Index of the variant itself.
        """
        return percentile_interval(self.gains(base, variant))

    def gains(self, base: int, variant: int) -> FloatArray:
        """Return how much less a variant degrades than another in every resample."""
        return differences(self.resampled[base], self.resampled[variant])


def differences(larger: FloatArray, smaller: FloatArray) -> FloatArray:
    """Return larger - smaller, 0 where both are infinite."""
    with np.errstate(invalid="ignore"):
        found = larger - smaller
    return np.where(np.isnan(found), 0.0, found)


@dataclass(frozen=True, slots=True, eq=False)
class Earlier:
    """A variant that was stopped, with all others on the samples that there were by then.

    Attributes:
        degradations: What variants do on these samples.
        scale: All of them on one scale.
        mean: The variant's degradation as estimated for all samples.
    """

    degradations: Degradations
    scale: Scale
    mean: float


class Degradations:
    """What several variants do to every judged output.

    Attributes:
        samples: Number of samples.
        outputs: One entry for each output.
    """

    def __init__(
        self, judged: Sequence[JudgedOutput], outcomes: Sequence[Outcome], seed: int
    ) -> None:
        """Read the outcomes, one for each variant, over all samples, and resample them."""
        self.samples = outcomes[0][0].samples
        resampling = Resampling(self.samples, seed=seed)
        self.outputs = [
            OutputDegradations(output, [outcome[index] for outcome in outcomes], resampling)
            for index, output in enumerate(judged)
        ]

    @property
    def metric(self) -> Metric:
        """What variants are ranked by."""
        return self.outputs[0].metric if len(self.outputs) == 1 else LARGEST_RATIO

    def scale(self, base: int) -> Scale:
        """Put all variants on one scale.

        Args:
            base: Index of the reference, the fully quantized model, where there are several
                outputs.
        """
        first = self.outputs[0]
        if len(self.outputs) == 1:
            one = (first.values, first.resampled_values, first.means, first.resampled)
            return Scale(*one, [0] * len(first.values))
        # An output that does not enter over all samples enters in no resample either.
        enters = [has_shares(float(found.means[base])) for found in self.outputs]
        if not any(enters):
            none = np.zeros_like(first.means), np.zeros_like(first.resampled)
            return Scale(*none, *none, [-1] * len(first.means))
        entering = list(compress(self.outputs, enters))
        ratios = np.stack([_shares(found.means, found.means[base]) for found in entering])
        resampled = np.stack([_shares(x.resampled, x.resampled[base]) for x in entering])
        means, drawn = ratios.max(axis=0), resampled.max(axis=0)
        indices = np.flatnonzero(enters)[ratios.argmax(axis=0)].tolist()
        return Scale(means, drawn, means, drawn, indices)

    def rank(
        self,
        option: str,
        names: Sequence[str],
        variants: Sequence[int],
        scale: Scale,
        *,
        is_left_out: bool,
        earlier: Mapping[int, Earlier] | None = None,
    ) -> Ranking:
        """Order layers by what they do, and compare neighbours.

        Args:
            option: What the ranking is called.
            names: The layers.
            variants: The variant of each, as an index into this object's rows.
            scale: What to order by.
            is_left_out: Whether a variant leaves its layer out. Then the less degradation is
                left, the more sensitive the layer. Equal layers keep their order.
            earlier: What is known of variants that were stopped; they are compared on the samples
                that both of a pair have seen.
        """
        sign, earlier = -1.0 if is_left_out else 1.0, earlier or {}
        known = [
            earlier.get(variant) or Earlier(self, scale, scale.means[variant])
            for variant in variants
        ]
        order = sorted(range(len(names)), key=lambda n: -sign * known[n].mean)
        comparisons = []
        for above, below in pairwise(order):
            first, second = variants[above], variants[below]
            seen = min(known[above], known[below], key=lambda k: k.degradations.samples)
            scale, outputs = seen.scale, seen.degradations.outputs
            if is_left_out:
                first, second = second, first
            # Two infinite degradations do not differ.
            gap = differences(scale.means[first], scale.means[second])
            gaps = differences(scale.resampled[first], scale.resampled[second])
            lower, upper = percentile_interval(gaps)
            differs = np.stack([found.differing(first, second) for found in outputs])
            differing = int(np.count_nonzero(differs.any(axis=0)))
            comparisons.append(
                NeighbourComparison(
                    above=names[above],
                    below=names[below],
                    difference=float(gap),
                    interval=(lower, upper),
                    is_tied=lower <= 0.0 or differing < MIN_DIFFERING,
                )
            )
        return Ranking(option, tuple(names[n] for n in order), tuple(comparisons))


def _shares(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Return values / reference; 0 where that has no shares, as in a resample without signal."""
    whole = np.broadcast_to(reference, values.shape)
    enters = (whole > 0.0) & (whole < np.inf)
    shares: FloatArray = np.divide(values, whole, out=np.zeros_like(values), where=enters)
    return shares
