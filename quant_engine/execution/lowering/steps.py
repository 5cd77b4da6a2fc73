"""The nodes of a lowered graph. Each runs in two ways that give the same numbers.

On integers, what passes between them are unsigned codes; simulated, it is the float values that
those codes stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from quant_engine.execution.integer import KernelForm
from quant_engine.execution.integer.form import require_grid
from quant_engine.execution.kernels.codes import Grid, to_codes
from quant_engine.execution.kernels.epilogue import ACTIVATIONS, NO_ACTIVATION, Epilogue
from quant_engine.execution.kernels.pooling import max_pool_codes
from quant_engine.layers import QuantizedLayer
from quant_engine.layers.precision import full_precision
from quant_engine.tensors.affine import QParams, fake_quantize

RELU6_TOP = 6.0


class LoweredStep(nn.Module):
    """A node that knows codes.

    Attributes:
        is_integer: Whether it works on codes, or on the float values they stand for.
    """

    is_integer: bool = False


class RoundToCodes(LoweredStep):
    """Rounds a float tensor to a grid.

    Args:
        qparams: The grid.
    """

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.qparams = qparams
        self.grid = Grid.of(qparams)

    def forward(self, x: Tensor) -> Tensor:
        """Return codes, or the values they stand for."""
        if self.is_integer:
            return to_codes(x, self.qparams, self.grid)
        return fake_quantize(x, self.qparams)


class ClampCodes(LoweredStep):
    """ReLU or ReLU6 on codes: the codes of 0 and 6 are the limits.

    Args:
        qparams: Grid of input and output.
        activation: "relu" or "relu6".
    """

    def __init__(self, qparams: QParams, activation: str) -> None:
        super().__init__()
        self.qparams = qparams
        self.grid = limited(Grid.of(qparams), qparams, activation)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Clamp codes, or the values they stand for."""
        if self.is_integer:
            return x.clamp(max(self.grid.zero_point, self.grid.lowest), self.grid.highest)
        # ReLU6 of a value is rounded once more: 6 need not be on the grid.
        return fake_quantize(ACTIVATIONS[self.activation](x), self.qparams)


class MaxPoolCodes(LoweredStep):
    """Max pooling on codes.

    Args:
        arguments: Kernel, stride and the like, as `aten.max_pool2d` takes them.
    """

    def __init__(self, arguments: Sequence[Any]) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        """Pool codes, or the values they stand for."""
        if self.is_integer:
            return max_pool_codes(x, *self.arguments)
        return cast(Tensor, torch.ops.aten.max_pool2d.default(x, *self.arguments))


class LayerWithArguments(nn.Module):
    """A quantized layer that gets more than its input.

    Args:
        layer: The layer.
        arguments: What it gets, such as the output padding of a transposed convolution.
    """

    def __init__(self, layer: QuantizedLayer, arguments: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self.arguments = tuple(arguments)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        return self.layer.run(x, self.arguments)


class LoweredLayer(LoweredStep):
    """A quantized layer with what follows it: an addition, an activation, the next rounding.

    Args:
        layer: The layer; its input has a calibrated grid.
        name: Its name in the model.
        takes_codes: Whether its input is rounded already.
        activation: What is applied at the end; "relu6" too.
        output: Grid of the result, or None for float values.
        skip: Grid of what is added; None where that is float, or nothing is.
    """

    def __init__(
        self,
        layer: QuantizedLayer,
        name: str,
        *,
        takes_codes: bool,
        activation: str = NO_ACTIVATION,
        output: QParams | None = None,
        skip: QParams | None = None,
    ) -> None:
        super().__init__()
        assert layer.input_qparams is not None
        self.layer = layer
        self.name = name
        self.takes_codes = takes_codes
        self.activation = activation
        self.input_qparams = layer.input_qparams
        self.output_qparams = output
        self._grid = Grid.of(layer.input_qparams)
        self._skip = None if skip is None else Grid.of(skip)
        self._output = None
        self._fused_activation = activation
        if output is not None:
            self._output = limited(Grid.of(output), output, activation)
            if activation == "relu6":
                self._fused_activation = "relu"

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Run the layer and what follows it."""
        with full_precision(x):
            return self._run(x, skip)

    def _run(self, x: Tensor, skip: Tensor | None) -> Tensor:
        form = self.layer.integer_form
        if self.is_integer and isinstance(form, KernelForm):
            codes = x if self.takes_codes else to_codes(x, self.input_qparams, self._grid)
            epilogue = Epilogue(self._fused_activation, self._output, skip, self._skip)
            return form.run_codes(self.layer, codes, self._grid, epilogue)
        qparams = self.layer.input_qparams
        require_grid(None if qparams is None else Grid.of(qparams), self._grid)
        x_hat = x if self.takes_codes else fake_quantize(x, self.input_qparams)
        y = self.layer.compute(x_hat, self.layer.dequantized_weight(), self.layer.bias_for(x_hat))
        if skip is not None:
            y = y + skip
        y = ACTIVATIONS[self.activation](y)
        return y if self.output_qparams is None else fake_quantize(y, self.output_qparams)

    def extra_repr(self) -> str:
        """Show what was fused in `print(model)`."""
        form = "codes" if self.takes_codes else "float"
        to = "float" if self.output_qparams is None else "codes"
        return f"{form} -> {to}, activation={self.activation}"


def limited(grid: Grid, qparams: QParams, activation: str) -> Grid:
    """Return a grid whose largest code is that of ReLU6's 6, where that is the activation."""
    if activation != "relu6":
        return grid
    top = int(to_codes(torch.full((1,), RELU6_TOP, device=qparams.scale.device), qparams))
    return Grid(grid.scale, grid.zero_point, grid.lowest, min(grid.highest, top))
