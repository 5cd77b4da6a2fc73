"""Shares of samples that are right, and what the samples can say about them.

A share carries Wilson's interval (Wilson, 1927). Two models that answered the same samples are
compared in pairs: only samples that one of them gets right and the other wrong count, so their
difference is known far better than each share (Bonett and Price, 2012). A difference whose interval
holds 0 is no difference that the data shows, whatever its sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from scipy.stats import binomtest

from dashboard.words.formatting import MISSING, format_accuracy, format_count, format_points
from quant_engine.report import OutputReport

Interval = tuple[float, float]

NO_DIFFERENCE = "no difference the data shows"
_Z95 = NormalDist().inv_cdf(0.975)


def share_interval(share: float | None, samples: int) -> Interval | None:
    """Return Wilson's 95 % interval for a share of samples, or None where there is none.

    It stays inside 0 to 1 and does not shrink to nothing at the ends, where the plain normal
    interval has no width.

    Example:
        >>> [round(edge, 3) for edge in share_interval(0.9, 100)]
        [0.826, 0.945]
    """
    if share is None or samples <= 0 or not 0.0 <= share <= 1.0:
        return None
    interval = binomtest(round(share * samples), samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def share_text(share: float | None, samples: int) -> str:
    """Return a share of samples in percent, with its 95 % interval.

    Example:
        >>> share_text(0.985, 400), share_text(0.985, 0), share_text(None, 400) == MISSING
        ('98.5 % (96.8–99.3)', '98.5 %', True)
    """
    return format_accuracy(share) + interval_suffix(share, samples)


def interval_suffix(share: float | None, samples: int) -> str:
    """Return the 95 % interval of a share as it stands behind its percents, or nothing.

    Example:
        >>> interval_suffix(0.985, 400), interval_suffix(None, 400)
        (' (96.8–99.3)', '')
    """
    interval = share_interval(share, samples)
    if interval is None:
        return ""
    low, high = (f"{100 * edge:.1f}".removesuffix(".0") for edge in interval)
    return f" ({low}–{high})"


@dataclass(frozen=True, slots=True)
class AccuracyChange:
    """Two models' answers to the same labelled samples, the second compared with the first.

    Attributes:
        samples: Labelled samples that both answered.
        lost: Samples that only the first gets right.
        won: Samples that only the second gets right.
    """

    samples: int
    lost: int
    won: int

    @classmethod
    def of_net_loss(cls, net: int, changed: int, samples: int) -> AccuracyChange:
        """Return the change with the most lost and won samples that fits.

        Args:
            net: Samples lost minus samples won.
            changed: At most so many samples are lost or won.
            samples: Labelled samples.
        """
        lost = max((changed + net) // 2, net, 0)
        return cls(samples, lost, lost - net)

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first, as a share."""
        return (self.won - self.lost) / self.samples

    @property
    def interval(self) -> Interval:
        """95 % interval of the difference in pairs, as shares (Bonett and Price, 2012)."""
        lost, won = (self.lost + 1) / (self.samples + 2), (self.won + 1) / (self.samples + 2)
        middle = won - lost
        spread = _Z95 * math.sqrt((won + lost - middle**2) / (self.samples + 2))
        return max(-1.0, middle - spread), min(1.0, middle + spread)

    @property
    def verdict(self) -> Literal["better", "worse", "unclear"]:
        """Whether the second model is better or worse, or whether the samples do not say."""
        low, high = self.interval
        if low > 0:
            return "better"
        return "worse" if high < 0 else "unclear"

    @property
    def is_clear(self) -> bool:
        """Whether the samples show a difference."""
        return self.verdict != "unclear"


