"""True integer arithmetic: int8 times int8, summed in int32, then one float scale for each output.

    y = s_x s_w Σ (q_x - z_x)(q_w - z_w) + bias

See `docs/math.md` for the derivation. Kernels know nothing of layers, models or recipes.
"""

from quant_engine.execution.kernels.codes import Grid, from_codes, to_codes
from quant_engine.execution.kernels.dispatch import (
    AUTO,
    KERNELS,
    IntegerOperation,
    list_kernels,
    make_convolution,
    make_linear,
    require_kernel,
)
from quant_engine.execution.kernels.epilogue import PLAIN, Epilogue, IntegerWeights
from quant_engine.execution.kernels.geometry import Convolution

__all__ = [
    "AUTO",
    "KERNELS",
    "PLAIN",
    "Convolution",
    "Epilogue",
    "Grid",
    "IntegerOperation",
    "IntegerWeights",
    "from_codes",
    "list_kernels",
    "make_convolution",
    "make_linear",
    "require_kernel",
    "to_codes",
]
