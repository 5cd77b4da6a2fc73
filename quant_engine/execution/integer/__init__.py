"""Quantized layers on integers; importing this package registers the arithmetic of every layer."""

from quant_engine.execution.integer.convolution import (
    PackedConv1d,
    PackedConv2d,
    PackedConvTranspose,
)
from quant_engine.execution.integer.form import (
    KernelForm,
    PackedLayer,
    register_packed_layer,
    why_not_integer,
)
from quant_engine.execution.integer.linear import PackedLinear

__all__ = [
    "KernelForm",
    "PackedConv1d",
    "PackedConv2d",
    "PackedConvTranspose",
    "PackedLayer",
    "PackedLinear",
    "register_packed_layer",
    "why_not_integer",
]
