"""Is the prediction right? Predicted beside measured, alone and in random configurations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import nn

from benchmarks.response.samples import RECIPE, Samples, load_samples
from quant_engine import LogitResponse, verify_configurations
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.report import AgreementFigures, AgreementPoint
from quant_engine.response.agreement import compare
from quant_engine.variants.options import bit_options
from sample_models import load_model

BITS = (8, 6, 4)
SINGLE_AIM, RANDOM_AIM = 0.95, 0.9
WEIGHT_NOISE = 1e-3

AGREEMENT_HEAD = (
    "model",
    "bits",
    "single: rank",
    "ratio",
    "random: rank",
    "ratio",
    "plain sum: rank",
    "ratio",
    "repeat: rank",
    "verdict",
    "aim",
)


def agreement_rows(name: str) -> list[list[str]]:
    model, samples = load_model(name), load_samples(name)
    return [_agreement_row(name, str(bits), model, samples, (bits,)) for bits in BITS] + [
        _agreement_row(name, "mixed", model, samples, BITS)
    ]


def _agreement_row(
    name: str, label: str, model: nn.Module, samples: Samples, bits: Sequence[int]
) -> list[str]:
    response = LogitResponse.measure(
        model,
        samples.calibration,
        RECIPE,
        options=bit_options(RECIPE, bits),
        evaluation_data=samples.test,
        agreement_samples=10**6,
    )
    agreement = response.agreement
    single, random = agreement.single, agreement.random
    plain = _plain_sum(response, agreement.random_points)
    repeat = _repeat(model, samples, response, agreement.random_points)
    reached = single.rank_correlation >= SINGLE_AIM and random.rank_correlation >= RANDOM_AIM
    return [
        name,
        label,
        *chain.from_iterable(
            (f"{figures.rank_correlation:.3f}", f"{figures.median_ratio:.2f}")
            for figures in (single, random, plain)
        ),
        f"{repeat:.3f}",
        agreement.level,
        "yes" if reached else "**no**",
    ]


def _plain_sum(response: LogitResponse, points: Sequence[AgreementPoint]) -> AgreementFigures:
    """The same without telling rounding noise apart: every shift counts as certain."""
    arrays = response.arrays
    shifts = [arrays.shift(response.chosen(dict(point.configuration))) for point in points]
    predicted = arrays.degradations(np.stack(shifts))
    return compare([replace(p, predicted=x) for p, x in zip(points, predicted, strict=True)])


def _repeat(
    model: nn.Module, samples: Samples, response: LogitResponse, points: Sequence[AgreementPoint]
) -> float:
    """How well measured values agree with measured values of nearly the same model."""
    generator = torch.Generator().manual_seed(0)
    neighbour = prepare_for(model, samples.calibration)[0].model
    with torch.no_grad():
        for parameter in neighbour.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1.0 + WEIGHT_NOISE * noise)
    again = verify_configurations(
        neighbour,
        samples.calibration,
        response,
        [dict(point.configuration) for point in points],
        evaluation_data=samples.test,
    )
    pairs = zip(points, again, strict=True)
    return compare([replace(p, predicted=s.degradation) for p, s in pairs]).rank_correlation
