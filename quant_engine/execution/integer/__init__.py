"""Quantized layers on integers; importing this package registers the arithmetic of every layer."""

from quant_engine.execution.integer import convolution as convolution
from quant_engine.execution.integer import linear as linear
from quant_engine.execution.integer.form import (
    KernelForm,
    PackedLayer,
    register_packed_layer,
    why_not_integer,
)

__all__ = ["KernelForm", "PackedLayer", "register_packed_layer", "why_not_integer"]
