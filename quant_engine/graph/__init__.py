"""The one graph of a model: what its forward computes, captured by running it once."""

from quant_engine.graph.capture import Program, capture_graph, capture_program
from quant_engine.graph.forms import put_together, take_apart
from quant_engine.graph.kinds import capture_attempts, kind_of, structure_of
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
    "Program",
    "attribute_of",
    "capture_attempts",
    "capture_graph",
    "capture_program",
    "kind_of",
    "module_path",
    "put_together",
    "structure_of",
    "take_apart",
    "value_readers",
]
