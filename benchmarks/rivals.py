"""Layer sensitivity by other tools, on the same model and data in one run: time and ranking.

ModelOpt and AIMET need an environment of their own, the one that `benchmarks/oracles.py` says how
to make:

    PYTHONPATH=. oracles/bin/python -m benchmarks.rivals --models resnet encoder

A tool that is not installed is left out and named. All work on the same copy with BatchNorms
folded, int8 weights per channel and int8 inputs per tensor, as far as each tool can. What is
compared is the order of layers: Spearman's correlation with the KL divergences of the exact sweep.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks.measure import measure_in_turn
from benchmarks.networks import Encoder, seeded
from quant_engine import PRESETS, LogitResponse, measure_sensitivity
from quant_engine.metrics.functions import kl_divergence
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.scheme import LayerScheme
from sample_models import get_model_info, load_model

RECIPE = PRESETS["int8_per_channel"]
EXACT = "exact sweep"
PRECISE = "exact sweep, precision 0.5"
RESPONSE = "logit response"
FEW = "logit response, 1 + 2 directions"
CHECKED = 10  # samples on which the response checks itself by running
MODELOPT = "modelopt"
AIMET = "aimet_torch"
FIRST_LINE = ("scores of", "seconds", "cpu, of sweep", "rank")

Scores = Mapping[str, float]
Task = Callable[[], Scores]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=100)
    parsed = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # of the other tools
    logging.disable(logging.WARNING)
    for name in parsed.models:
        model, inputs = MODELS[name](parsed.samples)
        batches = list(inputs.split(parsed.batch_size))
        compare(name, prepare_for(model, batches)[0].model, batches, parsed.rounds)


def compare(name: str, model: nn.Module, batches: list[Tensor], rounds: int) -> None:
    """Time every tool's scores of one model in turn, and print their ranks."""
    tasks, missing = make_tasks(model, batches)
    scores: dict[str, Scores] = {}

    def keep(task: str) -> None:
        scores[task] = tasks[task]()

    measured = measure_in_turn({t: partial(keep, t) for t in tasks}, EXACT, rounds)
    exact = scores[EXACT]
    samples = sum(map(len, batches))
    print(f"\n{name}: {len(exact)} layers, {samples} samples; not installed: {missing or 'none'}\n")
    print("| {} | {} | {} | {} |\n|---|---|---|---|".format(*FIRST_LINE))
    for task, found in measured.items():
        shared = [layer for layer in exact if layer in scores[task]]
        rank = spearmanr([exact[n] for n in shared], [scores[task][n] for n in shared]).statistic
        few = "" if len(shared) == len(exact) else f" ({len(shared)} layers)"
        ratio = found.cpu_ratio
        print(
            f"| {task} | {found.seconds.median:.2f} | {ratio.median:.2f} "
            f"({ratio.q1:.2f} to {ratio.q3:.2f}) | {rank:.3f}{few} |"
        )


def make_tasks(model: nn.Module, batches: list[Tensor]) -> tuple[dict[str, Task], list[str]]:
    """Return what is timed, each from float model and data to scores; and what is missing."""
    tasks: dict[str, Task] = {
        EXACT: lambda: by_sweep(model, batches),
        PRECISE: lambda: by_sweep(model, batches, precision=0.5),
        RESPONSE: lambda: by_response(model, batches),
        FEW: lambda: by_response(model, batches, classes=2, top_k=1, projections=2),
    }
    rivals: dict[str, dict[str, Task]] = {
        MODELOPT: {
            "ModelOpt, gradients": lambda: by_modelopt(model, batches, "gradient"),
            "ModelOpt, KL divergence": lambda: by_modelopt(model, batches, "kl_div"),
        },
        AIMET: {"AIMET, layers enabled": lambda: by_aimet(model, batches)},
    }
    missing = [package for package in rivals if importlib.util.find_spec(package) is None]
    for package, theirs in rivals.items():
        if package not in missing:
            tasks |= theirs
    return tasks, missing


def by_sweep(model: nn.Module, batches: list[Tensor], precision: float | None = None) -> Scores:
    report = measure_sensitivity(model, batches, RECIPE, with_cumulative=False, precision=precision)
    return {layer.name: layer.value for layer in report.layers}


