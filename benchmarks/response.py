"""`python -m benchmarks.response`: is the logit response right, fast, and a good adviser?

With `--write docs/sensitivity.md` the tables go between the markers of that page.
"""

from __future__ import annotations

import argparse
import gc
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from quant_engine import (
    ConfigurationScore,
    LogitResponse,
    Recipe,
    search_configuration,
    verify_configurations,
)
from quant_engine.batches import iterate_batches
from quant_engine.calibration import calibrate_prepared
from quant_engine.option_layers import ConfigurationRunner, build_option_layers
from quant_engine.options import bit_options
from quant_engine.preparation import prepare
from quant_engine.progress import ProgressMeter
from quant_engine.report import AgreementPoint
from quant_engine.response_measurement import ResponseMeasurement, ResponseSettings
from quant_engine.statistics import ErrorStats
from sample_models import get_model_info, list_models, load_model

RECIPE = Recipe.default()
BITS = (8, 6, 4)
OPTION_BITS = (8, 6, 4, 3, 2)
BUDGET_BITS = (6, 4, 3)
BATCH = 100
SINGLE_AIM, RANDOM_AIM = 0.95, 0.9
WEIGHT_NOISE = 1e-3


@dataclass(frozen=True)
class Samples:
    """Data of one model: ranges come from `calibration`, figures from `test`."""

    calibration: list[tuple[Tensor, Tensor]]
    test: list[tuple[Tensor, Tensor]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list_models(), help="default: all")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    names = ["agreement", "cost", "budgets"]
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="tables to make")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    makers = {
        "agreement": (agreement_rows, AGREEMENT_HEAD),
        "cost": (cost_rows, COST_HEAD),
        "budgets": (budget_rows, BUDGET_HEAD),
    }
    tables = {
        name: _table(*makers[name], options.models) for name in makers if name in options.only
    }
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        for name, table in tables.items():
            marker = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            page = re.sub(marker, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL)
        options.write.write_text(page, encoding="utf-8")


def _table(
    rows: Callable[[str], list[list[str]]], head: Sequence[str], models: Sequence[str]
) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    print("\n".join(lines))
    for model in models:
        for row in rows(model):
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    print()
    return "\n".join(lines)


def load_samples(model: str) -> Samples:
    info = get_model_info(model)

    def batches(split: str) -> list[tuple[Tensor, Tensor]]:
        inputs, labels = info.load_inputs(split)
        return list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))

    return Samples(batches("calibration"), batches("test"))


# Is it right?

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
    measured = [point.measured for point in agreement.random_points]
    plain_rank, plain_ratio = _plain_sum(response, agreement.random_points)
    repeat = _repeat(model, samples, response, agreement.random_points, measured)
    reached = single.rank_correlation >= SINGLE_AIM and random.rank_correlation >= RANDOM_AIM
    return [
        name,
        label,
        f"{single.rank_correlation:.3f}",
        f"{single.median_ratio:.2f}",
        f"{random.rank_correlation:.3f}",
        f"{random.median_ratio:.2f}",
        f"{plain_rank:.3f}",
        f"{plain_ratio:.2f}",
        f"{repeat:.3f}",
        agreement.level,
        "yes" if reached else "**no**",
    ]


def _plain_sum(response: LogitResponse, points: Sequence[AgreementPoint]) -> tuple[float, float]:
    """The same without telling rounding noise apart: every shift counts as certain."""
    arrays = response.arrays
    shifts = [arrays.shift(response.chosen(dict(point.configuration))) for point in points]
    predicted = arrays.harms(np.stack(shifts))
    measured = np.array([point.measured for point in points])
    known = measured > 0
    ratio = float(np.median(predicted[known] / measured[known]))
    return float(spearmanr(predicted, measured).statistic), ratio


def _repeat(
    model: nn.Module,
    samples: Samples,
    response: LogitResponse,
    points: Sequence[AgreementPoint],
    measured: Sequence[float],
) -> float:
    """How well measured values agree with measured values of nearly the same model."""
    generator = torch.Generator().manual_seed(0)
    neighbour = prepare(model).model
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
    return float(spearmanr([score.harm for score in again], measured).statistic)


# What does it cost?

COST_HEAD = (
    "model",
    "layers × options",
    "response, s",
    "exact sweep, s",
    "time ratio",
    "response, MB",
    "exact sweep, MB",
    "memory ratio",
    "search, s",
    "score, ms",
)


def cost_rows(name: str) -> list[list[str]]:
    samples = load_samples(name)
    prepared = prepare(load_model(name))
    meter = ProgressMeter(None, 0)
    named = bit_options(RECIPE, OPTION_BITS)
    calibration = calibrate_prepared(prepared, samples.calibration, RECIPE, meter)
    layers = build_option_layers(prepared, named, calibration, RECIPE, meter)
    pairs = [{layer: option} for layer in layers.forms for option in named]

    def response(data: Sequence[object] = samples.test) -> None:
        # The passes alone, without the check by running, which is a part of the exact sweep.
        settings = ResponseSettings(32, 16, 16, 1, 0, 0)
        ResponseMeasurement(prepared, layers, named, settings).run(data, meter)

    def sweep(data: Sequence[object] = samples.test) -> None:
        runner = ConfigurationRunner(prepared.model, layers.forms)
        for batch in iterate_batches(data):
            runner.run(batch, pairs, lambda _expected, _output: None)

    times = [(_timed(response), _timed(sweep)) for _ in range(3)]
    one_batch = samples.test[:1]
    memory = [_peak_megabytes(partial(task, one_batch)) for task in (response, sweep)]
    whole = _chooser(load_model(name), samples)
    budget = whole.size(whole.uniform(whole.options[2])).model_bytes
    search_seconds = _timed(lambda: search_configuration(whole, model_bytes=budget))
    scores = _timed(lambda: [whole.score(whole.uniform(whole.options[2])) for _ in range(50)])
    return [
        [
            name,
            f"{len(layers.forms)} × {len(named)}",
            f"{np.median([first for first, _ in times]):.2f}",
            f"{np.median([second for _, second in times]):.2f}",
            f"{np.median([first / second for first, second in times]):.2f}",
            f"{memory[0]:.1f}",
            f"{memory[1]:.1f}",
            f"{memory[0] / memory[1]:.2f}",
            f"{search_seconds:.1f}",
            f"{scores / 50 * 1e3:.1f}",
        ]
    ]


