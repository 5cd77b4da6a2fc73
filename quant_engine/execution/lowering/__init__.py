"""Lowering: keeping activations in int8 between the layers of a quantized model."""

from quant_engine.execution.lowering.lower import (
    LoweredModel,
    is_lowered,
    lower_model,
    lowered_steps,
    watchable,
)
from quant_engine.execution.lowering.steps import LoweredLayer, LoweredStep

__all__ = [
    "LoweredLayer",
    "LoweredModel",
    "LoweredStep",
    "is_lowered",
    "lower_model",
    "lowered_steps",
    "watchable",
]
