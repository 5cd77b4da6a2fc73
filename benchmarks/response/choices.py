"""Does it choose well? Its choices beside uniform bits and greedy ones, for three budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.response.samples import RECIPE, Samples, load_samples, make_forms
from quant_engine import (
    ConfigurationScore,
    LogitResponse,
    search_configuration,
    verify_configurations,
)
from quant_engine.metrics.energies import ErrorStats
from quant_engine.variants.options import OPTION_BITS, bit_options
from sample_models import load_model

BUDGET_BITS = (6, 4, 3)

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
    response = make_chooser(model, samples)
    noise = _local_noise(model, samples)
    rows = []
    for bits in BUDGET_BITS:
        uniform = response.uniform(response.options[OPTION_BITS.index(bits)])
        budget = response.size(uniform).model_bytes
        chosen = search_configuration(response, model_bytes=budget)
        greedy = _greedy(response, noise, budget)
        compared = [uniform, greedy, chosen.as_dict()]
        run = partial(verify_configurations, model, samples.calibration, response, compared)
        unseen, seen = run(evaluation_data=samples.test), run()
        rows.append(
            [
                name,
                f"{bits} bits",
                f"{budget / 1e3:.1f}",
                *(figure for score in unseen for figure in _figures(score)),
                _beaten(*unseen),
                f"{chosen.predicted.degradation:.1e}",
                *(f"{score.degradation:.1e}" for score in seen),
                _beaten(*seen),
            ]
        )
    return rows


def _beaten(
    uniform: ConfigurationScore, by_noise: ConfigurationScore, by_response: ConfigurationScore
) -> str:
    others = {"uniform": uniform.degradation, "local SQNR": by_noise.degradation}
    beaten = [
        label for label, degradation in others.items() if by_response.degradation < degradation
    ]
    equal = [
        label for label, degradation in others.items() if by_response.degradation == degradation
    ]
    if len(beaten) == 2:
        return "both"
    won = beaten[0] if beaten else "neither"
    return f"**{won}**" + (f" (equals {' and '.join(equal)})" if equal else "")


def make_chooser(model: nn.Module, samples: Samples) -> LogitResponse:
    """A response that has never seen the test set."""
    return LogitResponse.measure(
        model,
        samples.calibration,
        RECIPE,
        options=bit_options(RECIPE),
        agreement_configurations=8,
        agreement_samples=1,
    )


def _figures(score: ConfigurationScore) -> tuple[str, str]:
    assert score.accuracy is not None
    return f"{score.degradation:.1e}", f"{score.accuracy:.1%}"


def _local_noise(model: nn.Module, samples: Samples) -> dict[tuple[str, str], float]:
    """NMSE of every layer's output, quantized and fed its float input."""
    prepared, made = make_forms(model, samples)
    forms = made.quantized
    stats = {(layer, option): ErrorStats() for layer in forms for option in made.options}

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
