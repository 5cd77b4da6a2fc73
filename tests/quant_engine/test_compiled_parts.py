"""Models with a part that was compiled or exported: the rest is quantized, and the part named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from quant_engine import (
    LogitResponse,
    analyze,
    convert_execution,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
)
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((8, 6))

# TorchScript is deprecated; what people have of it still comes in.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
of_torch = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # when copying a program


def around(part: nn.Module) -> nn.Module:
    return nn.Sequential(fill(nn.Linear(6, 6)), part, fill(nn.Linear(6, 3)))


def make_part() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))


@pytest.fixture(scope="module")
def scripted() -> nn.Module:
    return around(torch.jit.script(make_part()).eval())


def test_a_scripted_part_stays_float_and_the_rest_is_quantized(
    scripted: nn.Module, tmp_path: Path
) -> None:
    report = analyze(scripted, X, measure_time=False)
    quantized = quantize_model(scripted, X)

    assert (report.coverage.on_codes, report.coverage.weights) == (54, 90)
    (left,) = report.coverage.left_out
    assert "TorchScript" in left.reason
    with torch.no_grad():
        save_quantized_model(quantized, tmp_path)
        assert torch.equal(load_quantized_model(scripted, tmp_path)(X), quantized(X))
        torch.testing.assert_close(convert_execution(quantized)(X), quantized(X))


def test_sensitivity_and_predictions_pass_over_a_scripted_part(scripted: nn.Module) -> None:
    measured = {layer.name for layer in measure_sensitivity(scripted, X).layers}
    assert measured == {"0", "2"}
    response = LogitResponse.measure(scripted, X, agreement_configurations=2)
    assert "1.0" in dict(response.report.skipped)


@of_torch
def test_an_exported_part_says_what_it_is() -> None:
    part = torch.export.export(make_part().eval(), (X,), strict=False).module()
    report = analyze(around(part), X, measure_time=False)

    assert (report.coverage.on_codes, report.coverage.weights) == (54, 90)
    (left,) = report.coverage.left_out
    assert "torch.export" in left.reason
