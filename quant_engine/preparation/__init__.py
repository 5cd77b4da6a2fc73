"""A private copy of the model, ready to be quantized, and the list of its layers."""

from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.selection import LayerInfo, list_layers

__all__ = ["LayerInfo", "list_layers", "prepare_for"]
