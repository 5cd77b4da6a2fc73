from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from quant_engine import analyze, measure_sensitivity, report
from quant_engine.errors import StorageError
from quant_engine.report import (
    SCHEMA_VERSION,
    ModelReport,
    ResponseOption,
    ResponseReport,
    SensitivityReport,
)
from quant_engine.report.serialization import decode, encode
from quant_engine.scheme import LOCAL_REMEDIES, PRESETS, LayerScheme, Recipe, TensorScheme
from tests.quant_engine.layer_cases import layer_schemes
from tests.quant_engine.strategies import schemes

st.register_type_strategy(int, st.integers(-(2**63) + 1, 2**63 - 1))
st.register_type_strategy(TensorScheme, schemes())
st.register_type_strategy(LayerScheme, layer_schemes)
st.register_type_strategy(Recipe, st.sampled_from(list(PRESETS.values())))
st.register_type_strategy(
    ResponseOption,
    st.builds(
        ResponseOption,
        st.text(max_size=5),
        layer_schemes,
        st.sampled_from([(), *((kind,) for kind in LOCAL_REMEDIES)]),
    ),
)
DATACLASSES = [
    value for name in report.__all__ if dataclasses.is_dataclass(value := getattr(report, name))
]
LARGE = (ModelReport, SensitivityReport, ResponseReport)
SMALL = [cls for cls in DATACLASSES if cls not in LARGE]


@pytest.fixture(scope="module")
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


@pytest.fixture(scope="module")
def model_report(model, data) -> ModelReport:
    return analyze(model, data, model_name="tiny")


@pytest.fixture(scope="module")
def sensitivity_report(model, data) -> SensitivityReport:
    return measure_sensitivity(model, data)


@pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_part_survives_json(cls, data):
    value = data.draw(st.from_type(cls))
    plain = json.loads(json.dumps(encode(value), allow_nan=False))
    back = decode(cls, plain)
    assert type(back) is cls
    assert encode(back) == encode(value)


@pytest.mark.parametrize("cls", DATACLASSES, ids=lambda cls: cls.__name__)
def test_every_part_is_frozen_and_describes_each_field(cls):
    assert cls.__dataclass_params__.frozen
    fields = {field.name for field in dataclasses.fields(cls)}
    documented = {
        line.split(":")[0].strip()
        for line in (cls.__doc__ or "").split("Attributes:")[1].splitlines()
        if line.startswith("        ") and not line.startswith("         ") and ":" in line
    }
    assert fields <= documented, fields - documented


def test_a_model_report_survives_json(model_report):
    assert ModelReport.from_json(model_report.to_json()) == model_report
    assert ModelReport.from_dict(model_report.to_dict()) == model_report


def test_a_sensitivity_report_survives_json(sensitivity_report):
    assert SensitivityReport.from_json(sensitivity_report.to_json()) == sensitivity_report


def test_infinite_figures_survive_in_strict_json(model_report):
    layer = model_report.layers[0]
    exact = dataclasses.replace(layer.local_error, sqnr_db=math.inf)
    changed = dataclasses.replace(
        model_report, layers=(dataclasses.replace(layer, local_error=exact),)
    )
    text = changed.to_json()
    assert "Infinity" not in text
    assert ModelReport.from_json(text).layers[0].local_error.sqnr_db == math.inf


def test_a_layer_is_found_by_name(model_report):
    name = model_report.layers[1].name
    assert model_report.layer(name) is model_report.layers[1]
    with pytest.raises(KeyError, match="Valid: 0, 2"):
        model_report.layer("nine")


def test_quantized_layers_leave_out_the_rest(model, data):
    found = analyze(model, data, Recipe.default().with_excluded("2"), measure_time=False)
    assert [layer.name for layer in found.quantized_layers] == ["0"]
    assert [layer.name for layer in found.layers] == ["0", "2"]
    assert found.layer("2").weight_error is None
    assert found.layer("0").weight_error == found.layer("0").weight.error


def test_sizes_are_the_sums_of_their_items(model_report):
    size = model_report.size
    items = ("weight", "scale", "zero_point", "bias", "float_leftover")
    assert size.quantized_bytes == sum(getattr(size, f"{item}_bytes") for item in items)
    assert size.quantized_bytes == sum(layer.size.quantized_bytes for layer in model_report.layers)


def test_timings_are_found_by_execution_and_batch_size(model_report):
    timing = model_report.timing
    assert timing.model("float", 8).execution == "float"
    assert timing.model("float", 8).batch_size == 8
    assert timing.model("float", 7) is None
    assert timing.model("integer", 8).execution == "integer"
    assert timing.model("integer", 7) is None


@pytest.mark.parametrize("cls", [ModelReport, SensitivityReport])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        (None, "Not JSON: a NoneType"),
        ("[" * 100_000, "not JSON"),
        ("[]", "A report is a JSON object, got list"),
        ("null", "A report is a JSON object, got NoneType"),
        ("{}", "schema version None"),
        ('{"schema_version": 99}', "schema version 99; this version reads 1"),
        ('{"schema_version": 1}', "lacks"),
    ],
)
def test_text_that_is_no_report_is_refused(cls, text, message):
    with pytest.raises(StorageError, match=message):
        cls.from_json(text)


def test_a_report_with_a_changed_field_is_refused_with_its_place(model_report):
    data = model_report.to_dict()
    data["layers"][0]["weight"]["error"]["mse"] = "small"
    with pytest.raises(StorageError, match=r"ModelReport\.layers\[0\]\.weight\.error\.mse"):
        ModelReport.from_dict(data)


def test_the_version_is_part_of_the_report(model_report):
    assert json.loads(model_report.to_json())["schema_version"] == SCHEMA_VERSION
