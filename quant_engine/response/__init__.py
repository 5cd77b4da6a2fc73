"""The output of any configuration, predicted from gradients."""

from quant_engine.response.agreement import as_pairs
from quant_engine.response.storage import response_from_arrays
from quant_engine.response.trust import describe_degradation, describe_region, find_region

__all__ = [
    "as_pairs",
    "describe_degradation",
    "describe_region",
    "find_region",
    "response_from_arrays",
]
