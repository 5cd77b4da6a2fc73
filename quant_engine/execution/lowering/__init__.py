"""Lowering: keeping activations in int8 between the layers of a quantized model."""

from quant_engine.execution.lowering.lower import is_lowered, lower_model, lowered_layers
from quant_engine.execution.lowering.steps import LoweredLayer, LoweredStep

__all__ = ["LoweredLayer", "LoweredStep", "is_lowered", "lower_model", "lowered_layers"]
