from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from quant_engine.analysis import quick_looks
from quant_engine.analysis.quick_looks import (
    analyze_tensor_distribution,
    compare_models,
    load_quantization_config,
    print_quantization_summary,
    save_quantization_config,
)
from quant_engine.errors import DataError, ModelForwardError, NotCalibratedError, StorageError
from quant_engine.execution.clock import benchmark_inference
from quant_engine.quantization.quantize import quantize_model
from quant_engine.tensors.quantizer import Int8Quantizer
from tests.quant_engine.strategies import tensors


class Fixed(nn.Module):
    """Answers with a constant."""

    def __init__(self, answer):
        super().__init__()
        self.register_buffer("answer", torch.as_tensor(answer, dtype=torch.float32))

    def forward(self, x):
        return self.answer


@pytest.fixture(autouse=True)
def _few_runs(monkeypatch):
    def quick(model, input_tensor):
        return benchmark_inference(model, input_tensor, num_runs=3, warmup_runs=1)

    monkeypatch.setattr(quick_looks, "benchmark_inference", quick)


# --- one tensor -----------------------------------------------------------------------------------


def test_a_distribution_by_hand():
    assert analyze_tensor_distribution(torch.tensor([[1.0, 2.0], [3.0, 6.0]])) == {
        "mean": 3.0,
        "std": pytest.approx(math.sqrt(14 / 3)),
        "min": 1.0,
        "max": 6.0,
        "median": 2.5,
        "q25": 1.75,
        "q75": 3.75,
        "shape": [2, 2],
        "dtype": "torch.float32",
        "num_elements": 4,
    }


@given(tensors(limit=1e30))
def test_a_distribution_is_numpys(x):
    values = x.double().numpy()
    found = analyze_tensor_distribution(x)
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(values.std(ddof=1) if values.size > 1 else 0.0, rel=1e-12)
    assert found["median"] == pytest.approx(np.median(values), rel=1e-12)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.bfloat16, torch.float64])
def test_any_real_dtype_is_described(dtype):
    found = analyze_tensor_distribution(torch.tensor([0, 1, 1, 1]).to(dtype))
    assert (found["mean"], found["dtype"]) == (0.75, str(dtype))


def test_tensors_of_more_than_sixteen_million_values_are_described():
    found = analyze_tensor_distribution(torch.zeros(1).expand(2**24 + 1))
    assert found["q75"] == 0.0


def test_tensors_without_a_distribution_are_refused():
    with pytest.raises(DataError, match=r"shape \(0,\)"):
        analyze_tensor_distribution(torch.empty(0))
    with pytest.raises(DataError, match="1 NaN or Inf among 2"):
        analyze_tensor_distribution(torch.tensor([1.0, math.nan]))


# --- two models -----------------------------------------------------------------------------------


def small_model():
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10))


def test_a_comparison_has_the_known_keys_and_adds_up():
    model, x = small_model(), torch.randn(20, 16)
    quantized = quantize_model(model, x)
    found = compare_models(model, quantized, x, num_classes=10)
    assert set(found) == {
        "original_size",
        "quantized_size",
        "size_reduction_ratio",
        "original_timing",
        "quantized_timing",
        "speedup_ratio",
        "output_error",
        "prediction_agreement",
        "top1_overlap",
        "top3_overlap",
        "top5_overlap",
    }
    sizes = found["original_size"]["total_mb"], found["quantized_size"]["total_mb"]
    assert found["size_reduction_ratio"] == sizes[0] / sizes[1] > 2.5
    times = found["original_timing"]["mean_ms"], found["quantized_timing"]["mean_ms"]
    assert found["speedup_ratio"] == times[0] / times[1]
    assert found["output_error"]["cosine_similarity"] > 0.999
    assert found["prediction_agreement"] == found["top1_overlap"] >= 0.9


