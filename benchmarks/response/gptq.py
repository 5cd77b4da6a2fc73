"""Rounding by GPTQ as a candidate of each layer: cost, agreement, and what a search gains by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from benchmarks.response.samples import OPTION_BITS, RECIPE, load_samples
from quant_engine import (
    LogitResponse,
    bit_options,
    by_gptq,
    search_configuration,
    verify_configurations,
)
from sample_models import load_model

T = TypeVar("T")

BITS = (4, 3)
GPTQ_BITS = (8, 4, 3, 2)

GPTQ_HEAD = (
    "model",
    "bytes of",
    "added time, float passes",
    "single: rank",
    "ratio",
    "random: rank",
    "ratio",
    "uniform: KL",
    "uniform, GPTQ: KL",
    "search, rounding only: predicted",
    "measured",
    "search with GPTQ: predicted",
    "measured",
    "layers by GPTQ",
)


def gptq_rows(name: str) -> list[list[str]]:
    model, samples = load_model(name), load_samples(name)
    plain = bit_options(RECIPE, OPTION_BITS)
    both = {**plain, **by_gptq(bit_options(RECIPE, GPTQ_BITS))}

    def measure(options: object) -> LogitResponse:
        return LogitResponse.measure(  # has never seen the test set
            *(model, samples.calibration, RECIPE),
            options=options,
            agreement_configurations=1,
            agreement_samples=1,
        )

    def run_float() -> None:
        with torch.no_grad():
            for inputs, _ in samples.calibration:
                model(inputs)

    added = []
    for _ in range(3):
        chooser, seconds = _timed(lambda: measure(both))
        rounded, seconds_without = _timed(lambda: measure(plain))
        added.append(seconds - seconds_without)
    passes = np.median(added) / np.median([_timed(run_float)[1] for _ in range(9)])
    rows = []
    for bits in BITS:
        narrow = bit_options(RECIPE, (bits,))
        checked = LogitResponse.measure(
            *(model, samples.calibration, RECIPE),
            options={**narrow, **by_gptq(narrow)},
            evaluation_data=samples.test,
            agreement_samples=10**6,
        ).agreement
        (option,) = narrow
        uniform, by = (chooser.uniform(o) for o in (option, *by_gptq(narrow)))
        budget = chooser.size(uniform).model_bytes
        found = [search_configuration(r, model_bytes=budget) for r in (rounded, chooser)]
        scores = verify_configurations(
            model,
            samples.calibration,
            chooser,
            [uniform, by, *(point.as_dict() for point in found)],
            evaluation_data=samples.test,
        )
        kl = [f"{score.degradation:.1e}" for score in scores]
        treated = sum(option in by_gptq(plain) for _, option in found[1].configuration)
        rows.append(
            [
                name,
                f"{bits} bits",
                f"{passes:.0f}",
                f"{checked.single.rank_correlation:.3f}",
                f"{checked.single.median_ratio:.2f}",
                f"{checked.random.rank_correlation:.3f}",
                f"{checked.random.median_ratio:.2f}",
                *kl[:2],
                f"{found[0].predicted.degradation:.1e}",
                kl[2],
                f"{found[1].predicted.degradation:.1e}",
                kl[3],
                f"{treated} of {len(found[1].configuration)}",
            ]
        )
    return rows


def _timed(task: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    result = task()
    return result, time.process_time() - start
