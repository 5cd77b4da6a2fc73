"""Codes of 4 bits, two to a byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.errors import DataError
from quant_engine.tensors.nibbles import pack_nibbles, unpack_nibbles


def test_every_pair_of_codes_comes_back_and_has_a_byte_of_its_own() -> None:
    every = torch.arange(-8, 8, dtype=torch.int8)
    pairs = torch.cartesian_prod(every, every)

    packed = pack_nibbles(pairs)

    assert packed.shape == (256, 1)
    assert len(packed.unique()) == 256
    assert torch.equal(unpack_nibbles(packed, 2), pairs)
    assert torch.equal(unpack_nibbles(packed, 2, torch.float32), pairs.float())


@given(st.integers(0, 5), st.integers(1, 9))
def test_rows_of_any_length_come_back(rows: int, columns: int) -> None:
    codes = (torch.arange(rows * columns) % 16 - 8).to(torch.int8).view(rows, columns)
    packed = pack_nibbles(codes)
    assert packed.shape == (rows, (columns + 1) // 2)
    assert torch.equal(unpack_nibbles(packed, columns), codes)
    assert torch.equal(unpack_nibbles(packed[1:], columns), codes[1:])


@pytest.mark.parametrize("code", [-9, 8])
def test_a_code_that_does_not_fit_is_refused(code: int) -> None:
    with pytest.raises(DataError, match="4 bits hold"):
        pack_nibbles(torch.tensor([[0, code]], dtype=torch.int8))
