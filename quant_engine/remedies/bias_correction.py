"""Bias correction: what rounding adds to the mean of a channel is taken out of the bias.

    b → b - (E[Ŵ x̂] - E[W x])        for each output channel

E is the mean over all calibration data and all other axes of the output. Layers are corrected in
the order in which they run, each behind layers that are corrected already, so that what they pass
on is made up for too (Nagel et al., ICCV 2019, section 4.2 and appendix D). A layer by itself is
corrected on float inputs, for its weights alone: b → b - (Ŵ - W) E[x]. Where a BatchNorm tells E[x]
(`expected_inputs`), that needs no data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.graph.capture import capture_graph
from quant_engine.graph.layer_calls import LAYERS, LayerCalls
from quant_engine.graph.nodes import module_path
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from quant_engine.model.forward import PassEnded, primary_output
from quant_engine.model.modules import add_bias, count_parameter_uses
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.remedies.chains import NotFollowedError
from quant_engine.remedies.channels import ChannelValues
from quant_engine.remedies.codes import OutputRows, improved
from quant_engine.remedies.expected_inputs import expected_input, known_statistics
from quant_engine.remedies.passes import Passes
from quant_engine.report import Treatment
from quant_engine.scheme import BATCH_NORM, BiasCorrection, LayerScheme

_SHARES_BIAS = "it shares its bias with another layer"


def correct_biases(
    passes: Passes, quantized: nn.Module, remedy: BiasCorrection, meter: ProgressMeter
) -> tuple[Treatment, ...]:
    """Correct the biases of a quantized model, in place.

    In order, every layer costs a pass over the data up to it. By BatchNorm's statistics all cost
    three, for the errors in the entries.

    Args:
        passes: Over calibration data, of the float model that it was made from.
        quantized: The quantized model.
        remedy: Which layers.
        meter: Told after every layer.

    Returns:
        One entry for each layer that the remedy names and that is quantized. Its errors are the
        mean shifts of the channels, over the values' root mean square.
    """
    layers = {
        name: module
        for name, module in quantized.named_modules()
        if isinstance(module, QuantizedLayer) and remedy.treats(name)
    }
    uses = count_parameter_uses(quantized)
    prepared = passes.prepared
    floats = {name: prepared.model.get_submodule(name) for name in layers}
    aims = _channel_means(passes, prepared.model, floats, layers)
    is_computed = remedy.means == BATCH_NORM
    computed = _expected_shifts(prepared, layers, passes.batches[0]) if is_computed else {}
    measured = _channel_means(passes, quantized, layers, layers) if is_computed else {}
    found: dict[str, Treatment] = {}
    for name in [*aims, *(name for name in layers if name not in aims)]:
        layer, aim = layers[name], aims.get(name)
        told = computed.get(name, "")
        reason = _why_not(layer, aim, uses) or (told if isinstance(told, str) else "")
        if aim is None or reason:
            found[name] = Treatment.refused(remedy, name, reason=reason)
            continue
        if not is_computed:
            stops = aim.calls == len(passes.batches)
            measured = _channel_means(passes, quantized, {name: layer}, layers, stops=stops)
        before = measured[name].mean - aim.mean
        shift = told if isinstance(told, Tensor) else before
        _add_to_bias(layer, -shift)
        found[name] = Treatment(
            remedy.kind,
            (name,),
            is_applied=True,
            shift=tuple(shift.tolist()),
            error_before=_share(before, aim.rms),
            error_of="channel means",
        )
        meter.say(f"correct the bias of {name}")
    corrected = {name: layers[name] for name, treatment in found.items() if treatment.is_applied}
    left = _channel_means(passes, quantized, corrected, layers)
    return tuple(
        replace(treatment, error_after=_share(left[name].mean - aims[name].mean, aims[name].rms))
        if name in left
        else treatment
        for name, treatment in found.items()
    )


def correct_layer(name: str, rows: OutputRows, remedy: BiasCorrection) -> Treatment:
    """Correct the bias of one layer, by itself.

    Args:
        name: Its name.
        rows: Its weights, and what they are multiplied with.
        remedy: What asks for it.

    Returns:
        What was done.
    """
    if not rows.has_own_bias:
        return Treatment.refused(remedy, name, reason=_SHARES_BIAS)
    rounded = (rows.codes - rows.points) * rows.scale
    shift = ((rounded - rows.weight) @ rows.seen.mean[:, :, None]).flatten()
    before = rows.output_error(rows.codes)
    removed = rows.share_of_output(rows.seen.count * shift.square().sum())
    _add_to_bias(rows.layer, -shift)
    after = math.sqrt(max(before**2 - removed, 0.0))
    return replace(improved(remedy, name, before, after), shift=tuple(shift.tolist()))


def _channel_means(
    passes: Passes,
    model: nn.Module,
    watched: Mapping[str, nn.Module],
    layers: Mapping[str, QuantizedLayer],
    *,
    stops: bool = False,
) -> dict[str, ChannelValues]:
    """Run a model on all data, and return the means of layers in the order in which they ran.

    Args:
        passes: Over the data.
        model: The float model or the quantized one.
        watched: Layer name -> the layer of it to watch.
        layers: Layer name -> the quantized layer, which knows the axis of the channels.
        stops: Whether to end every pass behind the first layer that is watched.
    """
    found: dict[str, ChannelValues] = {}

    def observe(name: str, _args: Any, _kwargs: Any, output: Any) -> None:
        y = primary_output(output)
        if y is not None and y.numel():
            found.setdefault(name, ChannelValues()).update(y, layers[name].output_axis)
        if stops:
            raise PassEnded

    passes.watch(model, watched, observe)
    return found


def _expected_shifts(
    prepared: PreparedModel, layers: Mapping[str, QuantizedLayer], batch: Batch
) -> dict[str, Tensor | str]:
    """Return what rounding the weights adds to each channel's mean, or why BatchNorm does not tell.

    A layer reads its mean input in the place of every sample, so zeros around it count too.
    """
    try:
        graph = capture_graph(prepared.model, batch)
    except UnsupportedLayerError as error:
        return dict.fromkeys(layers, f"what enters it is not known: {error}")
    calls, statistics = LayerCalls(prepared.model, graph), known_statistics(prepared)
    nodes = {module_path(n): n for n in graph.graph.nodes if n.target in LAYERS}
    found: dict[str, Tensor | str] = {}
    for name, layer in layers.items():
        if name not in nodes or not calls.is_called_once(name):
            found[name] = "it is not called exactly once as a convolution or linear layer"
            continue
        try:
            x = expected_input(nodes[name], calls, statistics)
        except NotFollowedError as error:
            found[name] = str(error)
            continue
        module = prepared.model.get_submodule(name)
        probe = type(layer).like(module, LayerScheme(layer.scheme.weight))
        weight: Tensor = module.weight  # type: ignore[assignment]
        change = (layer.weight - weight).detach().float()
        probe.weight = nn.Parameter(change, requires_grad=False)
        probe.bias = None
        y = probe(x.float()).detach().double()
        found[name] = y.movedim(layer.output_axis, 0).flatten(1).mean(dim=1)
    return found


def _why_not(layer: QuantizedLayer, aim: ChannelValues | None, uses: Mapping[int, int]) -> str:
    """Return why a layer cannot be corrected; empty if it can."""
    if not layer.takes_float_input:
        return "it looks rows up and adds no bias"
    if aim is None:
        return "nothing came out of it on the calibration data"
    if layer.bias is not None and uses[id(layer.bias)] > 1:
        return _SHARES_BIAS
    return ""


def _add_to_bias(layer: QuantizedLayer, change: Tensor) -> None:
    """Change a layer's bias, in float; one that has none gets one."""
    if layer.bias is None:
        add_bias(layer, change.to(layer.weight_dtype))
    else:
        old = layer.bias
        layer.bias = nn.Parameter((old.detach() + change).to(old.dtype), old.requires_grad)


def _share(shift: Tensor, rms: float) -> float:
    """Return the root mean square of the channels' shifts, as a share of that of the values."""
    return shift.square().mean().sqrt().item() / rms if rms else 0.0
