"""Cheap per-layer numbers, and how well they agree with the measured sensitivity.

The SQNR of a weight, or of one layer's output, comes almost free with an analysis. Whether it
predicts what a layer does to the model's output is a question for each model: the rank
correlation answers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import kendalltau, rankdata, spearmanr

from dashboard.figures.ranking import sensitivity_sign
from dashboard.figures.sensitivity_metrics import SensitivityMetric
from quant_engine.report import ErrorMetrics, LayerReport, ModelReport, SensitivityReport

_MINIMUM_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Proxy:
    """A number the analysis gives for each layer without running the rest of the model.

    Attributes:
        key: Short name.
        label: Name shown to people.
        about: What it measures.
        read: The error it is taken from, or None.
    """

    key: str
    label: str
    about: str
    read: Callable[[LayerReport], ErrorMetrics | None]

    def value(self, layer: LayerReport) -> float | None:
        """Return its SQNR in dB, or None where it was not measured."""
        error = self.read(layer)
        if error is None or math.isnan(error.sqnr_db):
            return None
        return error.sqnr_db


PROXIES: dict[str, Proxy] = {
    proxy.key: proxy
    for proxy in (
        Proxy(
            "local",
            "Local SQNR",
            "this layer quantized and fed the float input, against its float output",
            lambda layer: layer.local_error,
        ),
        Proxy(
            "weight",
            "Weight SQNR",
            "the weights alone, before and after rounding",
            lambda layer: layer.weight_error,
        ),
        Proxy(
            "input",
            "Input SQNR",
            "the layer's input alone, before and after rounding",
            lambda layer: None if layer.input is None else layer.input.error,
        ),
    )
}
"""Every cheap number by its key, the usual choice first."""


@dataclass(frozen=True, slots=True)
class LayerPair:
    """One layer's cheap number beside its measured one.

    Attributes:
        name: Name of the layer.
        proxy_db: The cheap number, in dB.
        measured: The measured one, in the measure's own unit.
        proxy_rank: 1 for the layer the cheap number calls most sensitive; equal values share the
            mean of their ranks.
        measured_rank: 1 for the layer measured as most sensitive.
    """

    name: str
    proxy_db: float
    measured: float
    proxy_rank: float
    measured_rank: float

    @property
    def gap(self) -> float:
        """Places by which the cheap number is off; positive where it makes too little of it."""
        return self.proxy_rank - self.measured_rank


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one cheap number orders the layers.

    Attributes:
        proxy: The cheap number.
        pairs: Every layer that has both numbers, in the order they run.
        spearman: Spearman's rank correlation, -1 to 1; None where it is not defined (fewer than
            three layers, or one of the two numbers the same everywhere).
        kendall: Kendall's tau-b, -1 to 1; None likewise.
    """

    proxy: Proxy
    pairs: tuple[LayerPair, ...]
    spearman: float | None
    kendall: float | None

    @property
    def worst(self) -> LayerPair | None:
        """The layer whose two ranks lie furthest apart."""
        return max(self.pairs, key=lambda pair: abs(pair.gap), default=None)


def measure_agreement(
    report: ModelReport, sensitivity: SensitivityReport, metric: SensitivityMetric, proxy: Proxy
) -> Agreement:
    """Compare a cheap number with the measured sensitivity, over all layers that have both.

    Both are turned so that more is more sensitive, so +1 is full agreement for every measure and
    direction.
    """
    layers = {layer.name: layer for layer in report.layers}
    sign = sensitivity_sign(sensitivity.direction)
    rows: list[tuple[str, float, float]] = []
    for measured_layer in sensitivity.layers:
        measured = metric.value(measured_layer)
        layer = layers.get(measured_layer.name)
        cheap = None if layer is None else proxy.value(layer)
        if measured is not None and cheap is not None:
            rows.append((measured_layer.name, cheap, measured))
    cheap_values = [cheap for _, cheap, _ in rows]  # a low SQNR is bad: rank 1 is the lowest
    goodness = [-sign * metric.badness(measured) for *_, measured in rows]
    cheap_ranks = rankdata(cheap_values) if rows else []
    measured_ranks = rankdata(goodness) if rows else []
    pairs = tuple(
        LayerPair(name, cheap, measured, float(cheap_rank), float(measured_rank))
        for (name, cheap, measured), cheap_rank, measured_rank in zip(
            rows, cheap_ranks, measured_ranks, strict=True
        )
    )
    is_defined = len(rows) >= _MINIMUM_LAYERS and all(
        len(set(values)) > 1 for values in (cheap_values, goodness)
    )
    if not is_defined:
        return Agreement(proxy, pairs, None, None)
    # Correlating the ranks, not the values, is the same thing and safe with infinite SQNRs.
    rho = float(spearmanr(cheap_ranks, measured_ranks).statistic)
    tau = float(kendalltau(cheap_ranks, measured_ranks).statistic)
    return Agreement(proxy, pairs, rho, tau)


def describe_correlation(value: float | None) -> str:
    """Return a rank correlation in words.

    Example:
        >>> describe_correlation(0.95), describe_correlation(0.1), describe_correlation(None)
        ('nearly the same order', 'hardly related', 'not defined')
    """
    if value is None:
        return "not defined"
    if value < -0.2:
        return "mostly the opposite order"
    steps = ((0.9, "nearly the same order"), (0.7, "a similar order"), (0.4, "a rough hint only"))
    return next((text for limit, text in steps if value >= limit), "hardly related")
