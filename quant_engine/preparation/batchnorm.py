"""Folding BatchNorms into the layers before them, wherever the graph of the model allows it.

In eval mode a BatchNorm multiplies each channel by γ / √(variance + ε) and adds an offset (Ioffe
and Szegedy, "Batch Normalization", 2015). The weight and bias of the convolution or linear layer
before it can take both on, if nothing else reads that layer's output.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from quant_engine.graph.layer_calls import LAYERS, LINEAR, TRANSPOSED, LayerCalls, value_readers
from quant_engine.graph.nodes import module_path, source_of
from quant_engine.model.modules import (
    count_parameter_uses,
    has_hooks,
    has_own_forward,
    named_parameters_of,
    replace_modules,
)

aten = torch.ops.aten
_RESHAPING = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)
_PLAIN: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.Conv1d: (nn.BatchNorm1d, nn.SyncBatchNorm),
    nn.Conv2d: (nn.BatchNorm2d, nn.SyncBatchNorm),
    nn.Conv3d: (nn.BatchNorm3d, nn.SyncBatchNorm),
    nn.ConvTranspose1d: (nn.BatchNorm1d, nn.SyncBatchNorm),
    nn.ConvTranspose2d: (nn.BatchNorm2d, nn.SyncBatchNorm),
}


@dataclass(frozen=True, slots=True)
class Folding:
    """A BatchNorm and the layer that takes it on.

    Attributes:
        batchnorm: Name of the BatchNorm.
        layer: Name of the layer before it.
        is_transposed: Whether the layer is a transposed convolution.
    """

    batchnorm: str
    layer: str
    is_transposed: bool = False


def has_batchnorm(model: nn.Module) -> bool:
    """Whether a model holds BatchNorms with statistics of their own."""
    return any(isinstance(module, _NormBase) for module in model.modules())


def find_foldings(
    model: nn.Module, graph: fx.GraphModule
) -> tuple[tuple[Folding, ...], tuple[str, ...]]:
    """Find every BatchNorm that can be folded, and say why the others stay.

    Args:
        model: The model, in eval mode.
        graph: What it computes on a batch, by `capture_graph`.

    Returns:
        What can be folded, in the order it runs; and one sentence for each reason that keeps
        BatchNorms as they are.
    """
    calls = LayerCalls(model, graph)
    found: list[Folding] = []
    kept: defaultdict[str, list[str]] = defaultdict(list)
    seen = set()
    for node in graph.graph.nodes:
        if node.target is not aten.batch_norm.default:
            continue
        name = module_path(node)
        if name in seen:
            continue
        seen.add(name)
        result = _folding_of(name, node, calls)
        if isinstance(result, Folding):
            found.append(result)
        else:
            kept[result].append(name)
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and name not in seen:
            kept["they did not run on the first batch"].append(name)
    return tuple(found), tuple(_why(names, reason) for reason, names in kept.items())


def _why(names: Sequence[str], reason: str) -> str:
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"BatchNorms not folded ({len(names)}), because {reason}: {listed}."


def _folding_of(name: str, node: fx.Node, calls: LayerCalls) -> Folding | str:
    """Return what a BatchNorm folds into, or why it stays."""
    statistics, is_training = node.args[3:5], node.args[5]
    if is_training or None in statistics:
        return "they use the statistics of each batch"
    source = _source(node)
    if source.target not in LAYERS:
        return "they do not stand right behind a convolution or linear layer"
    if len(value_readers(source)) > 1:
        return "something else reads the output of the layer before them too"
    layer = module_path(source)
    if calls.module(layer) is None or calls.module(name) is None:
        return "their values are not those of a BatchNorm module"
    if not (calls.is_called_once(layer) and calls.is_called_once(name)):
        return "they, or the layer before them, are called several times"
    if not (calls.is_plain(layer) and calls.is_plain(name)):
        return "they, or the layer before them, have hooks or a forward of their own"
    keys = ("weight", "bias", "running_mean", "running_var")
    if not calls.reads_own(name, dict(zip(keys, node.args[1:5], strict=True))):
        return "their values are not those of a BatchNorm module"
    if not calls.has_own_weight(layer, source):
        return "the weight of the layer before them is computed or shared"
    if source.target is LINEAR and _dimensions(node.args[0]) != 2:
        return "their channels are not the features of the linear layer before them"
    return Folding(name, layer, source.target in TRANSPOSED)


def _source(batchnorm: fx.Node) -> fx.Node:
    """Return what a BatchNorm normalizes: a linear layer's rows may have been put in one axis."""
    source = source_of(batchnorm)
    while source.target in _RESHAPING and _dimensions(batchnorm.args[0]) == 2:
        before = source_of(source)
        if (
            len(value_readers(source)) > 1
            or before.meta["val"].shape[-1] != source.meta["val"].shape[-1]
        ):
            break
        source = before
    return source


def _dimensions(argument: Any) -> int:
    return int(argument.meta["val"].dim())