def test_overlaps_by_hand():
    original = [[9.0, 8.0, 7.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    changed = [[8.0, 9.0, 0.0, 7.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    found = compare_models(Fixed(original), Fixed(changed), torch.zeros(2, 1), num_classes=6)
    assert found["prediction_agreement"] == found["top1_overlap"] == 0.5
    assert found["top3_overlap"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["top5_overlap"] == pytest.approx((4 / 5 + 1) / 2)


def test_few_classes_leave_the_larger_overlaps_out():
    found = compare_models(Fixed([[1.0, 2.0]]), Fixed([[1.0, 2.0]]), torch.zeros(1), num_classes=2)
    assert {key for key in found if key.startswith("top")} == {"top1_overlap"}


@pytest.mark.parametrize("answer", [[1.0, 2.0], [[[1.0, 2.0]]]])
def test_outputs_that_are_no_table_have_no_predictions(answer):
    found = compare_models(Fixed(answer), Fixed(answer), torch.zeros(1), num_classes=2)
    assert "prediction_agreement" not in found
    assert found["output_error"]["mse"] == 0.0


def test_without_classes_no_predictions_are_compared():
    found = compare_models(Fixed([[1.0, 2.0]]), Fixed([[1.0, 2.0]]), torch.zeros(1))
    assert "prediction_agreement" not in found


def test_modes_come_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    compare_models(model, model, torch.zeros(2, 4))
    assert all(module.training for module in model.modules())


def test_models_without_parameters_have_no_ratio_to_divide_by():
    assert compare_models(nn.ReLU(), nn.ReLU(), torch.ones(2))["size_reduction_ratio"] == 1.0
    found = compare_models(Fixed([1.0]), nn.ReLU(), torch.ones(1))
    assert found["size_reduction_ratio"] == math.inf


@pytest.mark.parametrize("num_classes", [0, 3, -1])
def test_a_wrong_number_of_classes_is_refused(num_classes):
    with pytest.raises(DataError, match=f"num_classes is {num_classes}.* 2 columns"):
        compare_models(Fixed([[1.0, 2.0]]), Fixed([[1.0, 2.0]]), torch.zeros(1), num_classes)


def test_models_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match="shapes"):
        compare_models(Fixed([1.0]), Fixed([1.0, 2.0]), torch.zeros(1))
    with pytest.raises(ModelForwardError, match="test_input"):
        compare_models(nn.Linear(3, 3), nn.Linear(3, 3), torch.zeros(1, 2))
    with pytest.raises(DataError, match="NaN or Inf"):
        compare_models(Fixed([math.nan]), Fixed([1.0]), torch.zeros(1))


def test_signatures_are_the_known_ones():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(compare_models) == [
        "original_model",
        "quantized_model",
        "test_input",
        "num_classes",
    ]
    assert names(analyze_tensor_distribution) == ["tensor"]
    assert names(print_quantization_summary) == ["quantizer", "tensor"]
    assert names(save_quantization_config) == ["quantizer", "filepath"]
    assert names(load_quantization_config) == ["filepath"]


# --- summaries ------------------------------------------------------------------------------------


def test_a_summary_shows_grid_ranges_and_errors(capsys):
    x = torch.tensor([-1.27, 0.004, 0.5])
    quantizer = Int8Quantizer()
    quantizer.calibrate(x)
    print_quantization_summary(quantizer, x)
    text = capsys.readouterr().out
    for part in ("int8", "symmetric", "0.01", "-127 to 50", "SNR", "[3]", "cosine similarity"):
        assert part in text


def test_a_summary_of_channels_shows_how_far_they_reach(capsys):
    x = torch.tensor([[0.0, 2.55], [-1.0, 24.5]])
    quantizer = Int8Quantizer(symmetric=False, per_channel=True, bits=8)
    quantizer.calibrate(x)
    print_quantization_summary(quantizer, x)
    text = capsys.readouterr().out
    assert "2 on axis 0" in text
    assert "0.01 to 0.1" in text
    assert "-128 to -118" in text
    assert "asymmetric" in text


def test_a_summary_needs_a_grid(capsys):
    with pytest.raises(NotCalibratedError, match=r"Call calibrate\(\)"):
        print_quantization_summary(Int8Quantizer(), torch.ones(2))
    assert capsys.readouterr().out == ""


# --- stored settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_settings_survive_a_file_exactly(tmp_path, per_channel, symmetric):
    x = torch.randn(4, 30)
    quantizer = Int8Quantizer(symmetric, per_channel, channel_axis=0)
    quantizer.calibrate(x)
    path = tmp_path / "quantizer.json"
    save_quantization_config(quantizer, str(path))
    config = load_quantization_config(str(path))
    expected = quantizer.get_quantization_params()
    assert list(config) == list(expected)
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(config[key], value)
            assert config[key].dtype == value.dtype
        else:
            assert config[key] == value
    again = Int8Quantizer(config["symmetric"], config["per_channel"], config["channel_axis"])
    again.set_quantization_params(config["scale"], config["zero_point"])
    assert torch.equal(again.quantize(x), quantizer.quantize(x))


def test_a_quantizer_without_a_grid_and_one_of_fewer_bits_can_be_stored(tmp_path):
    path = tmp_path / "quantizer.json"
    save_quantization_config(Int8Quantizer(), path)
    assert load_quantization_config(path) == Int8Quantizer().get_quantization_params()
    quantizer = Int8Quantizer(symmetric=False, bits=4)
    quantizer.calibrate(torch.tensor([0.0, 15.0]))
    save_quantization_config(quantizer, path)
    c = load_quantization_config(path)
    assert (c["bits"], c["zero_point"]) == (4, -8)
    again = Int8Quantizer(
        c["symmetric"], c["per_channel"], c["channel_axis"], bits=c.get("bits", 8)
    )
    again.set_quantization_params(c["scale"], c["zero_point"])
    assert again.quantize(torch.tensor([0.0, 15.0])).tolist() == [-8, 7]


GOOD = {
    "scale": 0.5,
    "zero_point": 0,
    "symmetric": True,
    "per_channel": False,
    "channel_axis": 0,
    "is_calibrated": True,
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON|decode"),
        ("[]", "holds a list"),
        ({**GOOD, "scales": 1}, "Did you mean 'scale'"),
        ({"scale": 1.0}, "lacks zero_point, symmetric"),
        ({**GOOD, "scale": "big"}, "no quantizer's settings"),
        ({**GOOD, "scale": None}, "no quantizer's settings"),
        ({**GOOD, "scale": 0}, "positive and finite"),
        ({**GOOD, "scale": [0.5, [1]]}, "no quantizer's settings"),
        ({**GOOD, "scale": [0.5, 0.5]}, r"scale has shape \(2,\)"),
        ({**GOOD, "zero_point": 3}, "0 with symmetric=True"),
        ({**GOOD, "symmetric": "yes"}, "symmetric is 'yes'"),
        ({**GOOD, "channel_axis": None}, "channel_axis is None"),
        ({**GOOD, "bits": 99}, "bits is 99"),
        ({**GOOD, "is_calibrated": "no"}, "is_calibrated is 'no'"),
        ({**GOOD, "is_calibrated": False}, "must be null where is_calibrated is false"),
    ],
)
def test_a_file_with_something_else_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "quantizer.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=message) as caught:
        load_quantization_config(path)
    assert "quantizer.json" in str(caught.value)


def test_files_that_cannot_be_reached_are_named(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot read .*missing\.json"):
        load_quantization_config(tmp_path / "missing.json")
    with pytest.raises(StorageError, match="Cannot write"):
        save_quantization_config(Int8Quantizer(), tmp_path / "no" / "folder.json")
