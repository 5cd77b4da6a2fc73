"""What a clipping range loses of a distribution: the loss that the entropy rule searches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quant_engine.scheme import TensorScheme
from quant_engine.tensors.histogram import BinnedValues, FloatArray

_SMOOTHING = 1e-4
_CLOSE = 1e-9


class InformationLoss:
    """KL(original || quantized) of clipping ranges, in nats.

    Counts of bins with the same code are merged and spread again over those that hold values; what
    lies outside the range is folded into its outermost bins. Exact zeros are left out.

    Of many ranges of one channel only the smallest loss is asked for. They are compared by running
    sums first: codes rise with the values, so the bins of one code lie side by side, and a range
    costs a logarithm for each code in place of one for each bin. Only ranges within `_CLOSE` of the
    best, which is far more than the rounding of both ways, are then measured bin by bin.
    """

    def __init__(self, binned: BinnedValues) -> None:
        """Take the values, (channels, bins)."""
        self._counts = binned.nonzero_counts
        self._centers = binned.centers
        self._up_to = _running(self._counts)
        self._holding_up_to = _running(self._counts[:1] > 0)[0]
        self._logs_up_to = _running(_x_log_x(self._counts[:1]))[0]

    def __call__(
        self, scale: FloatArray, zero_point: FloatArray, scheme: TensorScheme
    ) -> FloatArray:
        """Return the loss of each grid, shape (rows,); inf where all is clipped or others are best.

        Args:
            scale: Column (rows, 1): one grid for each channel, or any number of a single channel.
            zero_point: The same.
            scheme: Bits and symmetry.
        """
        raw = self._centers / scale
        np.rint(raw, out=raw)
        raw += zero_point
        if len(raw) == 1 or len(self._counts) > 1:
            return self._by_bin(raw, scheme)
        rough = self._by_code(raw, scheme)
        is_close = rough <= rough.min() + _CLOSE
        loss = np.full(len(raw), np.inf)
        loss[is_close] = self._by_bin(raw[is_close], scheme)
        return loss

    def _by_code(self, raw: FloatArray, scheme: TensorScheme) -> FloatArray:
        """Return the loss of each row of codes before clipping, all of the only channel."""
        rows, bins = raw.shape
        is_start = np.ones(raw.shape, dtype=bool)
        np.not_equal(raw[:, 1:], raw[:, :-1], out=is_start[:, 1:])
        begin = np.flatnonzero(is_start)
        code = raw.reshape(-1)[begin]
        is_inside = (code >= scheme.qmin) & (code <= scheme.qmax)
        end = np.append(begin[1:], raw.size)[is_inside]
        begin = begin[is_inside]
        row = begin // bins
        begin, end = begin - row * bins, end - row * bins
        # Rows that hold no code of the range are left out, and lose everything.
        loss = np.full(rows, np.inf)
        head = np.flatnonzero(np.diff(row, prepend=-1))
        loss[row[head]] = self._of_runs(begin, end, head)
        return loss

    def _of_runs(
        self, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], head: npt.NDArray[np.int64]
    ) -> FloatArray:
        """Return the loss of ranges whose codes lie on bins `begin` to `end`, shape (ranges,).

        Args:
            begin: First bin of every code, range after range.
            end: The bin after its last.
            head: Where a range begins among them, (ranges,).
        """
        up_to, counts = self._up_to[0], self._counts[0]
        tail = np.append(head[1:], len(begin)) - 1
        first, last, total = begin[head], end[tail] - 1, up_to[-1]
        below, above = up_to[first], total - up_to[last + 1]
        is_one = first == last  # a single bin takes all that is clipped
        below, above = np.where(is_one, below + above, below), np.where(is_one, 0.0, above)
        at_first, at_last = counts[first], counts[last]
        merged = up_to[end] - up_to[begin]
        holding = self._holding_up_to[end] - self._holding_up_to[begin]
        support = np.add.reduceat(holding, head) + ((at_first == 0) & (below > 0))
        support += (at_last == 0) & (above > 0)
        even = _SMOOTHING / np.maximum(support, 1.0)
        share = (1.0 - _SMOOTHING) / np.maximum(np.add.reduceat(merged, head), 1.0)
        sizes = tail - head + 1
        spread = merged / np.maximum(holding, 1.0) * np.repeat(share, sizes)
        log_q = np.log(spread + np.repeat(even, sizes))
        cross = np.add.reduceat(merged * log_q, head)
        cross += below * np.where(at_first > 0, log_q[head], np.log(even))
        cross += above * np.where(at_last > 0, log_q[tail], np.log(even))
        own = self._logs_up_to[last + 1] - self._logs_up_to[first]
        own += _x_log_x(at_first + below) - _x_log_x(at_first)
        own += np.where(is_one, 0.0, _x_log_x(at_last + above) - _x_log_x(at_last))
        total = max(total, 1.0)
        loss: FloatArray = (own - cross) / total - np.log(total)
        return loss

    def _by_bin(self, raw: FloatArray, scheme: TensorScheme) -> FloatArray:
        """Return the loss of each row of codes before clipping."""
        is_inside = (raw >= scheme.qmin) & (raw <= scheme.qmax)
        counts = np.where(is_inside, self._counts, 0.0)
        # Fold outliers into the outermost bins of the range: whole counts, so any order adds up.
        rows, bins = raw.shape
        row = np.arange(rows)
        channel = row if len(self._counts) > 1 else np.zeros_like(row)
        first = is_inside.argmax(axis=1)
        last = bins - 1 - is_inside[:, ::-1].argmax(axis=1)
        original = counts.copy()
        original[row, first] += self._up_to[channel, first]
        original[row, last] += self._up_to[channel, -1] - self._up_to[channel, last + 1]
        # Merge the raw counts by code and spread them again over the bins that hold values.
        levels = scheme.qmax - scheme.qmin + 1
        codes = np.clip(raw, scheme.qmin, scheme.qmax).astype(np.int64) - scheme.qmin
        slot = (codes + row[:, None] * levels).reshape(-1)
        merged = np.bincount(slot, counts.reshape(-1), rows * levels)
        holds = counts > 0
        holding = np.bincount(slot[holds.reshape(-1)], minlength=rows * levels)
        mean = np.divide(merged, holding, out=np.zeros_like(merged), where=holding > 0)
        quantized = np.where(holds, mean[slot].reshape(counts.shape), 0.0)
        return np.where(is_inside.any(axis=1), _kl(original, quantized), np.inf)


def _kl(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return KL(p || q) of each row of counts, with `_SMOOTHING` mixed into q on p's support."""
    support = p > 0
    p = p / np.maximum(p.sum(axis=1, keepdims=True), 1.0)
    q = q / np.maximum(q.sum(axis=1, keepdims=True), 1.0)
    even = support / np.maximum(support.sum(axis=1, keepdims=True), 1)
    q = (1.0 - _SMOOTHING) * q + _SMOOTHING * even
    terms = np.zeros_like(p)
    terms[support] = p[support] * np.log(p[support] / q[support])
    loss: FloatArray = terms.sum(axis=1)
    return loss


def _running(values: npt.NDArray[np.generic]) -> FloatArray:
    """Return each row's sums of all values before a place, and of all, float64 (rows, n + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _x_log_x(values: FloatArray) -> FloatArray:
    result: FloatArray = values * np.log(np.maximum(values, 1.0))
    return result
