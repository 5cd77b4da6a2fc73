"""Codes packed to their true width come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.tensors.packing import pack_codes, packed_length, unpack_codes

bits = st.integers(2, 8)


def bit_string(codes: Tensor, width: int) -> list[int]:
    """The definition, one bit at a time."""
    half = 1 << (width - 1)
    flags = [
        (int(code) + half) >> place & 1 for code in codes.reshape(-1) for place in range(width)
    ]
    flags += [0] * (-len(flags) % 8)
    return [sum(flags[i + place] << place for place in range(8)) for i in range(0, len(flags), 8)]


@st.composite
def coded(draw: st.DrawFn) -> tuple[Tensor, int]:
    width = draw(bits)
    half = 1 << (width - 1)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7))
    values = hnp.arrays(np.int8, shape, elements=st.integers(-half, half - 1))
    return torch.from_numpy(draw(values)), width


@given(case=coded())
def test_round_trip_and_layout(case: tuple[Tensor, int]) -> None:
    codes, width = case

    packed = pack_codes(codes, width)

    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_length(codes.numel(), width),)
    assert packed.numel() == -(-codes.numel() * width // 8)
    assert packed.tolist() == bit_string(codes, width)
    unpacked = unpack_codes(packed, width, tuple(codes.shape))
    assert unpacked.dtype == torch.int8
    assert torch.equal(unpacked, codes)


def test_worked_by_hand() -> None:
    # Shifted by 4: 0, 7, 5 -> bits 000 111 101, lowest first: 1|01 111 000 and the top bit of 5.
    packed = pack_codes(torch.tensor([-4, 3, 1], dtype=torch.int8), bits=3)

    assert packed.tolist() == [0b01111000, 1]


def test_strided_codes() -> None:
    codes = torch.randint(-4, 4, (5, 6), generator=torch.Generator().manual_seed(0)).to(torch.int8)

    packed = pack_codes(codes.t(), 3)

    assert torch.equal(unpack_codes(packed, 3, (6, 5)), codes.t())


@pytest.mark.parametrize("code", [-5, 4])
def test_codes_that_do_not_fit(code: int) -> None:
    with pytest.raises(DataError, match=r"3 bits hold \[-4, 3\]"):
        pack_codes(torch.tensor([0, code], dtype=torch.int8), 3)


@pytest.mark.parametrize("width", [0, 1, 9])
def test_widths_that_do_not_exist(width: int) -> None:
    with pytest.raises(DataError, match="must be 2 to 8"):
        pack_codes(torch.zeros(3, dtype=torch.int8), width)
    with pytest.raises(DataError, match="must be 2 to 8"):
        unpack_codes(torch.zeros(3, dtype=torch.uint8), width, (3,))


def test_a_wrong_number_of_bytes() -> None:
    with pytest.raises(DataError, match="6 codes of 4 bits take 3 bytes"):
        unpack_codes(torch.zeros(4, dtype=torch.uint8), 4, (2, 3))
