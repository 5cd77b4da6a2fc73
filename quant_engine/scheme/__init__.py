"""How to quantize: schemes for one tensor, for one layer and for a whole model, and remedies.

Everything here is a frozen, hashable, validated value without torch, so that it can key a cache,
travel in a link, and be compared. `to_dict` and `from_dict` round-trip; unknown keys are rejected.
"""

from quant_engine.scheme.candidate import GPTQ, NEAREST, ROUNDINGS, Candidate
from quant_engine.scheme.recipe import (
    GRANULARITIES,
    HQQ,
    MAX_BITS,
    MAX_GROUP_SIZE,
    MIN_BITS,
    MIN_GROUP_SIZE,
    OBSERVERS,
    PRESETS,
    WEIGHT_OBSERVERS,
    LayerScheme,
    Overrides,
    Recipe,
    TensorScheme,
    observers_for,
)
from quant_engine.scheme.remedies import (
    AUTO,
    REMEDIES,
    AdaRound,
    Awq,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    OutputMse,
    Remedy,
    SmoothQuant,
)

__all__ = [
    "AUTO",
    "GPTQ",
    "GRANULARITIES",
    "HQQ",
    "MAX_BITS",
    "MAX_GROUP_SIZE",
    "MIN_BITS",
    "MIN_GROUP_SIZE",
    "NEAREST",
    "OBSERVERS",
    "PRESETS",
    "REMEDIES",
    "ROUNDINGS",
    "WEIGHT_OBSERVERS",
    "AdaRound",
    "Awq",
    "BiasCorrection",
    "Candidate",
    "CrossLayerEqualization",
    "Gptq",
    "LayerScheme",
    "OutputMse",
    "Overrides",
    "Recipe",
    "Remedy",
    "SmoothQuant",
    "TensorScheme",
    "observers_for",
]
