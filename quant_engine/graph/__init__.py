"""The one graph of a model: what its forward computes, captured by running it once."""

from quant_engine.graph.capture import capture_graph
from quant_engine.graph.nodes import attribute_of, module_path

__all__ = ["attribute_of", "capture_graph", "module_path"]
