"""How much memory the engine holds beside the caller's model, in bytes of tensors."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from torch import nn

from quant_engine import PRESETS, LogitResponse, analyze
from quant_engine.analysis.tensor_reports import weight_report
from quant_engine.layers import QuantizedLinear
from quant_engine.quantization.storage import serialized_bytes
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import quantize, quantize_in_pieces
from quant_engine.tensors.observers import choose_weight_qparams
from tests.quant_engine.live_bytes import peak_bytes

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PIECES = 6 << 20  # a few float copies of 1 MiB, and one batch's activations


def make_model() -> nn.Module:
    """Return a VGG's shape: small convolutions, and one layer that holds nearly everything."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 3072),
        nn.ReLU(),
        nn.Linear(3072, 10),
    ).eval()


def test_the_counter_counts_what_is_alive_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        second[:10].add_(1)
        torch.zeros(500)

    assert peak_bytes(work) == 8000


@pytest.mark.parametrize("preset", ["int8_per_channel", "int8_per_tensor"])
def test_codes_and_description_of_a_weight_take_pieces_of_it(preset: str) -> None:
    layer = nn.Linear(2048, 2048, bias=False)
    scheme = LayerScheme(PRESETS[preset].weight)
    made: list[QuantizedLinear] = []

    codes = peak_bytes(lambda: made.append(QuantizedLinear.from_float(layer, scheme)))
    described = peak_bytes(lambda: weight_report(layer.weight, made[0]))

    assert codes <= layer.weight.numel() + PIECES
    assert described <= PIECES


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_codes_in_pieces_are_those_of_the_whole(axis: int | None, size: int | None) -> None:
    values = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    if axis == 1:
        values = values.T.contiguous().T
    granularity = "per_tensor" if axis is None else "per_group" if size else "per_channel"
    scheme = TensorScheme(
        symmetric=False, granularity=granularity, group_size=None if axis is None else size
    )
    grid = choose_weight_qparams(values, scheme, axis or 0)

    codes = quantize_in_pieces(values, grid)

    assert torch.equal(codes, quantize(values, grid))
    assert codes.stride() == values.stride()


def test_an_analysis_holds_a_copy_the_codes_and_one_layer_in_float() -> None:
    model = make_model()
    floats = sum(parameter.nbytes for parameter in model.parameters())
    largest = max(parameter.nbytes for parameter in model.parameters())

    peak = peak_bytes(
        lambda: analyze(model, INPUTS, PRESETS["int8_per_channel"], measure_time=False)
    )

    assert floats < peak <= floats + floats // 4 + largest + PIECES


def test_a_response_holds_a_copy_the_codes_of_all_options_and_two_layers_in_float() -> None:
    model = make_model()
    floats = sum(parameter.nbytes for parameter in model.parameters())
    largest = max(parameter.nbytes for parameter in model.parameters())

    peak = peak_bytes(lambda: LogitResponse.measure(model, INPUTS, agreement_configurations=2))

    assert floats < peak <= floats + 5 * floats // 4 + 2 * largest + PIECES


def test_the_length_of_a_file_is_known_without_building_it() -> None:
    model = make_model()
    tracemalloc.start()

    size = serialized_bytes(model)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 12e6
    assert peak < 1e6
