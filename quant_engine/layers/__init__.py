"""Quantized layers, one family per file; importing this package registers them all."""

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.convolution import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedSameConv2d,
)
from quant_engine.layers.embedding import (
    QuantizedEmbedding,
    QuantizedEmbeddingBag,
    QuantizedScaledEmbedding,
)
from quant_engine.layers.functional_weight import QuantizedFunctionalWeight
from quant_engine.layers.linear import QuantizedLinear
from quant_engine.layers.quantized_tensor import PackedTensor
from quant_engine.layers.registry import (
    get_quantized_type,
    is_quantizable,
    list_quantizable_types,
    register_quantized_layer,
)

__all__ = [
    "PackedTensor",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedConvTranspose1d",
    "QuantizedConvTranspose2d",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "QuantizedFunctionalWeight",
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedSameConv2d",
    "QuantizedScaledEmbedding",
    "get_quantized_type",
    "is_quantizable",
    "list_quantizable_types",
    "register_quantized_layer",
]
