"""Numbers of single layers of the sample models, and what the engine reports of them.

A layer's weight, or what flows into it, is put into a model of one layer and analysed: the report
is that of the Layer page, within milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

import quant_engine
import sample_models
from dashboard.work import service
from quant_engine.report import LayerReport, TensorReport
from quant_engine.scheme import Recipe, TensorScheme

IMAGES = 25
"""Test digits whose numbers are looked at: enough for a histogram, and few enough to be quick."""
MAX_TENSORS = 8
MAX_REPORTS = 64


EVEN = "even"
"""Stands for a model whose weight is made up: 4,096 numbers, evenly spread from -1 to 1."""
EVEN_NUMBERS = 4096


@lru_cache(maxsize=MAX_TENSORS)
def layer_weight(model_name: str, layer: str) -> Tensor:
    """Return the trained weight of a layer, output channels first; not to be changed."""
    if model_name == EVEN:
        return torch.linspace(-1, 1, EVEN_NUMBERS).unsqueeze(0)
    weight = sample_models.load_model(model_name).get_submodule(layer).get_parameter("weight")
    return weight.detach()


@lru_cache(maxsize=MAX_TENSORS)
def layer_input(model_name: str, layer: str) -> Tensor:
    """Return what flows into a layer for `IMAGES` test digits, (images, numbers), in float."""
    model = sample_models.load_model(model_name).eval()
    seen: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().flatten(1))
    )
    images, _ = service.evaluation_batches(model_name)[0]
    with torch.inference_mode():
        model(images[:IMAGES])
    hook.remove()
    return seen[0].clone()


def report_of_weight(weight: Tensor, scheme: TensorScheme) -> TensorReport:
    """Return what the engine reports of a weight.

    Args:
        weight: Output channels first, shape (channels, ...).
        scheme: How to quantize it.
    """
    rows = weight.flatten(1)
    layer = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(rows)
    data = torch.ones(2, rows.shape[1])
    report = _only_layer(layer, data, data, Recipe(weight=scheme, activation=None)).weight
    assert report is not None
    return report


def report_of_input(
    values: Tensor, scheme: TensorScheme, range_of: Tensor | None = None
) -> TensorReport:
    """Return what the engine reports of the input of a layer.

    Args:
        values: What flows in, shape (samples, numbers).
        scheme: How to quantize it.
        range_of: What the range is chosen from, likewise; the values themselves if None.
    """
    layer = nn.Linear(values.shape[1], 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    recipe = Recipe(weight=TensorScheme(), activation=scheme)
    calibration = values if range_of is None else range_of
    report = _only_layer(layer, calibration, values, recipe).input
    assert report is not None
    return report


def _only_layer(
    layer: nn.Module, calibration: Tensor, values: Tensor, recipe: Recipe
) -> LayerReport:
    report = quant_engine.analyze(
        layer, calibration, recipe, evaluation_data=values, measure_time=False
    )
    return report.layers[0]


@lru_cache(maxsize=MAX_REPORTS)
def weight_report(model_name: str, layer: str, scheme: TensorScheme) -> TensorReport:
    """Return what the engine reports of the trained weight of a layer."""
    return report_of_weight(layer_weight(model_name, layer), scheme)


@lru_cache(maxsize=MAX_REPORTS)
def weight_rms_error(model_name: str, layer: str, scheme: TensorScheme) -> float:
    """Return the root mean square error of a layer's weight on one grid from end to end.

    The number that the report's `error.mse` is the square of, without the rest of a report.
    """
    weight = layer_weight(model_name, layer)
    grid = quant_engine.choose_qparams(*torch.aminmax(weight), scheme)
    error = quant_engine.fake_quantize(weight, grid) - weight
    return float(error.double().square().mean().sqrt())


@lru_cache(maxsize=MAX_REPORTS)
def input_report(
    model_name: str, layer: str, scheme: TensorScheme, share: float = 1.0
) -> TensorReport:
    """Return what the engine reports of the input of a layer.

    Args:
        model_name: The sample model.
        layer: Name of the layer.
        scheme: How to quantize its input.
        share: Where the range ends, as a share of the smallest and the largest value.
    """
    values = layer_input(model_name, layer)
    lo, hi = (float(edge) * share for edge in torch.aminmax(values))
    return report_of_input(values, scheme, values.clamp(lo, hi))


@dataclass(frozen=True, slots=True)
class Rounded:
    """Some numbers of a tensor and what its grid makes of them.

    Attributes:
        values: The numbers, the smallest first.
        codes: Their codes.
        stand_ins: What the codes stand for.
    """

    values: tuple[float, ...]
    codes: tuple[int, ...]
    stand_ins: tuple[float, ...]


@lru_cache(maxsize=MAX_REPORTS)
def some_rounded(model_name: str, layer: str, scheme: TensorScheme, count: int) -> Rounded:
    """Return numbers at even ranks of a layer's weight, rounded to its one grid."""
    report = weight_report(model_name, layer, scheme)
    ordered = layer_weight(model_name, layer).flatten().sort().values
    values = ordered[torch.linspace(0, len(ordered) - 1, count).round().long()]
    grid = quant_engine.QParams(
        torch.tensor(report.scale[0]), torch.tensor(report.zero_point[0]), scheme.qmin, scheme.qmax
    )
    codes = quant_engine.quantize(values, grid)
    stand_ins = quant_engine.dequantize(codes, grid)
    return Rounded(*(tuple(found.tolist()) for found in (values, codes, stand_ins)))
