"""What each layer costs, measured by running the model with it changed."""

from quant_engine.sensitivity.curve import CURVE_POINTS
from quant_engine.sensitivity.measurement import DIRECTIONS, LEAVE_ONE_OUT, ONE_AT_A_TIME

__all__ = [
    "CURVE_POINTS",
    "DIRECTIONS",
    "LEAVE_ONE_OUT",
    "ONE_AT_A_TIME",
]
