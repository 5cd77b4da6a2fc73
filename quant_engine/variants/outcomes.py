"""What variants of a model answered, sample by sample, next to what the float model answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from quant_engine.errors import DataError, QuantizationError
from quant_engine.metrics.functions import kl_divergences
from quant_engine.metrics.output import IGNORED, fitting_labels, has_logits
from quant_engine.model.batches import Batch
from quant_engine.tensors.histogram import FloatArray

Metric: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Any]
"""Called as metric(float_output, changed_output, labels) on one batch.

It returns one finite number for each sample, shape (samples,); more is worse.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one variant answered, sample by sample; each array has the shape (samples,).

    Attributes:
        noise: Σ(x-x̂)² of the output.
        divergence: KL(float || variant) in nats; None without logits.
        agreement: Share of the sample's rows with the same largest logit; None without logits.
        correct: Share of the sample's labelled rows that are right; None without labels.
        custom: What the caller's own metric says; None without one.
    """

    noise: FloatArray
    divergence: FloatArray | None = None
    agreement: FloatArray | None = None
    correct: FloatArray | None = None
    custom: FloatArray | None = None

    @classmethod
    def join(cls, parts: Sequence[Outcome]) -> Outcome:
        """Put the outcomes of several batches one after the other."""
        return cls(
            np.concatenate([part.noise for part in parts]),
            join_known(part.divergence for part in parts),
            join_known(part.agreement for part in parts),
            join_known(part.correct for part in parts),
            join_known(part.custom for part in parts),
        )


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutcome:
    """All variants on one batch.

    Attributes:
        samples: Samples in the batch.
        signal: Σx² of the float output, shape (samples,).
        correct_float: Share of the sample's rows the float model gets right; None without labels.
        variants: One outcome for each variant, in order.
        full_forwards_because: Why nothing could be replayed; empty if it was.
    """

    samples: int
    signal: FloatArray
    correct_float: FloatArray | None
    variants: tuple[Outcome, ...]
    full_forwards_because: str = ""

    @classmethod
    def merge(cls, parts: Sequence[BatchOutcome]) -> BatchOutcome:
        """Put the variants of several outcomes of the same batch one after the other."""
        first = parts[0]
        return cls(
            first.samples,
            first.signal,
            first.correct_float,
            tuple(outcome for part in parts for outcome in part.variants),
            next((part.full_forwards_because for part in parts if part.full_forwards_because), ""),
        )


def join_known(parts: Iterable[FloatArray | None]) -> FloatArray | None:
    """Put arrays one after the other; None if one of them is missing."""
    known = list(parts)
    kept = [part for part in known if part is not None]
    return np.concatenate(kept) if kept and len(kept) == len(known) else None


def float_outcome(
    logits: Tensor, batch: Batch, variants: tuple[Outcome, ...], full_forwards_because: str
) -> BatchOutcome:
    """Put what the variants answered beside the float model's own answer."""
    return BatchOutcome(
        samples=batch.samples,
        signal=_sample_sums(logits.double().square()),
        correct_float=_correct(logits, batch.labels),
        variants=variants,
        full_forwards_because=full_forwards_because,
    )


def compare(
    logits: Tensor, changed: Tensor, labels: Tensor | None, metric: Metric | None = None
) -> Outcome:
    """Compare a variant's output with the float model's.

    Raises:
        DataError: If the metric raises, or its answer is not one finite number per sample.
    """
    noise = _sample_sums((changed.double() - logits.double()).square())
    custom = None if metric is None else _apply(metric, logits, changed, labels)
    if not has_logits(logits, labels):
        return Outcome(noise, custom=custom)
    agreement = logits.argmax(dim=-1) == changed.argmax(dim=-1)
    return Outcome(
        noise,
        _sample_means(kl_divergences(logits, changed)),
        _sample_means(agreement.double()),
        _correct(changed, labels),
        custom,
    )


def _apply(metric: Metric, logits: Tensor, changed: Tensor, labels: Tensor | None) -> FloatArray:
    try:
        # Copies: what the caller's function does to them must not reach a recorded tensor.
        found = metric(logits.clone(), changed.clone(), None if labels is None else labels.clone())
        values = torch.as_tensor(found).detach().double().cpu()
    except QuantizationError:
        raise
    except Exception as error:
        raise DataError(f"The metric failed: {type(error).__name__}: {error}") from error
    samples = logits.shape[0] if logits.dim() else 1
    if values.shape != (samples,):
        raise DataError(
            f"The metric gave the shape {tuple(values.shape)} for an output of shape "
            f"{tuple(logits.shape)}. Return one number for each of the {samples} samples."
        )
    if not torch.isfinite(values).all():
        raise DataError("The metric gave NaN or Inf. Return finite numbers.")
    array: FloatArray = values.numpy()
    return array


def _correct(logits: Tensor, labels: Tensor | None) -> FloatArray | None:
    labels = fitting_labels(logits, labels)
    if labels is None:
        return None
    is_counted = by_sample(labels != IGNORED).double()
    is_right = by_sample(logits.argmax(dim=-1) == labels).double()
    shares: FloatArray = (is_right.sum(dim=1) / is_counted.sum(dim=1)).cpu().numpy()
    return shares


def by_sample(values: Tensor) -> Tensor:
    """Return one row per sample; an output without axes, such as a sum, is one sample."""
    return values.reshape(values.shape[0] if values.dim() else 1, -1)


def _sample_sums(values: Tensor) -> FloatArray:
    sums: FloatArray = by_sample(values).sum(dim=1).cpu().numpy()
    return sums


def _sample_means(values: Tensor) -> FloatArray:
    means: FloatArray = by_sample(values).mean(dim=1).cpu().numpy()
    return means