def fold_batchnorms(
    model: nn.Module, foldings: Iterable[Folding], *, is_checked: bool = True
) -> tuple[nn.Module, tuple[Folding, ...]]:
    """Give layers the scale and offset of the BatchNorms behind them, in place.

    Args:
        model: A model that holds them all.
        foldings: What to fold.
        is_checked: Whether to leave out what would make a weight or bias infinite.

    Returns:
        The model, and what was folded. Computed in float64. A plain BatchNorm becomes an
        `nn.Identity`. One of another class, which may do more, such as an activation, stays and
        gets statistics under which it passes values on: mean 0, variance 1 and ε = 0.
    """
    folded = tuple(found for found in foldings if _fold(model, found, is_checked))
    plain = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    gone = {}
    for folding in folded:
        batchnorm = model.get_submodule(folding.batchnorm)
        if type(batchnorm).forward in plain:
            gone[folding.batchnorm] = nn.Identity().eval()
        else:
            _make_neutral(batchnorm)
    return replace_modules(model, gone), folded


def _fold(model: nn.Module, folding: Folding, is_checked: bool) -> bool:
    """Fold one; False, and nothing is changed, if a result would not be finite."""
    layer = model.get_submodule(folding.layer)
    batchnorm = model.get_submodule(folding.batchnorm)
    own = named_parameters_of(layer)
    weight, bias = own["weight"], own.get("bias")
    scale, offset = _scale_and_offset(batchnorm)
    start = torch.zeros_like(scale) if bias is None else bias.detach().double()
    folded_bias = (start * scale + offset).to(weight.dtype)
    over_weight = _over_weight(scale, layer, folding.is_transposed)
    folded_weight = (weight.detach().double() * over_weight).to(weight.dtype)
    is_finite = torch.isfinite(folded_weight).all() and torch.isfinite(folded_bias).all()
    if is_checked and not is_finite:
        return False
    layer.weight = nn.Parameter(folded_weight, requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(folded_bias, requires_grad=weight.requires_grad)
    return True


def _make_neutral(batchnorm: nn.Module) -> None:
    """Let a BatchNorm pass its input on."""
    for name, value in (("running_mean", 0), ("running_var", 1), ("weight", 1), ("bias", 0)):
        old = getattr(batchnorm, name, None)
        if isinstance(old, Tensor):
            neutral = torch.full_like(old.detach(), value)
            is_parameter = isinstance(old, nn.Parameter)
            setattr(batchnorm, name, nn.Parameter(neutral) if is_parameter else neutral)
    vars(batchnorm)["eps"] = 0.0


def _scale_and_offset(batchnorm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return γ / √(variance + ε) and β - mean · that, float64, shape (channels,)."""
    buffers = dict(batchnorm.named_buffers(recurse=False))
    own = named_parameters_of(batchnorm)
    scale = torch.rsqrt(buffers["running_var"].double() + float(batchnorm.eps))  # type: ignore[arg-type]
    if "weight" in own:
        scale = scale * own["weight"].detach().double()
    offset = -buffers["running_mean"].double() * scale
    if "bias" in own:
        offset = offset + own["bias"].detach().double()
    return scale, offset


def output_statistics(batchnorm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel behind a BatchNorm, float64, (channels,).

    They are β and |γ|, but for ε: those of data that have the statistics it holds.
    """
    scale, offset = _scale_and_offset(batchnorm)
    buffers = dict(batchnorm.named_buffers(recurse=False))
    mean = buffers["running_mean"].double() * scale + offset
    return mean, buffers["running_var"].double().sqrt() * scale.abs()


def _over_weight(scale: Tensor, layer: nn.Module, is_transposed: bool) -> Tensor:
    """Reshape (out_channels,) so that it multiplies the weight."""
    weight = named_parameters_of(layer)["weight"]
    ones = [1] * (weight.dim() - 2)
    if not is_transposed:
        return scale.view(-1, 1, *ones)
    # Weight (in_channels, out_channels / groups, ...): rows of group g make the outputs of group g.
    groups = len(scale) // weight.shape[1]
    rows = scale.view(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return rows.view(*weight.shape[:2], *ones)


def sequential_foldings(model: nn.Module) -> tuple[Folding, ...]:
    """Find BatchNorms right behind their layer inside plain `nn.Sequential`s, without a graph."""
    names = {id(module): name for name, module in model.named_modules()}
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    uses = count_parameter_uses(model)
    found = []
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        for layer, batchnorm in pairwise(container):
            pair = (layer, batchnorm)
            is_plain = type(layer) in _PLAIN and type(batchnorm) in _PLAIN[type(layer)]
            if not is_plain or any(has_hooks(m) or has_own_forward(m) for m in pair):
                continue
            own = [p for module in pair for p in named_parameters_of(module).values()]
            if batchnorm.running_mean is None or any(uses[id(p)] > 1 for p in own):
                continue
            if places[id(layer)] == places[id(batchnorm)] == 1:
                is_transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
                found.append(Folding(names[id(batchnorm)], names[id(layer)], is_transposed))
    return tuple(found)
