"""Remedies and groups as candidates of each layer: cost, agreement, and what a search gains."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.response.samples import RECIPE, load_samples
from quant_engine import (
    Candidate,
    LayerScheme,
    LogitResponse,
    bit_options,
    in_groups,
    search_configuration,
    treated,
    verify_configurations,
)
from quant_engine.scheme import ADAROUND, BIAS_CORRECTION, GPTQ, OUTPUT_MSE
from sample_models import load_model

BITS = (4, 3)
NARROW = (4, 3, 2)
GROUP = 32

CANDIDATES_HEAD = (
    "model",
    "candidates",
    "options",
    "CPU time, s",
    "single: rank",
    "random: rank",
    "ratio",
    *(
        f"{bits} bits: {what}"
        for bits in BITS
        for what in ("predicted", "measured KL", "accuracy", "layers with a remedy, in groups")
    ),
)


def candidates_rows(name: str) -> list[list[str]]:
    model, samples = load_model(name), load_samples(name)
    rows = []
    for label, options in candidate_sets().items():
        start = time.process_time()
        response = LogitResponse.measure(  # has never seen the test set
            *(model, samples.calibration, RECIPE), options=options, agreement_samples=100
        )
        seconds = time.process_time() - start
        agreement = response.agreement
        found = [
            search_configuration(response, model_bytes=_uniform_bytes(response, bits)).as_dict()
            for bits in BITS
        ]
        measured = verify_configurations(
            *(model, samples.calibration, response, found), evaluation_data=samples.test
        )
        row = [
            *(name, label, str(len(options)), f"{seconds:.1f}"),
            f"{agreement.single.rank_correlation:.3f}",
            f"{agreement.random.rank_correlation:.3f}",
            f"{agreement.random.median_ratio:.2f}",
        ]
        for configuration, score in zip(found, measured, strict=True):
            chosen = [response.candidates[option] for option in configuration.values()]
            with_remedy = sum(bool(candidate.remedies) for candidate in chosen)
            in_group = sum(c.scheme.weight.group_size is not None for c in chosen)
            predicted = response.score(configuration).degradation
            row += [f"{predicted:.1e}", f"{score.degradation:.1e}", f"{score.accuracy:.1%}"]
            row += [f"{with_remedy}, {in_group} of {len(chosen)}"]
        rows.append(row)
    return rows


def candidate_sets() -> dict[str, Mapping[str, LayerScheme | Candidate]]:
    """Return what a layer can be, by name; every set holds the one before it."""
    plain, narrow = bit_options(RECIPE), bit_options(RECIPE, NARROW)
    gptq = {**plain, **treated(narrow, GPTQ)}
    bias = {**gptq, **treated(narrow, BIAS_CORRECTION), **treated(narrow, GPTQ, BIAS_CORRECTION)}
    ranges = {**bias, **treated(narrow, OUTPUT_MSE), **treated(narrow, OUTPUT_MSE, GPTQ)}
    groups = in_groups(narrow, GROUP)
    grouped = {**ranges, **groups, **treated(groups, GPTQ)}
    return {
        "rounding": plain,
        "and GPTQ": gptq,
        "and bias correction": bias,
        "and narrow ranges": ranges,
        f"and groups of {GROUP}": grouped,
        "and AdaRound": {**grouped, **treated(narrow, ADAROUND)},
    }


def _uniform_bytes(response: LogitResponse, bits: int) -> int:
    (option,) = bit_options(RECIPE, (bits,))
    return response.size(response.uniform(option)).model_bytes
