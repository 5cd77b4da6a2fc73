"""What repairs layers that quantization breaks, one remedy per file."""

from quant_engine.remedies.adaround import estimate_adaround_seconds
from quant_engine.remedies.apply import (
    remedies_left_out,
    treat_float_model,
    treat_locally,
    treat_quantized_model,
    treatment_steps,
)
from quant_engine.remedies.passes import Passes
from quant_engine.remedies.targets import SmoothingGroup, Targets, find_targets

__all__ = [
    "Passes",
    "SmoothingGroup",
    "Targets",
    "estimate_adaround_seconds",
    "find_targets",
    "remedies_left_out",
    "treat_float_model",
    "treat_locally",
    "treat_quantized_model",
    "treatment_steps",
]
