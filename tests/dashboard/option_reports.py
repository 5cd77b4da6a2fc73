"""Sensitivity reports of several options, for tests that need no engine."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

from dashboard.data.sweeps import Sweep
from quant_engine.report import LayerSensitivity, NeighbourComparison, Ranking, SensitivityReport
from tests.dashboard.factories import make_sensitivity


@cache
def make_options(sweep: Sweep) -> SensitivityReport:
    """The usual report, each bit less making ten times the error; every second pair is tied.

    At the narrowest width the order of the layers is turned round.
    """
    plain = make_sensitivity(sweep.direction)
    schemes = sweep.options(plain.recipe) or {}
    options = list(schemes) or [""]
    layers, references, rankings = [], [], []
    for place, option in enumerate(options):
        is_turned = place > 0 and place == len(options) - 1
        found = [_under(x, option, place, is_turned=is_turned) for x in plain.layers]
        layers.append(found)
        references.append(replace(found[0], name="", kl_divergence=10.0 ** (place - 3)))
        sign = 1 if sweep.direction == "one_at_a_time" else -1
        names = [x.name for x in sorted(found, key=lambda x: -sign * (x.kl_divergence or 0.0))]
        comparisons = [
            NeighbourComparison(above, below, 1e-6, (-1e-6, 2e-6), is_tied=index % 2 == 0)
            for index, (above, below) in enumerate(pairwise(names))
        ]
        rankings.append(Ranking(option, tuple(names), tuple(comparisons)))
    return replace(
        plain,
        parts=sweep.parts,
        layers=tuple(layer for group in zip(*layers, strict=True) for layer in group),
        reference=references[0],
        references=tuple(references),
        rankings=tuple(rankings),
        schemes=tuple(schemes.values()),
    )


def _under(
    layer: LayerSensitivity, option: str, place: int, *, is_turned: bool
) -> LayerSensitivity:
    kl = layer.kl_divergence or 0.0
    kl = 1e-4 / (kl + 1e-9) if is_turned else kl * 10**place
    return replace(
        layer,
        option=option or layer.option,
        kl_divergence=kl,
        interval=(0.9 * kl, 1.1 * kl),
        quantized_bytes=max(1, layer.quantized_bytes // (place + 1)),
        value=kl,
    )
