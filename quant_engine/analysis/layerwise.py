"""Weight, local and accumulated error of every layer, in one pass over the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.analysis.output_statistics import OutputStats
from quant_engine.errors import DataError
from quant_engine.judging.judged import Judged
from quant_engine.layers import QuantizedLayer
from quant_engine.metrics.channel_errors import ChannelErrorStats, input_axis, output_axis
from quant_engine.metrics.dynamic import DynamicGridStats
from quant_engine.metrics.grid import GridStats
from quant_engine.model.batches import Batch
from quant_engine.model.forward import layer_input, primary_output, watched_layers
from quant_engine.model.pass_state import PassState
from quant_engine.quantization.conversion import LayerPlan


@dataclass(slots=True, eq=False)
class LayerStats:
    """What was measured on one layer so far.

    Attributes:
        input: Rounding of the float input to the input grid, or to that of each call; None where
            it stays float.
        local: This layer quantized and fed the float input, against its float output.
        accumulated: Its output inside the quantized model, against its float output.
        input_axis: Axis of the input's channels, from the end; None where it has none.
        input_lo: Smallest value of each channel of the input; None before the first.
        input_hi: Largest value, likewise.
        input_shape: Shape of its first input.
        output_shape: Shape of its first output.
        example: The first values of its first input, to work one element through.
        calls: Times it ran.
        passes: Forward passes in which it ran.
        unmatched: Outputs of the float model that the quantized model has no counterpart for.
    """

    input: GridStats | DynamicGridStats | None = None
    local: ChannelErrorStats = field(default_factory=lambda: ChannelErrorStats(-1))
    accumulated: ChannelErrorStats = field(default_factory=lambda: ChannelErrorStats(-1))
    input_axis: int | None = None
    input_lo: Tensor | None = None
    input_hi: Tensor | None = None
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    example: Tensor | None = None
    calls: int = 0
    passes: int = 0
    unmatched: int = 0

    def see_input(self, x: Tensor) -> None:
        """Widen the ranges of the input's channels by a batch."""
        axis = self.input_axis
        if axis is None or x.dim() < -axis or not x.numel() or not x.is_floating_point():
            return
        rows = x.detach().movedim(axis, 0).reshape(x.shape[axis], -1).float()
        lo, hi = torch.aminmax(rows, dim=1)
        if self.input_lo is None or self.input_hi is None:
            self.input_lo, self.input_hi = lo, hi
        elif len(lo) == len(self.input_lo):
            self.input_lo = torch.minimum(self.input_lo, lo)
            self.input_hi = torch.maximum(self.input_hi, hi)


