"""Many versions of one model, run without repeating what they share."""

from quant_engine.variants.layers import ACTIVATIONS, BOTH, WEIGHTS
from quant_engine.variants.options import FLOAT_OPTION, OPTION_BITS

__all__ = ["ACTIVATIONS", "BOTH", "FLOAT_OPTION", "OPTION_BITS", "WEIGHTS"]
