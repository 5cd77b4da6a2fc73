"""Whether a sweep with `precision=` stops the wrong layers, replayed in many orders of the samples.

A full sweep is run once, and what every variant did to each sample is kept. The sweeps that stop
early then run as in the product, but for the model: its answers are taken from what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.registry import Options, register_topic
from benchmarks.topics.sweep_passes import BATCH_SIZE, SPLITS
from quant_engine import PRESETS, Recipe, SensitivityReport, calibrate, measure_sensitivity
from quant_engine.metrics.counts import SampleCounts
from quant_engine.scheme import TensorScheme
from quant_engine.sensitivity import measure as measuring
from quant_engine.variants.executors import run_here
from quant_engine.variants.outcomes import BatchOutcome, Outcome, join_outcomes
from quant_engine.variants.runner import Variant
from sample_models import get_model_info, load_model

RECIPES = {
    "8 bits": PRESETS["int8_per_channel"],
    "4 bits": Recipe(
        TensorScheme(bits=4, granularity="per_channel"), PRESETS["int8_per_channel"].activation
    ),
}
SHARES = (0.3, 0.5, 0.7)
ORDERS = 10
Known: TypeAlias = Mapping[frozenset[tuple[str, str]], Outcome]


@register_topic("stopping")
def measure(options: Options) -> dict[str, dict[str, int | float]]:
    """How often a sweep that stops early stops a layer that it should not, and what it saves."""
    result: dict[str, dict[str, int | float]] = {}
    print(f"\n{ORDERS} orders of the samples each. wrong: stopped, though above the share on all\n")
    print(f"{'sweep':<36}{'stopped':>8}{'wrong':>7}{'the first':>11}{'runs':>7}")
    for name in options.models:
        info, model = get_model_info(name), load_model(name)
        inputs = torch.cat([info.load_inputs(part)[0] for part in SPLITS])
        for bits, recipe in RECIPES.items():
            known, run = record(model, inputs, recipe)
            full = run(list(inputs.split(BATCH_SIZE)), None)
            for share in SHARES:
                found = replay(inputs, known, run, full, share)
                result[f"{name}, {bits}, precision={share:g}"] = found
                print(
                    f"{f'{name}, {bits}, precision={share:g}':<36}{found['stopped']:>8}"
                    f"{found['wrong']:>7}{found['first']:>11}{found['runs']:>7.2f}"
                )
    return result


Run: TypeAlias = Callable[[list[Tensor], float | None], SensitivityReport]


def record(model: nn.Module, inputs: Tensor, recipe: Recipe) -> tuple[Known, Run]:
    """Run a full sweep; return what each variant did to each sample, and a function that sweeps."""
    batches = list(inputs.split(BATCH_SIZE))
    calibration = calibrate(model, batches)
    parts: dict[frozenset[tuple[str, str]], list[Outcome]] = {}

    def run(data: list[Tensor], precision: float | None) -> SensitivityReport:
        return measure_sensitivity(
            model,
            calibration,
            recipe,
            evaluation_data=data,
            with_cumulative=False,
            precision=precision,
        )

    def keep(runner: Any, data: Any, variants: Sequence[Variant], *rest: Any) -> Iterator[Any]:
        for outcome in run_here(runner, data, variants, *rest):
            for variant, answer in zip(variants, outcome.variants, strict=True):
                parts.setdefault(frozenset(variant.items()), []).append(answer)
            yield outcome

    with patch.object(measuring, "run_here", keep):
        run(batches, None)
    return {variant: join_outcomes(found) for variant, found in parts.items()}, run


def replay(
    inputs: Tensor, known: Known, run: Run, full: SensitivityReport, share: float
) -> dict[str, int | float]:
    """Sweep over the samples in several orders; count layers stopped, rightly and wrongly."""
    values = {layer.name: layer.value for layer in full.layers}
    largest = max(values.values())
    stopped = wrong = first = seen = 0
    for seed in range(ORDERS):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
        with patch.object(measuring, "run_here", _answers(known, order)):
            report = run(list(inputs[order].split(BATCH_SIZE)), share)
        early = [layer for layer in report.layers if layer.samples is not None]
        stopped += len(early)
        wrong += sum(values[layer.name] >= share * largest for layer in early)
        first += sum(layer.name == full.rankings[0].layers[0] for layer in early)
        seen += sum(layer.samples or report.samples for layer in report.layers)
    runs = seen / (ORDERS * len(values) * len(inputs))
    return {"stopped": stopped, "wrong": wrong, "first": first, "runs": runs}


def _answers(known: Known, order: Tensor) -> Callable[..., Generator[BatchOutcome, None, None]]:
    """Return what takes the place of running: known answers to the samples in this order."""
    indices = iter(order.split(BATCH_SIZE))

    def answer(
        runner: Any, data: Iterable[Any], variants: Sequence[Variant], *rest: Any
    ) -> Generator[BatchOutcome, None, None]:
        for _batch, rows in zip(data, indices, strict=False):
            yield BatchOutcome(
                tuple(
                    tuple(
                        SampleCounts({name: column[rows.numpy()] for name, column in one.items()})
                        for one in known[frozenset(variant.items())]
                    )
                    for variant in variants
                )
            )

    return answer