class LayerwiseComparison:
    """Streams batches through the float and the quantized model and compares layer by layer.

    Holds the layer outputs of one batch at a time. Float layers inside the quantized model are
    compared too: they pass on the error that reaches them. A layer is what its `forward` does: its
    input is what hooks of the caller's made of it, its output what it is before they change it.

    Attributes:
        layers: Layer name -> what was measured.
        output: Comparison of the models' outputs.
        samples: Samples seen.
        batches: Batches seen.
        batch_size: Samples in the largest batch.
    """

    def __init__(
        self,
        float_model: nn.Module,
        quantized_model: nn.Module,
        plans: Sequence[LayerPlan],
        input_ranges: Mapping[str, tuple[float, float]],
        state: PassState,
        judged: Judged,
    ) -> None:
        """Start empty, both models in the same state; each keeps its own from batch to batch.

        Args:
            float_model: The prepared float model.
            quantized_model: The quantized copy of it.
            plans: What was done to each layer.
            input_ranges: Layer name -> smallest and largest input to draw, where ranges are
                dynamic; that of its first call for a layer that is not named.
            state: What passes of the models change.
            judged: What of an answer is judged.
        """
        for model in (float_model, quantized_model):
            state.write(model)
        self._state = state
        self._float_model = float_model
        self._quantized_model = quantized_model
        self._float_layers = {p.layer.name: float_model.get_submodule(p.layer.name) for p in plans}
        self._quantized_layers = {
            p.layer.name: quantized_model.get_submodule(p.layer.name) for p in plans
        }
        self.layers = {name: _layer_stats(layer) for name, layer in self._float_layers.items()}
        self._judged = judged
        self.output = OutputStats(judged)
        self.samples = self.batches = self.batch_size = 0
        for name, layer in self._quantized_layers.items():
            if isinstance(layer, QuantizedLayer):
                self.layers[name].input = _input_stats(layer, input_ranges.get(name))
        self._outputs: defaultdict[str, list[Tensor]] = defaultdict(list)

    def update(self, batch: Batch) -> None:
        """Compare the two models on one batch.

        Raises:
            ModelForwardError: If a model raises.
            DataError: If an output or a layer's input holds NaN or Inf.
        """
        self._outputs.clear()
        with torch.random.fork_rng(devices=[]):
            # A model that draws random numbers draws the same ones twice, so that the difference
            # is what quantization does.
            random_state = torch.random.get_rng_state()
            with self._state.same_numbers(), watched_layers(self._float_layers, self._on_float):
                expected = self._judged.answer(self._float_model, batch)
            for name in self._outputs:
                self.layers[name].passes += 1
            torch.random.set_rng_state(random_state)
            with (
                self._state.same_numbers(),
                watched_layers(self._quantized_layers, self._on_quantized),
            ):
                changed = self._judged.answer(self._quantized_model, batch)
        for name, left in self._outputs.items():
            self.layers[name].unmatched += len(left)
        self.output.update(expected, changed, batch)
        self.samples += batch.samples
        self.batches += 1
        self.batch_size = max(self.batch_size, batch.samples)

    def _on_float(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        stats = self.layers[name]
        stats.calls += 1
        y = primary_output(output)
        x = layer_input(args, kwargs)
        if y is None or x is None:
            return
        # A copy: an in-place operation after the layer would change what was recorded.
        self._outputs[name].append(y.detach().clone())
        if stats.example is None or (x.numel() and not stats.example.numel()):
            stats.input_shape, stats.output_shape = tuple(x.shape), tuple(y.shape)
            stats.example = x.detach().reshape(-1)[:4096].clone()
        stats.see_input(x)
        quantized = self._quantized_layers[name]
        if not isinstance(quantized, QuantizedLayer):
            return
        alone = self._local_output(name, quantized, x, args, kwargs)
        _count(name, stats.local, y, alone)

    def _local_output(
        self,
        name: str,
        quantized: QuantizedLayer,
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor:
        """Return what the quantized layer makes of the float input, and count the input."""
        counted = self.layers[name].input
        if counted is None:
            return quantized.forward(*args, **kwargs)
        try:
            x_hat = counted.update(x)
        except DataError:
            raise DataError(f"The input of layer {name!r} holds NaN or Inf.") from None
        if len(args) == 1 and not kwargs and type(quantized).forward is QuantizedLayer.forward:
            # The layer would round its input to the same values again.
            weight, bias = quantized.dequantized_weight(), quantized.bias_for(x_hat)
            return quantized.compute(x_hat, weight, bias).to(x.dtype)
        return quantized.forward(*args, **kwargs)

    def _on_quantized(
        self, name: str, _args: tuple[Any, ...], _kwargs: Mapping[str, Any], output: Any
    ) -> None:
        changed = primary_output(output)
        waiting = self._outputs[name]
        if changed is None or not waiting:
            return
        y = waiting.pop(0)
        if y.shape == changed.shape:
            _count(name, self.layers[name].accumulated, y, changed)
        else:
            self.layers[name].unmatched += 1


def _count(name: str, errors: ChannelErrorStats, y: Tensor, changed: Tensor) -> None:
    try:
        errors.update(y, changed)
    except DataError:
        raise DataError(f"The output of layer {name!r} holds NaN or Inf.") from None


def _layer_stats(layer: nn.Module) -> LayerStats:
    axis = output_axis(layer)
    return LayerStats(
        local=ChannelErrorStats(axis),
        accumulated=ChannelErrorStats(axis),
        input_axis=input_axis(layer),
    )


def _input_stats(
    layer: QuantizedLayer, drawn: tuple[float, float] | None
) -> GridStats | DynamicGridStats | None:
    """Return what counts the layer's input; None where it stays float."""
    activation, qparams = layer.scheme.activation, layer.input_qparams
    if activation is None or not layer.rounds_input:
        return None
    return DynamicGridStats(activation, drawn) if qparams is None else GridStats(qparams)
