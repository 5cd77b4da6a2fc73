"""Proxy metrics, one number per layer, and how well they agree with the measured sensitivity.

The SQNR of a weight, or of one layer's output, comes almost free with an analysis. Whether it
predicts what a layer does to the model's output is a question for each model: the rank
correlation answers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import kendalltau, rankdata, spearmanr

from dashboard.data.prediction import Prediction
from dashboard.facts.columns import columns
from dashboard.facts.outputs import measure_of
from dashboard.facts.sensitivity.metrics import SensitivityMetric
from dashboard.facts.sensitivity.ranking import sensitivity_sign
from dashboard.words.formatting import format_db
from quant_engine.report import LayerReport, ModelReport, SensitivityReport
from quant_engine.scheme import Recipe
from quant_engine.sensitivity import LEAVE_ONE_OUT

_MINIMUM_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Proxy:
    """A number for each layer that is known without running the model under each of them.

    Attributes:
        key: Short name.
        label: Name shown to people.
        about: What it measures.
        value: Returns a layer's number, or None where there is none.
        column: Name of the number in data, with its unit.
        first: What the layer that it calls most sensitive has.
        is_low_worst: Whether a low number means a sensitive layer.
        format: Returns a number with its unit.
    """

    key: str
    label: str
    about: str
    value: Callable[[LayerReport], float | None]
    column: str
    first: str = "lowest SQNR"
    is_low_worst: bool = True
    format: Callable[[float | None], str] = format_db


PROXIES: dict[str, Proxy] = {
    key: Proxy(key, column.name, column.about, column.read, column.key)
    for key in ("local", "weight", "input")
    for column in columns(f"{key}_sqnr_db")
}
"""Every number that an analysis gives by itself, by its key, the usual choice first."""


def predicted_proxy(prediction: Prediction, recipe: Recipe, direction: str) -> Proxy:
    """Return what a prediction says about each layer of a recipe, as one more proxy metric.

    Single-layer, the degradation by the layer alone; leave-one-out, the degradation that is left
    without it.
    """
    own, _ = prediction.configuration_of(recipe)
    is_left_out = direction == LEAVE_ONE_OUT
    degradations = {name: prediction.alone[name, option] for name, option in own.items()}
    if is_left_out:
        others = {name: {k: o for k, o in own.items() if k != name} for name in own}
        degradations = {name: prediction.score(rest).degradation for name, rest in others.items()}
    measure = measure_of(prediction)
    what = "all layers quantized but this one" if is_left_out else "only this layer quantized"
    return Proxy(
        "predicted",
        f"Predicted {measure.short}",
        f"Predicted from one set of backward passes with {what}.",
        lambda layer: degradations.get(layer.name),
        f"predicted_{measure.column}",
        f"{'lowest' if is_left_out else 'highest'} predicted {measure.short}",
        is_left_out,
        measure.text,
    )


@dataclass(frozen=True, slots=True)
class LayerPair:
    """One layer's proxy metric beside its measured one.

    Attributes:
        name: Name of the layer.
        proxy_value: The proxy metric, in its own unit.
        measured: The measured one, in the measure's own unit.
        proxy_rank: 1 for the layer the proxy metric calls most sensitive; equal values share the
            mean of their ranks.
        measured_rank: 1 for the layer measured as most sensitive.
    """

    name: str
    proxy_value: float
    measured: float
    proxy_rank: float
    measured_rank: float

    @property
    def gap(self) -> float:
        """Places by which the proxy metric is off; positive where it makes too little of it."""
        return self.proxy_rank - self.measured_rank


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one proxy metric orders the layers.

    Attributes:
        proxy: The proxy metric.
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
    """Compare a proxy metric with the measured sensitivity, over all layers that have both.

    Both are turned so that more is more sensitive, so +1 is full agreement for every measure and
    direction.
    """
    layers = {layer.name: layer for layer in report.layers}
    sign = sensitivity_sign(sensitivity.direction)
    rows: list[tuple[str, float, float]] = []
    for measured_layer in sensitivity.layers:
        measured = metric.value(measured_layer)
        layer = layers.get(measured_layer.name)
        proxy_value = None if layer is None else proxy.value(layer)
        if measured is not None and proxy_value is not None:
            rows.append((measured_layer.name, proxy_value, measured))
    turn = 1 if proxy.is_low_worst else -1
    proxy_values = [turn * proxy_value for _, proxy_value, _ in rows]  # rank 1 is the lowest
    goodness = [-sign * metric.badness(measured) for *_, measured in rows]
    proxy_ranks, measured_ranks = rankdata(proxy_values), rankdata(goodness)
    pairs = tuple(
        LayerPair(*row, float(proxy_rank), float(measured_rank))
        for row, proxy_rank, measured_rank in zip(rows, proxy_ranks, measured_ranks, strict=True)
    )
    is_defined = len(rows) >= _MINIMUM_LAYERS and all(
        len(set(values)) > 1 for values in (proxy_values, goodness)
    )
    if not is_defined:
        return Agreement(proxy, pairs, None, None)
    # Correlating the ranks, not the values, is the same thing and safe with infinite SQNRs.
    rho = float(spearmanr(proxy_ranks, measured_ranks).statistic)
    tau = float(kendalltau(proxy_ranks, measured_ranks).statistic)
    return Agreement(proxy, pairs, rho, tau)


def describe_correlation(value: float | None) -> str:
    """Return a rank correlation in words.

    Example:
        >>> describe_correlation(0.95), describe_correlation(0.1), describe_correlation(None)
        ('nearly the same order', 'hardly related', 'not defined')
        >>> describe_correlation(-0.95), describe_correlation(-0.1)
        ('nearly the opposite order', 'hardly related')
    """
    if value is None:
        return "not defined"
    steps = (
        (0.9, "nearly the same order", "nearly the opposite order"),
        (0.7, "a similar order", "mostly the opposite order"),
        (0.4, "a rough hint only", "a rough hint of the opposite order"),
    )
    for limit, same, opposite in steps:
        if abs(value) >= limit:
            return same if value > 0 else opposite
    return "hardly related"


def correlation_text(value: float | None) -> str:
    """Return a correlation with two decimals and its sign.

    Example:
        >>> correlation_text(0.931), correlation_text(-0.2), correlation_text(None)
        ('+0.93', '−0.20', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:+.2f}".replace("-", "−")
