"""What quantization did to one layer."""

from __future__ import annotations

from dataclasses import dataclass

from quant_engine.report.tensors import ErrorMetrics, InputChannels, RelativeErrors, TensorReport
from quant_engine.scheme import TensorScheme

QUANTIZED = "quantized"
EXCLUDED = "excluded"
UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class LayerSize:
    """Bytes of one layer, before and after.

    Attributes:
        float_bytes: Weight and bias of the float layer.
        weight_bytes: The quantized weight at its true width (float where it is not quantized).
        scale_bytes: All scales.
        zero_point_bytes: All zero points.
        bias_bytes: The bias, which stays float, and whatever else the layer holds.
    """

    float_bytes: int
    weight_bytes: int
    scale_bytes: int
    zero_point_bytes: int
    bias_bytes: int

    @property
    def quantized_bytes(self) -> int:
        """Bytes after quantization."""
        return self.weight_bytes + self.scale_bytes + self.zero_point_bytes + self.bias_bytes


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer: what was done to it and what that cost.

    Attributes:
        name: Dotted name of the module in the model.
        kind: Type of the float module, such as "Conv2d".
        status: "quantized", "excluded" or "unsupported".
        reason: Why it is not quantized; of a quantized layer, why nothing entered it on the
            calibration data, such as a function that reads its weight instead; else empty.
        parameters: Number of weights and biases of the float layer.
        weight_shape: Shape of the float weight; empty where there is none.
        calls: Times the layer runs in one forward pass of the model.
        input_shape: Shape of its input in the first evaluation batch; empty where never run.
        output_shape: Shape of its output in the first evaluation batch.
        size: Bytes before and after.
        weight: What happened to the weight; None where it stays float.
        input: What happened to the input; None where it stays float or nothing was measured.
        local_error: This layer quantized and fed the float input, against its float output.
        accumulated_error: Its output inside the fully quantized model, against its float output.
            Known for float layers too: they pass on what reaches them.
        input_scheme: How the input is quantized; None where it stays float.
        input_channels: Ranges of the float input's channels; None where the layer has none.
        local_relative: `local_error` channel by channel, over the RMS of each; None with it.
        accumulated_relative: The same of `accumulated_error`.
    """

    name: str
    kind: str
    status: str
    reason: str
    parameters: int
    weight_shape: tuple[int, ...]
    calls: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    size: LayerSize
    weight: TensorReport | None
    input: TensorReport | None
    local_error: ErrorMetrics | None
    accumulated_error: ErrorMetrics | None
    input_scheme: TensorScheme | None
    input_channels: InputChannels | None
    local_relative: RelativeErrors | None
    accumulated_relative: RelativeErrors | None

    @property
    def is_quantized(self) -> bool:
        """Whether the layer was quantized."""
        return self.status == QUANTIZED

    @property
    def has_dynamic_input(self) -> bool:
        """Whether the input is quantized dynamically: with the range of each batch."""
        return self.input_scheme is not None and self.input_scheme.is_dynamic

    @property
    def weight_error(self) -> ErrorMetrics | None:
        """Error of the weight alone."""
        return None if self.weight is None else self.weight.error