def _timed(task: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _peak_megabytes(task: Callable[[], object]) -> float:
    """Return the most memory that tensors made by the task held at one time."""
    gc.collect()
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        task()
    events = profile.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return float(np.max(np.cumsum([size for _, size in changes]), initial=0.0)) / 1e6


# Does it choose well?

BUDGET_HEAD = (
    "model",
    "bytes of",
    "kB",
    "uniform: KL",
    "accuracy",
    "local SQNR: KL",
    "accuracy",
    "response: KL",
    "accuracy",
    "wins over",
    "seen samples: predicted",
    "uniform",
    "local SQNR",
    "response",
    "wins over",
)


def budget_rows(name: str) -> list[list[str]]:
    model, samples = load_model(name), load_samples(name)
    response = _chooser(model, samples)
    noise = _local_noise(model, samples, response)
    rows = []
    for bits in BUDGET_BITS:
        uniform = response.uniform(response.options[OPTION_BITS.index(bits)])
        budget = response.size(uniform).model_bytes
        chosen = search_configuration(response, model_bytes=budget)
        greedy = _greedy(response, noise, budget)
        plain, by_noise, by_response = verify_configurations(
            model,
            samples.calibration,
            response,
            [uniform, greedy, chosen.as_dict()],
            evaluation_data=samples.test,
        )
        seen = verify_configurations(
            model, samples.calibration, response, [uniform, greedy, chosen.as_dict()]
        )
        rows.append(
            [
                name,
                f"{bits} bits",
                f"{budget / 1e3:.1f}",
                *_figures(plain),
                *_figures(by_noise),
                *_figures(by_response),
                _beaten(plain, by_noise, by_response),
                f"{chosen.predicted.harm:.1e}",
                *(f"{score.harm:.1e}" for score in seen),
                _beaten(*seen),
            ]
        )
    return rows


def _beaten(
    uniform: ConfigurationScore, by_noise: ConfigurationScore, by_response: ConfigurationScore
) -> str:
    others = {"uniform": uniform.harm, "local SQNR": by_noise.harm}
    beaten = [label for label, harm in others.items() if by_response.harm < harm]
    equal = [label for label, harm in others.items() if by_response.harm == harm]
    if len(beaten) == 2:
        return "both"
    won = beaten[0] if beaten else "neither"
    return f"**{won}**" + (f" (equals {' and '.join(equal)})" if equal else "")


def _chooser(model: nn.Module, samples: Samples) -> LogitResponse:
    """A response that has never seen the test set."""
    return LogitResponse.measure(
        model,
        samples.calibration,
        RECIPE,
        options=bit_options(RECIPE, OPTION_BITS),
        agreement_configurations=8,
        agreement_samples=1,
    )


def _figures(score: ConfigurationScore) -> tuple[str, str]:
    assert score.accuracy is not None
    return f"{score.harm:.1e}", f"{score.accuracy:.1%}"


def _local_noise(
    model: nn.Module, samples: Samples, response: LogitResponse
) -> dict[tuple[str, str], float]:
    """NMSE of every layer's output, quantized and fed its float input."""
    prepared, meter = prepare(model), ProgressMeter(None, 0)
    calibration = calibrate_prepared(prepared, samples.calibration, RECIPE, meter)
    named = {option.name: option.scheme for option in response.report.options}
    forms = build_option_layers(prepared, named, calibration, RECIPE, meter).forms
    stats = {(layer, option): ErrorStats() for layer in forms for option in named}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            for option, form in forms[name].items():
                stats[name, option].update(output, form(*args))

        return hook

    for name in forms:
        prepared.model.get_submodule(name).register_forward_hook(watch(name))
    with torch.no_grad():
        for inputs, _ in samples.calibration:
            prepared.model(inputs)
    return {key: found.metrics().nmse for key, found in stats.items()}


def _greedy(
    response: LogitResponse, noise: Mapping[tuple[str, str], float], budget: int
) -> dict[str, str]:
    """Begin at 8 bits; narrow where a byte saved costs least local noise, until it fits."""
    options = list(response.options)
    places = dict.fromkeys(response.layers, 0)

    def size(at: Mapping[str, int]) -> int:
        return response.size({layer: options[p] for layer, p in at.items()}).model_bytes

    while (now := size(places)) > budget:
        steps = []
        for layer, place in places.items():
            for lower in range(place + 1, len(options)):
                saved = now - size({**places, layer: lower})
                if saved > 0:
                    added = noise[layer, options[lower]] - noise[layer, options[place]]
                    steps.append((added / saved, layer, lower))
        _, layer, lower = min(steps)
        places[layer] = lower
    return {layer: options[place] for layer, place in places.items()}


if __name__ == "__main__":
    main()
