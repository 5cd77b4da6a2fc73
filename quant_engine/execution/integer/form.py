"""Quantized layers computing on their codes: which arithmetic stands behind which layer.

A form is built from a layer's codes when it first runs and again when they change. It is not part
of the layer's state: copying, saving and moving a layer leave it behind, to be built again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from quant_engine.errors import NotCalibratedError, UnsupportedLayerError
from quant_engine.execution.integer.float_input import by_output_channel, run_on_float_input
from quant_engine.execution.kernels.codes import Grid, to_codes
from quant_engine.execution.kernels.dispatch import AUTO
from quant_engine.execution.kernels.epilogue import PLAIN, Epilogue, IntegerWeights
from quant_engine.execution.kernels.reference import LONGEST_SUM
from quant_engine.layers import QuantizedConvTranspose1d, QuantizedConvTranspose2d, QuantizedLayer
from quant_engine.layers.base import IntegerForm
from quant_engine.layers.precision import full_precision
from quant_engine.tensors.affine import QParams, choose_dynamic_qparams


class PackedLayer(Protocol):
    """A layer's arithmetic on the codes of an input of any shape the layer takes."""

    @property
    def name(self) -> str:
        """The kernel that ran last, or that will run."""

    def __call__(self, codes: Tensor, grid: Grid, epilogue: Epilogue, *arguments: Any) -> Tensor:
        """Run on unsigned codes."""


Q = TypeVar("Q", bound=QuantizedLayer)
_TRANSPOSED = (QuantizedConvTranspose1d, QuantizedConvTranspose2d)
Packer = Callable[[Any, str], PackedLayer]

# Codes of tensors that are alive, by the tensor's id and the grid.
_Rounded: TypeAlias = dict[tuple[int, Grid], Tensor]

_PACKERS: dict[type[QuantizedLayer], Packer] = {}


def register_packed_layer(kind: type[Q]) -> Callable[[type], type]:
    """Class decorator: the class, called with a layer and a kernel's name, packs this kind."""

    def register(packed: type) -> type:
        _PACKERS[kind] = cast(Packer, packed)
        return packed

    return register


def why_not_integer(layer: QuantizedLayer) -> str:
    """Return why a layer cannot compute on integers, or "" if it can."""
    if type(layer) not in _PACKERS:
        return f"{type(layer).__name__} has no integer arithmetic; it stays simulated."
    codes = layer.quantized_weight
    if codes is None:
        return "Its weight is still float."
    if layer.scheme.weight.group_size is not None and layer.rounds_input:
        return (
            f"Its weights have a scale for each group of {layer.scheme.weight.group_size}, so the "
            "products of an output cannot be summed as one int32 number; it stays simulated."
        )
    groups = layer.groups if isinstance(layer, _TRANSPOSED) else 1
    terms = codes.numel() // (codes.shape[layer.channel_axis] * groups)  # at most, if transposed
    if layer.rounds_input and terms > LONGEST_SUM:
        return (
            f"Its sums have {terms} products, and int32 is sure to hold only {LONGEST_SUM} of them."
        )
    return ""


def weights_of(layer: QuantizedLayer, codes: Tensor) -> IntegerWeights:
    """Return a layer's codes with a scale for each output channel.

    Args:
        layer: The layer.
        codes: Its codes, rearranged so that output channels lie on axis 0.
    """
    grid, channels = layer.weight_qparams, codes.shape[0]
    points = None
    if not layer.scheme.weight.symmetric:
        points = by_output_channel(grid.zero_point, channels)
    bias = None if layer.bias is None else layer.bias.detach().float()
    return IntegerWeights(codes, by_output_channel(grid.scale, channels), points, bias)


@dataclass(slots=True, eq=False)
class _Built:
    """What a form built, and the tensors and their versions that it built it from.

    Checked at every call, so it reads a layer's dictionaries directly: in small layers the way
    through `nn.Module.__getattr__` would cost as much as the sums.
    """

    packed: PackedLayer
    sources: tuple[Tensor | None, ...]
    versions: tuple[tuple[int, int] | None, ...]
    qparams: QParams | None
    grid: Grid | None

    def fits(self, layer: QuantizedLayer) -> bool:
        sources = _sources(layer)
        if len(sources) != len(self.sources):
            return False
        for new, old, version in zip(sources, self.sources, self.versions, strict=True):
            if new is not old or version != _version(new):
                return False
        return True


