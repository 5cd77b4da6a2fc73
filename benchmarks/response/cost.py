"""What does it cost? Time and memory beside an exact sweep over the same options."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.response.choices import make_chooser
from benchmarks.response.samples import RECIPE, load_samples, make_forms
from quant_engine import search_configuration
from quant_engine.judging.describe import describe_judged
from quant_engine.model.batches import iterate_batches
from quant_engine.progress import ProgressMeter
from quant_engine.response.measurement import ResponseMeasurement
from quant_engine.response.outputs import ResponseSettings
from quant_engine.variants.options import bit_options, name_options
from quant_engine.variants.runner import VariantRunner
from sample_models import load_model

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
    model = load_model(name)
    prepared, layers = make_forms(model, samples)
    meter, named = ProgressMeter(None, 0), name_options(bit_options(RECIPE))
    pairs = [{layer: option} for layer in layers.modules for option in named]

    def response(data: Sequence[object] = samples.test) -> None:
        # The passes alone, without the check by running, which is a part of the exact sweep.
        settings = ResponseSettings(32, 16, 16, 1, 0, 0)
        judged = describe_judged(prepared)
        ResponseMeasurement(prepared, layers, named, RECIPE, settings, judged).run(data, meter)

    def sweep(data: Sequence[object] = samples.test) -> None:
        runner = VariantRunner(prepared.model, layers.modules)
        for batch in iterate_batches(data):
            runner.run_each(batch, pairs, lambda _number, _expected, _output: None)

    times = [(_timed(response), _timed(sweep)) for _ in range(3)]
    one_batch = samples.test[:1]
    memory = [_peak_megabytes(partial(task, one_batch)) for task in (response, sweep)]
    whole = make_chooser(load_model(name), samples)
    budget = whole.size(whole.uniform(whole.options[2])).model_bytes
    search_seconds = _timed(lambda: search_configuration(whole, model_bytes=budget))
    scores = _timed(lambda: [whole.score(whole.uniform(whole.options[2])) for _ in range(50)])
    return [
        [
            name,
            f"{len(layers.modules)} × {len(named)}",
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
