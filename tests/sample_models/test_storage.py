"""Weights and records on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sample_models import WeightsError
from sample_models.storage import (
    WeightsRecord,
    describe,
    read_record,
    read_weights,
    write_record,
    write_weights,
)


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    model, other = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in range(2))
    write_weights("net", model, tmp_path)
    read_weights("net", other, tmp_path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)


def test_record_comes_back(tmp_path: Path) -> None:
    record = WeightsRecord(parameters=10, float_bytes=40, correct=3, samples=4)
    write_record("net", record, tmp_path)
    assert read_record("net", tmp_path) == record
    assert record.accuracy == 0.75


def test_describe_counts_buffers_as_bytes_but_not_as_parameters() -> None:
    record = describe(nn.BatchNorm2d(4), correct=1, samples=2)
    assert record.parameters == 8
    # Weight, bias, mean and variance of 4 floats each, and one 8-byte counter.
    assert record.float_bytes == 4 * 4 * 4 + 8


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    write_weights("net", nn.Linear(2, 3), tmp_path)
    with pytest.raises(WeightsError, match=r"net\.safetensors do not fit the model 'net'"):
        read_weights("net", nn.Linear(2, 4), tmp_path)


def test_missing_files_say_how_to_train(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"python -m sample_models\.training net"):
        read_weights("net", nn.Linear(2, 4), tmp_path)
    with pytest.raises(WeightsError, match=r"python -m sample_models\.training net"):
        read_record("net", tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"parameters": 1}', '{"unknown": 1}'])
def test_a_record_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match="must hold exactly"):
        read_record("net", tmp_path)
