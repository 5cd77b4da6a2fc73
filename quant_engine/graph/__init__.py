"""The one graph of a model: what its forward computes, captured by running it once."""

from quant_engine.graph.capture import capture_graph
from quant_engine.graph.layer_calls import (
    CONVOLUTIONS,
    LAYERS,
    LINEAR,
    TRANSPOSED,
    LayerCalls,
    value_readers,
)
from quant_engine.graph.nodes import attribute_of, module_path

__all__ = [
    "CONVOLUTIONS",
    "LAYERS",
    "LINEAR",
    "TRANSPOSED",
    "LayerCalls",
    "attribute_of",
    "capture_graph",
    "module_path",
    "value_readers",
]
