"""What every quantized layer shares: integer codes instead of a float weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from quant_engine.errors import DataError, NotCalibratedError, SchemeError
from quant_engine.layers.precision import full_precision
from quant_engine.layers.quantized_tensor import QuantizedTensor, StoredGrid
from quant_engine.model.modules import add_bias, copy_hooks, has_added_bias
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import QParams, choose_dynamic_qparams, fake_quantize

DEFAULT_SCHEME = LayerScheme(TensorScheme(granularity="per_channel"))


class IntegerForm(Protocol):
    """The integer arithmetic of a quantized layer; see `quant_engine.execution.integer`."""

    def __call__(self, layer: QuantizedLayer, x: Tensor, *arguments: Any) -> Tensor:
        """Run `layer` on a float input; returns float32."""

    def run_all(self, layers: Sequence[QuantizedLayer], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run layers whose forms are like this one, rounding once what several of them read."""


class QuantizedLayer(nn.Module):
    """A layer that can trade its float weight for int8 codes.

    It starts with a float `weight` and computes like the float layer. `quantize_weights()` replaces
    the weight by codes and their grid: the float parameter is gone, from memory and from the
    `state_dict`, and reading `weight` gives the dequantized values. With an input grid set
    (`set_input_qparams`), inputs are rounded to it first.

    Execution is simulated: codes are dequantized and the sum is computed in float32, whatever the
    dtype of the input, also under `torch.autocast`; the output has the input's dtype. With an
    `integer_form` set, as `convert_execution` does, the codes themselves are multiplied and summed.

    A subclass is a data sheet: which arguments of the float layer it keeps, which axis of the
    weight holds the output channels, and `compute`, the float operation.

    Attributes:
        scheme: How weight and input are quantized.
        stored_weight: Codes of the weight and their grid; None before `quantize_weights()`.
        input_grid: Calibrated grid of the input; None if inputs stay float or are dynamic.
        channel_axis: Axis of the weight that output channels lie on.
        output_axis: Axis of the output that they lie on, counted from the end.
        integer_form: What computes on the codes themselves; None while execution is simulated.
        takes_float_input: Whether the input can be rounded to a grid; False for integer inputs.
        float_arguments: Attributes of the float layer that this layer has too.
    """

    channel_axis: ClassVar[int] = 0
    output_axis: ClassVar[int] = -1
    takes_float_input: ClassVar[bool] = True
    float_arguments: ClassVar[tuple[str, ...]] = ()

    integer_form: IntegerForm | None = None
    scheme: LayerScheme
    weight: nn.Parameter
    bias: nn.Parameter | None
    stored_weight: QuantizedTensor | None
    input_grid: StoredGrid | None

    def __init__(self, scheme: LayerScheme | None = None) -> None:
        """Start without codes and without a weight; `adopt` brings the weight."""
        super().__init__()
        self.scheme = self.applicable(scheme or DEFAULT_SCHEME)
        self.register_module("stored_weight", None)
        self.register_module("input_grid", None)

    @classmethod
    def applicable(cls, scheme: LayerScheme) -> LayerScheme:
        """Return the part of a scheme that this kind of layer applies: integers are not rounded."""
        return scheme if cls.takes_float_input else LayerScheme(scheme.weight)

    def adopt(self, module: nn.Module) -> None:
        """Take over the arguments of a float layer, and share its weight and bias."""
        for name in self.float_arguments:
            setattr(self, name, getattr(module, name))
        self.weight = module.weight  # type: ignore[assignment]
        self.register_parameter("bias", getattr(module, "bias", None))
        if has_added_bias(module) and self.bias is not None:
            add_bias(self, self.bias.detach())

    @classmethod
    def like(cls, module: nn.Module, scheme: LayerScheme) -> Self:
        """Build a layer with the arguments of the float `module`, sharing its weight and bias."""
        layer = cls.__new__(cls)
        QuantizedLayer.__init__(layer, scheme)
        layer.adopt(module)
        return layer

    @classmethod
    def from_float(
        cls, module: nn.Module, scheme: LayerScheme, input_qparams: QParams | None = None
    ) -> Self:
        """Quantize a float layer; the result shares no memory with it.

        Args:
            module: Layer of the float type this class is registered for. It is not changed.
            scheme: How to quantize weight and input.
            input_qparams: Grid of the input; needed where `scheme.activation` is given, unless it
                is dynamic.

        Returns:
            The quantized layer, in the mode (training or not) of `module` and with its hooks.

        Raises:
            NotCalibratedError: If the scheme quantizes the input and no grid is given.
            DataError: If the weight holds NaN or Inf.
        """
        layer = cls.like(module, scheme)
        layer.quantize_weights()
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
        if layer.scheme.has_calibrated_input:
            if input_qparams is None:
                raise NotCalibratedError(
                    f"The scheme of this {type(module).__name__} quantizes its input, whose range "
                    "was never measured. Calibrate first, or set activation to None."
                )
            layer.set_input_qparams(input_qparams)
        copy_hooks(module, layer)
        return layer.train(module.training)

    @property
    def is_quantized(self) -> bool:
        """Whether the weight is held as codes."""
        return self.stored_weight is not None

    @property
    def quantized_weight(self) -> Tensor | None:
        """Codes of the weight, int8, of its shape; None before `quantize_weights()`."""
        return None if self.stored_weight is None else self.stored_weight.codes

    @property
    def weight_dtype(self) -> torch.dtype:
        """Type of the float weight; reading `weight` gives it, after quantization too."""
        return self.weight.dtype if self.stored_weight is None else self.stored_weight.dtype

    @property
    def weight_qparams(self) -> QParams:
        """Grid of the weight.

        Raises:
            NotCalibratedError: Before `quantize_weights()`.
        """
        if self.stored_weight is None:
            raise NotCalibratedError("The weight is still float. Call quantize_weights() first.")
        return self.stored_weight.qparams

    @property
    def rounds_input(self) -> bool:
        """Whether inputs are rounded: dynamically, or to a grid that has been set.

        A scheme with a calibrated input says only what is to be done: without a grid, as in a layer
        made by hand, inputs stay float.
        """
        activation = self.scheme.activation
        return activation is not None and (activation.is_dynamic or self.input_grid is not None)

    @property
    def input_qparams(self) -> QParams | None:
        """Calibrated grid of the input; None if inputs stay float or are dynamic."""
        return None if self.input_grid is None else self.input_grid.qparams

    def quantize_weights(self) -> None:
        """Replace the float weight by codes. Does nothing when that is already done.

        Raises:
            DataError: If the weight holds NaN or Inf.
        """
        if self.is_quantized:
            return
        self._store(QuantizedTensor.of(self.weight, self.scheme.weight, self.channel_axis))

    def _store(self, weight: QuantizedTensor) -> None:
        """Hold these codes in place of a float weight or of other codes."""
        self._parameters.pop("weight", None)
        self.stored_weight = weight

    def share_codes(self, other: QuantizedLayer) -> None:
        """Use the codes of a layer with the same weight and scheme, so that tied stays tied.

        Raises:
            SchemeError: If the two layers quantize their weight differently, or their weights have
                different shapes.
            NotCalibratedError: If the other layer is still float.
        """
        stored = other.stored_weight
        if stored is None:
            raise NotCalibratedError("The other layer is still float. Quantize its weight first.")
        has_same_scales = self.scheme.weight == other.scheme.weight and (
            self.scheme.weight.has_one_scale or self.channel_axis == other.channel_axis
        )
        if not has_same_scales or stored.codes.shape != self._weight_shape():
            raise SchemeError(
                f"{type(self).__name__} {tuple(self._weight_shape())} cannot share the codes of "
                f"{type(other).__name__} {tuple(stored.codes.shape)}: shape, scheme and channel "
                "axis must be the same. Give tied layers one scheme."
            )
        self._store(stored)

    def set_input_qparams(self, qparams: QParams) -> None:
        """Round inputs to this grid from now on.

        Raises:
            DataError: If the grid has more than one scale or other codes than the scheme.
        """
        scheme = self.scheme.activation
        if scheme is None or not self.scheme.has_calibrated_input or qparams.axis is not None:
            raise DataError(
                "An input grid needs a scheme with a calibrated activation and a single scale, got "
                f"activation={scheme!r} and axis={qparams.axis}."
            )
        if (qparams.qmin, qparams.qmax) != (scheme.qmin, scheme.qmax):
            raise DataError(
                f"The grid has codes [{qparams.qmin}, {qparams.qmax}], the scheme "
                f"[{scheme.qmin}, {scheme.qmax}]. Choose the grid with this layer's scheme."
            )
        self.input_grid = StoredGrid(qparams, scheme)

    def dequantized_weight(self) -> Tensor:
        """Return the float32 values the codes stand for, or the float weight before that."""
        if self.stored_weight is None:
            weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
            return weight
        return self.stored_weight.dequantize()

    def simulate_input(self, x: Tensor) -> Tensor:
        """Return the float32 values that the input's codes stand for.

        Raises:
            DataError: If inputs are quantized dynamically and `x` holds NaN or Inf.
        """
        if not self.rounds_input:
            return x.float()
        assert self.scheme.activation is not None
        return fake_quantize(
            x, self.input_qparams or choose_dynamic_qparams(x, self.scheme.activation)
        )

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return input, weight and bias that the float operation is applied to."""
        if self.is_quantized:
            x_hat, weight = self.simulate_input(x), self.dequantized_weight()
        else:
            x_hat, weight = x, self.weight
        return x_hat, weight, self.bias_for(x_hat)

    @abstractmethod
    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the float operation of this layer to a float input, weight and bias."""

    def forward(self, input: Tensor) -> Tensor:
        """Run the layer; input and output as in the float layer."""
        return self.run(input)

    def run(self, x: Tensor, *arguments: Any) -> Tensor:
        """Run the layer as its execution says; `arguments` are passed on to the operation."""
        if not self.is_quantized:
            return self.compute(*self.operands(x), *arguments).to(x.dtype)
        with full_precision(x):
            if self.integer_form is not None:
                return self.integer_form(self, x, *arguments).to(x.dtype)
            return self.compute(*self.operands(x), *arguments).to(x.dtype)

    def bias_for(self, x: Tensor) -> Tensor | None:
        """Return the bias in the dtype of the input of `compute`."""
        return None if self.bias is None else self.bias.to(x.dtype)

    def __getattr__(self, name: str) -> Any:
        """Answer `weight` after the parameter is gone, in the dtype that it had."""
        if name == "weight" and _holds_codes(self):
            return self.dequantized_weight().to(self.weight_dtype)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Drop the codes when a new float weight is assigned."""
        if name == "weight" and _holds_codes(self):
            self.stored_weight = None
        super().__setattr__(name, value)

    def _weight_shape(self) -> torch.Size:
        codes = self.quantized_weight
        return self.weight.shape if codes is None else codes.shape

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take on the form of what is loaded, codes or float; the scheme says which shapes fit."""
        _metadata, strict, _missing_keys, unexpected_keys, _error_msgs = rest
        if f"{prefix}stored_weight.codes" in state_dict:
            self.expect_codes(has_input_grid=f"{prefix}input_grid.scale" in state_dict)
        elif f"{prefix}weight" in state_dict and self.is_quantized:
            self.weight = nn.Parameter(self.weight)
            self.input_grid = None
        for part in ("stored_weight", "input_grid"):
            if strict and self._modules[part] is None:  # torch would take any key under it
                unexpected_keys += [k for k in state_dict if k.startswith(f"{prefix}{part}.")]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def expect_codes(self, has_input_grid: bool) -> None:
        """Make room for codes and grids, of the shapes that weight and scheme give them."""
        weight = self.weight
        self._store(QuantizedTensor.empty(weight, self.scheme.weight, self.channel_axis))
        activation, self.input_grid = self.scheme.activation, None
        if has_input_grid and activation is not None and not activation.is_dynamic:
            one = torch.ones((), dtype=torch.float32, device=weight.device)
            grid = QParams(one, one.int(), activation.qmin, activation.qmax, None)
            self.input_grid = StoredGrid(grid, activation)

    def __repr__(self) -> str:
        """Show the layer in one line: how it stores its codes is no news."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Show the scheme in `print(model)`."""
        weight = self.scheme.weight
        state = f"int{weight.bits} {weight.granularity_name}" if self.is_quantized else "float"
        inputs = "float"
        if self.rounds_input and self.scheme.activation is not None:
            dynamic = " dynamic" if self.scheme.activation.is_dynamic else ""
            inputs = f"int{self.scheme.activation.bits}{dynamic}"
        return f"weight={state}, input={inputs}"


def _holds_codes(layer: nn.Module) -> bool:
    """Whether there are codes; also answers while the layer is being built or unpickled."""
    return layer.__dict__.get("_modules", {}).get("stored_weight") is not None