def _sources(layer: QuantizedLayer) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = [layer._parameters.get("bias")]
    for name in ("stored_weight", "input_grid"):
        if (stored := layer._modules[name]) is not None:
            found += stored._buffers.values()
    return tuple(found)


def _version(tensor: Tensor | None) -> tuple[int, int] | None:
    """Return torch's count of in-place changes, which inference tensors lack, and the memory."""
    if tensor is None:
        return None
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr()


class KernelForm(IntegerForm):
    """Runs a layer on integers: rounds the input to codes, sums products of codes, scales once.

    A layer whose input stays float has no products of codes; see `float_input`.

    Args:
        kernel: "auto" or the name of a kernel; see `dispatch.list_kernels`.
        has_images_last: Whether images leave with their channels last in memory, as kernels write
            them, however they came: then the next convolution need not turn them round again.
    """

    def __init__(self, kernel: str = AUTO, *, has_images_last: bool = False) -> None:
        self.kernel = kernel
        self.has_images_last = has_images_last
        self._built: _Built | None = None

    @property
    def name(self) -> str:
        """The kernel that ran last; empty before the first run."""
        return "" if self._built is None else self._built.packed.name

    def __call__(self, layer: QuantizedLayer, x: Tensor, *arguments: Any) -> Tensor:
        """Run a layer on a float input; returns float32, laid out in memory as the input is.

        Or with the channels of images last, where the form has them so.
        """
        return self._run(layer, x, None, *arguments)

    def run_all(self, layers: Sequence[QuantizedLayer], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run layers side by side, rounding once what several of them read on the same grid."""
        rounded: _Rounded = {}
        outputs = []
        with full_precision(inputs[0]):
            for layer, x in zip(layers, inputs, strict=True):
                form = layer.integer_form
                if isinstance(form, KernelForm):
                    outputs.append(form._run(layer, x, rounded).to(x.dtype))
                else:
                    outputs.append(layer.run(x))
        return outputs

    def _run(
        self, layer: QuantizedLayer, x: Tensor, rounded: _Rounded | None, *arguments: Any
    ) -> Tensor:
        if not layer.rounds_input:
            return run_on_float_input(layer, x, *arguments)
        built = self._build(layer)
        qparams, grid = built.qparams, built.grid
        if qparams is None or grid is None:
            assert layer.scheme.activation is not None
            qparams = choose_dynamic_qparams(x, layer.scheme.activation)
            grid = Grid.of(qparams)
        codes = None if rounded is None else rounded.get((id(x), grid))
        if codes is None:
            codes = to_codes(x, qparams, grid)
            if rounded is not None:
                rounded[id(x), grid] = codes
        y = built.packed(codes, grid, PLAIN, *arguments)
        has_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        is_kept = self.has_images_last or (has_last and not x.is_contiguous())
        return y if y.dim() == 4 and is_kept else y.contiguous()

    def run_codes(
        self, layer: QuantizedLayer, codes: Tensor, grid: Grid, epilogue: Epilogue
    ) -> Tensor:
        """Run a layer on unsigned codes; returns float32 values or codes, as the epilogue says.

        What the epilogue adds has the shape of the layer's output.

        Raises:
            NotCalibratedError: If the codes are on another grid than the layer's input is by now.
        """
        built = self._build(layer)
        require_grid(built.grid, grid)
        return built.packed(codes, grid, epilogue)

    def _build(self, layer: QuantizedLayer) -> _Built:
        if self._built is None or not self._built.fits(layer):
            reason = why_not_integer(layer)
            if reason:
                raise UnsupportedLayerError(f"The layer cannot run on integers. {reason}")
            sources, qparams = _sources(layer), layer.input_qparams
            self._built = _Built(
                _PACKERS[type(layer)](layer, self.kernel),
                sources,
                tuple(map(_version, sources)),
                qparams,
                None if qparams is None else Grid.of(qparams),
            )
        return self._built

    def __reduce__(self) -> tuple[Callable[..., KernelForm], tuple[str]]:
        return partial(KernelForm, has_images_last=self.has_images_last), (self.kernel,)


def require_grid(current: Grid | None, expected: Grid) -> None:
    """Check that a layer's input still has the grid on which others hand it codes.

    Raises:
        NotCalibratedError: If it has another one.
    """
    if current != expected:
        raise NotCalibratedError(
            "A layer's input grid is not what it was when the model was lowered, perhaps because "
            "other numbers were loaded. Lower the model again with convert_execution."
        )
