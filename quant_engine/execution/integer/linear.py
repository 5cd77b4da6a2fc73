"""Integer arithmetic of fully connected layers."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from quant_engine.execution.integer.form import register_packed_layer, weights_of
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.kernels.dispatch import make_linear
from quant_engine.execution.kernels.epilogue import Epilogue
from quant_engine.layers import QuantizedLinear


@register_packed_layer(QuantizedLinear)
class PackedLinear:
    """Runs a `QuantizedLinear` on codes of shape (..., in_features).

    Args:
        layer: The layer.
        kernel: "auto" or the name of a kernel.
    """

    def __init__(self, layer: QuantizedLinear, kernel: str) -> None:
        assert layer.quantized_weight is not None
        self._operation = make_linear(weights_of(layer, layer.quantized_weight), kernel)
        self._width = layer.out_features

    @property
    def name(self) -> str:
        """The kernel that runs."""
        return self._operation.name

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes."""
        rows = codes.reshape(-1, codes.shape[-1])
        if epilogue.skip is not None:
            epilogue = replace(epilogue, skip=epilogue.skip.reshape(-1, self._width))
        return self._operation(rows, grid, epilogue).view(*codes.shape[:-1], self._width)
