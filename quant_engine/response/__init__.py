"""The output of any configuration, predicted from gradients."""

from quant_engine.response.agreement import as_pairs
from quant_engine.response.storage import response_from_arrays

__all__ = [
    "as_pairs",
    "response_from_arrays",
]
