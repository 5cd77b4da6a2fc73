"""What hypothesis draws: tensors of every magnitude, schemes, and ways to cut a stream."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from quant_engine.scheme import GRANULARITIES, MAX_BITS, MIN_BITS, OBSERVERS, TensorScheme

LARGEST = float(np.float32(1e37))
"""Far below the end of float32, where the scale has to be cut short."""

bits = st.integers(MIN_BITS, MAX_BITS)


def numbers(limit: float = LARGEST) -> st.SearchStrategy[float]:
    """Any float32 up to `limit`: zeros of both signs, subnormals, ordinary and huge values."""
    largest = float(np.float32(limit))
    return st.one_of(
        st.floats(-largest, largest, width=32),
        st.floats(-8.0, 8.0, width=32),
        st.integers(-100, 100).map(float),
    )


def tensors(
    shape: st.SearchStrategy[tuple[int, ...]] | tuple[int, ...] | None = None,
    limit: float = LARGEST,
) -> st.SearchStrategy[Tensor]:
    """Float32 tensors that hold at least one value."""
    shapes = hnp.array_shapes(max_dims=3, max_side=6) if shape is None else shape
    return hnp.arrays(np.float32, shapes, elements=numbers(limit)).map(torch.from_numpy)


def streams(limit: float = LARGEST) -> st.SearchStrategy[list[Tensor]]:
    """One or more tensors of any lengths, in order."""
    return st.lists(tensors((4,), limit) | tensors((1,), limit), min_size=1, max_size=6)


def schemes(granularity: str | None = None) -> st.SearchStrategy[TensorScheme]:
    """Any valid scheme."""
    granularities = GRANULARITIES if granularity is None else (granularity,)

    def build(kind: str) -> st.SearchStrategy[TensorScheme]:
        return st.builds(
            TensorScheme,
            bits=bits,
            symmetric=st.booleans(),
            granularity=st.just(kind),
            observer=st.sampled_from(OBSERVERS),
            percentile=st.floats(50.0, 100.0, exclude_min=True),
            group_size=st.integers(2, 40) if kind == "per_group" else st.none(),
        )

    return st.sampled_from(granularities).flatmap(build)