def by_response(model: nn.Module, batches: list[Tensor], **directions: int) -> Scores:
    """With its smallest check by running: one configuration, and layers by themselves, on a batch.

    That runs whole batches, so the first one is cut in two.
    """
    first, rest = batches[0].split([CHECKED, len(batches[0]) - CHECKED])
    response = LogitResponse.measure(
        *(model, [first, rest, *batches[1:]], RECIPE),
        options=[LayerScheme(RECIPE.weight, RECIPE.activation)],
        agreement_configurations=1,
        agreement_samples=1,
        **directions,
    )
    names = [layer.name for layer in response.report.layers]
    values = response.degradations([[(index, 0)] for index in range(len(names))])
    return dict(zip(names, map(float, values), strict=True))


def by_modelopt(model: nn.Module, batches: list[Tensor], method: str) -> Scores:
    """AutoQuantize's scores, of which the choice that follows them is a small part."""
    quantization = importlib.import_module("modelopt.torch.quantization")
    with torch.no_grad():
        loader = [(batch, model(batch).softmax(-1)) for batch in batches]

    def loss(output: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
        return -(data[1] * output.log_softmax(-1)).sum(-1).mean()

    own = {"loss_func": loss} if method == "gradient" else {}
    _, state = quantization.auto_quantize(
        copy.deepcopy(model).requires_grad_(True),
        constraints={"effective_bits": 8.0},
        quantization_formats=[quantization.INT8_DEFAULT_CFG],
        data_loader=loader,
        forward_step=lambda run, data: run(data[0]),
        disabled_layers=[],
        num_calib_steps=len(loader),
        num_score_steps=len(loader),
        method=method,
        **own,
    )
    found: dict[str, float] = {}
    for entry in state["candidate_stats"].values():
        score = max(entry["scores"])  # of int8; the other candidate leaves it float and scores 0
        found |= {layer: float(score) for layer in entry["module_names"]}
    return found


def by_aimet(model: nn.Module, batches: list[Tensor]) -> Scores:
    """The degradation with one layer's quantizers enabled, of those that AIMET gives the layer."""
    analyzers: Any = importlib.import_module("aimet_torch.quant_analyzer")
    common = importlib.import_module("aimet_torch.common.defs")
    own = copy.deepcopy(model)
    with torch.no_grad():
        expected = [model(batch) for batch in batches]

    @torch.no_grad()
    def degradation(run: nn.Module, _: object = None) -> float:
        parts = [kl_divergence(x, run(b)) for x, b in zip(expected, batches, strict=True)]
        return float(torch.as_tensor(parts).mean())

    @torch.no_grad()
    def calibrate(run: nn.Module, _: object = None) -> None:
        for batch in batches:
            run(batch)

    analyzer = analyzers.QuantAnalyzer(
        own,
        batches[0],
        common.CallbackFunc(calibrate, None),
        common.CallbackFunc(degradation, None),
    )
    sim = analyzer._create_quantsim_and_encodings(common.QuantScheme.post_training_tf, 8, 8, None)
    with tempfile.TemporaryDirectory() as folder:
        found = analyzer.perform_per_layer_analysis_by_enabling_quant_wrappers(sim, folder)
    return {name: float(value) for name, value in found.items()}


def _resnet(samples: int) -> tuple[nn.Module, Tensor]:
    return load_model("resnet"), get_model_info("resnet").load_inputs("test")[0][:samples]


def _encoder(samples: int, classes: int = 1000) -> tuple[nn.Module, Tensor]:
    model = seeded(Encoder)
    assert isinstance(model, Encoder)
    if classes != model.head.out_features:
        model.head = nn.Linear(model.head.in_features, classes)
    generator = torch.Generator().manual_seed(0)
    return model.eval(), torch.randn((samples, 64, 384), generator=generator)


MODELS: Mapping[str, Callable[[int], tuple[nn.Module, Tensor]]] = {
    "resnet": _resnet,
    "encoder": partial(_encoder, classes=10),
    "encoder, 1,000 classes": _encoder,
}


if __name__ == "__main__":
    main()
