"""Which kernel runs a layer: the fused one where it is exact, the portable one everywhere else."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from quant_engine.errors import SchemeError, require_choice
from quant_engine.execution.kernels import onednn, reference
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.kernels.epilogue import Epilogue, IntegerWeights
from quant_engine.execution.kernels.float_sums import EXACT_IN_FLOAT32
from quant_engine.execution.kernels.geometry import Convolution

AUTO = "auto"
KERNELS = (AUTO, onednn.NAME, reference.NAME)


class IntegerOperation(Protocol):
    """A layer's arithmetic, ready to run."""

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes of an activation; see `Epilogue` for the result."""


def list_kernels() -> tuple[str, ...]:
    """Return the kernels that are exact on this machine, the fastest first.

    Example:
        >>> "portable" in list_kernels()
        True
    """
    return (onednn.NAME, reference.NAME) if onednn.is_available() else (reference.NAME,)


def require_kernel(kernel: str) -> None:
    """Check that a kernel may be asked for on this machine.

    Raises:
        SchemeError: If the name is unknown, or the kernel is not exact here.
    """
    require_choice("kernel", kernel, KERNELS)
    if kernel == onednn.NAME and not onednn.is_available():
        raise SchemeError(
            f"kernel is {onednn.NAME!r}, which this machine does not have, or which does not sum "
            f"exactly here. Available: {', '.join(list_kernels())}. Use 'auto' for the best one."
        )


def make_linear(weights: IntegerWeights, kernel: str = AUTO) -> IntegerOperation:
    """Make the arithmetic of a fully connected layer.

    Args:
        weights: Codes of shape (out_features, in_features).
        kernel: "auto", or one of `list_kernels`.
    """
    if _is_fused(weights, kernel):
        return onednn.OnednnLinear(weights)
    return reference.ReferenceLinear(weights)


def make_convolution(
    weights: IntegerWeights, convolution: Convolution, kernel: str = AUTO
) -> IntegerOperation:
    """Make the arithmetic of a convolution.

    Args:
        weights: Codes of shape (out_channels, C / groups, kernel height, kernel width).
        convolution: Stride, padding and the like.
        kernel: "auto", or one of `list_kernels`.
    """
    if _is_fused(weights, kernel):
        return CheckedConvolution(weights, convolution)
    return reference.ReferenceConvolution(weights, convolution)


def _is_fused(weights: IntegerWeights, kernel: str) -> bool:
    codes = weights.codes
    if kernel == reference.NAME or codes.device.type != "cpu" or not codes.numel():
        return False
    if not onednn.is_available():
        return False
    # The fused kernels return sums as float32; zero points of weights are taken off afterwards.
    longest = codes[0].numel() * 255 * 128
    return weights.zero_point is None or longest < EXACT_IN_FLOAT32


class CheckedConvolution:
    """The fused convolution, and the portable one for the shapes on which that is not exact."""

    def __init__(self, weights: IntegerWeights, convolution: Convolution) -> None:
        self._fused = onednn.OnednnConvolution(weights, convolution)
        self._portable = reference.ReferenceConvolution(weights, convolution)
        self.name = onednn.NAME

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue) -> Tensor:
        """Run on unsigned codes (N, C, H, W)."""
        if self._fused.is_exact_on(tuple(codes.shape), grid, epilogue):
            self.name = onednn.NAME
            return self._fused(codes, grid, epilogue)
        self.name = reference.NAME
        return self._portable(codes, grid, epilogue)
