"""How far a response can be trusted: its predictions beside runs of the very same model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from quant_engine.report import AgreementFigures, AgreementPoint, ResponseAgreement, ResponseOutput
from quant_engine.report.response import GOOD, POOR, ROUGH, UNKNOWN
from quant_engine.response.trust import describe_region, find_region
from quant_engine.variants.layers import Configuration
from quant_engine.variants.options import FLOAT_OPTION

SINGLE_GOOD = 0.95
RANDOM_GOOD = 0.9
RATIO_GOOD = 1.5
RANK_ROUGH = 0.75
RATIO_ROUGH = 4.0
FEWEST = 8

MOST_SINGLE = 200
MOST_MIXED = 6
"""Options at most that a random configuration mixes, however many there are."""


def draw_single(
    pairs: Sequence[tuple[str, str]], generator: np.random.Generator
) -> list[Configuration]:
    """Return every (layer, option) alone, or some of them at random if there are many."""
    if len(pairs) > MOST_SINGLE:
        chosen = sorted(generator.choice(len(pairs), MOST_SINGLE, replace=False))
        pairs = [pairs[number] for number in chosen]
    return [{layer: option} for layer, option in pairs]


def draw_random(
    layers: Sequence[str], options: Sequence[str], count: int, generator: np.random.Generator
) -> list[Configuration]:
    """Draw configurations from mild to harsh.

    For each one, two to six of the options and "float" are drawn, and every layer takes one of
    them. If every layer could take every option, or half of many, nearly all configurations would
    hold the harshest one somewhere.
    """
    choices = [FLOAT_OPTION, *options]
    drawn: list[Configuration] = []
    for _ in range(count):
        size = int(generator.integers(2, min(len(choices), MOST_MIXED) + 1))
        allowed = generator.choice(len(choices), size, replace=False)
        picks = generator.choice(allowed, len(layers))
        drawn.append({layer: choices[pick] for layer, pick in zip(layers, picks, strict=True)})
    return drawn


def compare(points: Sequence[AgreementPoint]) -> AgreementFigures:
    """Return how predictions and measurements go together.

    Example:
        >>> points = [AgreementPoint((), 1.0, 2.0), AgreementPoint((), 2.0, 4.0)]
        >>> compare(points).median_ratio
        0.5
    """
    predicted = np.array([point.predicted for point in points])
    measured = np.array([point.measured for point in points])
    usable = np.isfinite(predicted) & np.isfinite(measured)
    predicted, measured = predicted[usable], measured[usable]
    rank = ratio = math.nan
    if len(predicted) > 1 and np.ptp(predicted) > 0 and np.ptp(measured) > 0:
        rank = float(np.clip(spearmanr(predicted, measured).statistic, -1.0, 1.0))
    if (measured > 0).any():
        ratio = float(np.median(predicted[measured > 0] / measured[measured > 0]))
    return AgreementFigures(len(predicted), rank, ratio)


def judge(
    single_points: Sequence[AgreementPoint],
    random_points: Sequence[AgreementPoint],
    options: Sequence[str],
    samples: int,
    outputs: Sequence[ResponseOutput] = (),
) -> ResponseAgreement:
    """Compare all points and say in words how far the predictions can be trusted."""
    single, random = compare(single_points), compare(random_points)
    by_option = tuple(
        (name, compare([p for p in single_points if p.configuration[0][1] == name]))
        for name in options
    )
    level = _level(single, random)
    region = find_region((p.predicted, p.measured) for p in (*single_points, *random_points))
    return ResponseAgreement(
        single=single,
        random=random,
        by_option=by_option,
        single_points=tuple(single_points),
        random_points=tuple(random_points),
        samples=samples,
        level=level,
        verdict=_verdict(level, single, random, describe_region(region, outputs)),
    )


def as_pairs(configuration: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return a configuration as pairs (layer, option), float layers left out."""
    return tuple((name, o) for name, o in configuration.items() if o != FLOAT_OPTION)


def _level(single: AgreementFigures, random: AgreementFigures) -> str:
    figures = (single.rank_correlation, random.rank_correlation, random.median_ratio)
    if random.count < FEWEST or any(math.isnan(value) for value in figures):
        return UNKNOWN
    lowest = min(single.rank_correlation, random.rank_correlation)
    off = max(random.median_ratio, 1.0 / max(random.median_ratio, 1e-12))
    is_good = single.rank_correlation >= SINGLE_GOOD and random.rank_correlation >= RANDOM_GOOD
    if is_good and off <= RATIO_GOOD:
        return GOOD
    return ROUGH if lowest >= RANK_ROUGH and off <= RATIO_ROUGH else POOR


def _verdict(level: str, single: AgreementFigures, random: AgreementFigures, region: str) -> str:
    seen = (
        f"Rank correlation with measured values: {single.rank_correlation:.2f} on single layers, "
        f"{random.rank_correlation:.2f} on {random.count} random configurations, where predictions "
        f"are {random.median_ratio:.2f} times what was measured (median)."
    )
    return {
        GOOD: f"Predictions can be relied on for this model. {region} {seen} "
        "Verify what you choose.",
        ROUGH: "Predictions order configurations roughly, and their values may be off. "
        f"{region} {seen} Compare by running, not by prediction, what lies close together.",
        POOR: f"Do not rely on predictions for this model. {seen} Run what you consider.",
        UNKNOWN: "Whether predictions can be relied on is not known: "
        f"{random.count} configurations could be compared, or they did not differ. "
        "Run what you consider.",
    }[level]
