"""The one accumulator of a model's output: sums of each sample, from which every metric follows.

A metric of the output is a function of sums over samples: the KL divergence is Σ divergence over
Σ positions, the NMSE Σ noise over Σ signal, an IoU Σ intersection over Σ union. So the sums of each
sample are kept, and a figure, or the same figure in a resample of whole samples, is made from their
totals. A position (a token, a pixel, a box) is never resampled by itself: those of one sample go
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.functions import kl_divergences
from quant_engine.tensors.histogram import FloatArray

IGNORED = -100
"""Label of a position that does not count, as in torch's cross entropy."""


class SampleCounts(Mapping[str, FloatArray]):
    """Sums of each sample by name; every array has the samples on its first axis.

    `noise` Σ(x-x̂)², `signal` Σx²; of logits `divergence` ΣKL in nats, `agreeing` and `positions`
    (those that count); with labels `correct_float`, `correct`, `labelled`, and the negative
    log-likelihoods `nll_float`, `nll` in nats; of embeddings `cosine`; of masks `intersection` and
    `union`, one column a class; of images `peak_energy`, values times peak²; `custom` of a function
    of the caller's.
    """

    def __init__(self, columns: Mapping[str, FloatArray]) -> None:
        """Keep the arrays, all of as many samples."""
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> FloatArray:
        """Return a column."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the columns."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._columns)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self._columns.values())))

    @classmethod
    def join(cls, parts: Sequence[SampleCounts]) -> SampleCounts:
        """Put the samples of several batches one after the other; keep the columns all have."""
        names = [name for name in parts[0] if all(name in part for part in parts)]
        return cls({name: np.concatenate([part[name] for part in parts]) for name in names})

    def totals(self) -> dict[str, FloatArray]:
        """Return every column summed over the samples."""
        return {name: column.sum(axis=0) for name, column in self.items()}


def count_values(x: Tensor, x_hat: Tensor) -> dict[str, FloatArray]:
    """Return `noise` and `signal`.

    Args:
        x: Float output, samples first, any shape; an output without axes is one sample.
        x_hat: The changed output.

    Raises:
        DataError: If the shapes differ.
    """
    if x.shape != x_hat.shape:
        raise DataError(
            f"Cannot compare shapes {tuple(x.shape)} and {tuple(x_hat.shape)}: the quantized "
            "model answered with another shape than the float model. Judge an output whose shape "
            "does not depend on its values: output=Output(select=...)."
        )
    return {
        "noise": _sums((x_hat.double() - x.double()).square()),
        "signal": _sums(x.double().square()),
    }


def count_logits(
    logits: Tensor, changed: Tensor, labels: Tensor | None, counted: Tensor | None
) -> dict[str, FloatArray]:
    """Return `divergence`, `agreeing` and `positions`; with labels those about labels too.

    Args:
        logits: Shape (samples, ..., classes).
        changed: The same of the changed model.
        labels: int64, shape (samples, ...); `IGNORED` where there is none that counts.
        counted: Positions that count, shape (samples, ...); all if None.
    """
    weights = torch.ones(logits.shape[:-1], dtype=torch.float64, device=logits.device)
    if counted is not None:
        weights = counted.double()
    best, best_changed = logits.argmax(dim=-1), changed.argmax(dim=-1)
    divergences = torch.where(weights > 0, kl_divergences(logits, changed), 0.0)
    found = {
        "divergence": _sums(divergences),
        "agreeing": _sums((best == best_changed) * weights),
        "positions": _sums(weights),
    }
    if labels is None:
        return found
    has_label = labels != IGNORED
    if counted is not None:
        has_label = has_label & counted
    found |= {
        "labelled": _sums(has_label.double()),
        "correct_float": _sums(((best == labels) & has_label).double()),
        "correct": _sums(((best_changed == labels) & has_label).double()),
    }
    for name, values in (("nll_float", logits), ("nll", changed)):
        log_p = torch.log_softmax(values.detach().double(), dim=-1)
        chosen = log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
        found[name] = _sums(torch.where(has_label, -chosen, 0.0))
    return found


def count_cosines(x: Tensor, x_hat: Tensor, counted: Tensor | None) -> dict[str, FloatArray]:
    """Return `cosine`, summed over the positions that count, and `positions`.

    Args:
        x: Embeddings, shape (samples, ..., width).
        x_hat: Those of the changed model.
        counted: Positions that count, shape (samples, ...); all if None.
    """
    a, b = x.double(), x_hat.double()
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    cosines = torch.where(norms > 0, (a * b).sum(dim=-1) / norms.clamp_min(1e-300), 0.0)
    cosines = torch.where((a == b).all(dim=-1), 1.0, cosines)
    weights = torch.ones_like(cosines) if counted is None else counted.double()
    return {"cosine": _sums(cosines * weights), "positions": _sums(weights)}


def count_overlap(
    masks: Tensor, changed: Tensor, classes: int, counted: Tensor | None, prefix: str = ""
) -> dict[str, FloatArray]:
    """Return `intersection` and `union` of every class, shape (samples, classes).

    Args:
        masks: Class of each position, shape (samples, ...).
        changed: The same of what it is compared with.
        classes: Number of classes.
        counted: Positions that count; all if None.
        prefix: What the names of the columns begin with.
    """
    weights = torch.ones(masks.shape, dtype=torch.float64, device=masks.device)
    if counted is not None:
        weights = counted.double()
    both, either = [], []
    for number in range(classes):
        one, other = masks == number, changed == number
        both.append(_sums((one & other) * weights))
        either.append(_sums((one | other) * weights))
    return {
        f"{prefix}intersection": np.stack(both, axis=1),
        f"{prefix}union": np.stack(either, axis=1),
    }


def count_peaks(x: Tensor, peak: float) -> dict[str, FloatArray]:
    """Return `peak_energy`: the number of values of each sample times peak²."""
    return {"peak_energy": _sums(torch.full_like(x, peak, dtype=torch.float64).square())}


def by_sample(values: Tensor) -> Tensor:
    """Return one row a sample; an output without axes, such as a sum, is one sample."""
    return values.reshape(values.shape[0] if values.dim() else 1, -1)


def _sums(values: Tensor) -> FloatArray:
    sums: FloatArray = by_sample(values.detach()).sum(dim=1).cpu().numpy()
    return sums