def compare_accuracy(
    before: float | None, after: float | None, samples: int, *, changed: int | None = None
) -> AccuracyChange | None:
    """Compare two accuracies on the same samples; None where one of them is not known.

    How many samples were lost and won is known only by what remains of them. Of all splits that fit
    the one with the most of both is taken, so that the interval is never too narrow.

    Args:
        before: Share of the samples that the first model gets right.
        after: Share of them that the second one gets right.
        samples: Labelled samples.
        changed: Samples that the two answer differently, or an upper limit for them; None if there
            is none. A changed answer can be wrong both times.

    Example:
        >>> compare_accuracy(0.98, 0.985, 400, changed=6)
        AccuracyChange(samples=400, lost=2, won=4)
    """
    if before is None or after is None or samples <= 0:
        return None
    first, second = round(before * samples), round(after * samples)
    most = samples if changed is None else changed
    return AccuracyChange.of_net_loss(
        first - second, min(most, first + second, 2 * samples - first - second), samples
    )


def has_whole_answers(output: OutputReport) -> bool:
    """Whether each sample has one answer, not one for each token or pixel.

    Tokens and pixels of one sample are not independent of each other: their number does not say how
    sure a share of them is, so it gets no interval.
    """
    return output.answers is not None or output.labelled_samples == output.samples


def right_text(share: float | None, output: OutputReport) -> str:
    """Return a share of an output's right answers, with its 95 % interval where there is one."""
    return share_text(share, output.labelled_samples if has_whole_answers(output) else 0)


def agreement_text(output: OutputReport) -> str:
    """Return the share of an output's answers that are the float model's, as `right_text` does."""
    samples = output.samples if has_whole_answers(output) else 0
    return share_text(output.top1_agreement, samples)


def compare_outputs(
    before: OutputReport | None, after: OutputReport | None
) -> AccuracyChange | None:
    """Compare the right answers of two quantized models; None where they are not known."""
    if before is None or after is None:
        return None
    if not (has_whole_answers(before) and has_whole_answers(after)):
        return None
    samples = min(before.labelled_samples, after.labelled_samples)
    changed = None
    first, second = before.answers, after.answers
    if first is not None and second is not None and len(first.quantized) == samples:
        changed = sum(x != y for x, y in zip(first.quantized, second.quantized, strict=True))
    return compare_accuracy(
        before.accuracy_quantized, after.accuracy_quantized, samples, changed=changed
    )


def output_change(output: OutputReport | None) -> AccuracyChange | None:
    """Compare a quantized model's accuracy with float's; None where no accuracy is known."""
    if output is None or not has_whole_answers(output):
        return None
    return compare_accuracy(
        output.accuracy_float,
        output.accuracy_quantized,
        output.labelled_samples,
        changed=changed_answers(output.top1_agreement, output.samples),
    )


def changed_answers(agreement: float | None, samples: int) -> int | None:
    """Return how many answers differ, from the share that stays the same.

    Example:
        >>> changed_answers(0.985, 400), changed_answers(None, 400) is None
        (6, True)
    """
    return None if agreement is None else round((1 - agreement) * samples)


def answers_text(changed: int, samples: int) -> str:
    """Return in words how many answers are no longer those of the float model.

    Example:
        >>> answers_text(0, 400), answers_text(1, 400), answers_text(12, 400)
        ('no answer changes', '1 of 400 answers changes', '12 of 400 answers change')
    """
    if not changed:
        return "no answer changes"
    verb = "changes" if changed == 1 else "change"
    return f"{format_count(changed)} of {format_count(samples)} answers {verb}"


def change_text(change: AccuracyChange | None) -> str:
    """Return a difference of accuracies in words, with what the samples say about it.

    Example:
        >>> change_text(AccuracyChange(400, lost=0, won=2))
        '+2 of 400 samples: no difference the data shows'
        >>> change_text(AccuracyChange(400, lost=12, won=1))
        '−2.75 points (−4.6 to −0.9)'
        >>> change_text(AccuracyChange(400, lost=0, won=0))
        '±0 of 400 samples: no difference the data shows'
    """
    if change is None:
        return MISSING
    if not change.is_clear:
        net = change.won - change.lost
        sign = "+" if net > 0 else "" if net else "±"
        count = f"{sign}{format_count(net)} of {format_count(change.samples)} samples"
        return f"{count}: {NO_DIFFERENCE}"
    # Of the ends of an interval, more digits than tenths of a point say nothing.
    low, high = (format_points(round(end, 3)).removesuffix(" points") for end in change.interval)
    return f"{format_points(change.difference)} ({low} to {high})"
