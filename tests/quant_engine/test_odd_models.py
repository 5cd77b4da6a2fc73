"""Models that are a little odd: one layer alone, a `train` of their own, no answer at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    PRESETS,
    LogitResponse,
    Recipe,
    analyze,
    list_executions,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
    search_configuration,
    verify_configurations,
)
from quant_engine.errors import DataError, SchemeError
from quant_engine.execution.convert import convert_execution
from quant_engine.execution.kernels.codes import to_codes
from quant_engine.tensors.affine import QParams
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((9, 6))


def test_a_single_layer_goes_by_its_empty_name() -> None:
    model = fill(nn.Linear(6, 4))
    response = LogitResponse.measure(model, X, agreement_configurations=2)
    option = response.options[1]
    recipe = response.recipe({"": option}).layer_scheme("")

    assert response.layers == ("",)
    assert response.recipe({}).layer_scheme("") is None
    assert recipe is not None
    assert recipe.weight.bits == 6
    found = search_configuration(response, float_layers=0)
    assert set(found.as_dict()) == {""}
    (verified,) = verify_configurations(model, X, response, [{"": option}])
    assert verified.degradation > 0
    assert measure_sensitivity(model, X).layers[0].name == ""


def test_a_single_layer_has_overrides_and_can_be_excluded() -> None:
    model = fill(nn.Linear(6, 4))
    recipe = Recipe.default().with_layer_bits("", 3)

    weight = analyze(model, X, recipe, measure_time=False).layers[0].weight
    assert weight is not None
    assert weight.scheme.bits == 3
    excluded = analyze(model, X, recipe.with_excluded(""), measure_time=False)
    assert excluded.layers[0].status == "excluded"
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(SchemeError, match="names '', which is not a layer"):
        quantize_model(nn.Sequential(model), X, Recipe.default().with_excluded(""))


class Frozen(nn.Module):
    """Keeps its BatchNorm in eval mode; `train`, and so `eval`, returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 3)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.norm(self.convolution(x))).mean((2, 3)))
        return y


@torch.no_grad()
def test_train_may_return_nothing(tmp_path: Any) -> None:
    images, model = seeded((5, 3, 6, 6)), fill(Frozen())
    quantized = quantize_model(model, images)
    save_quantized_model(quantized, tmp_path)

    assert torch.equal(load_quantized_model(model, tmp_path)(images), quantized(images))
    assert convert_execution(quantized, lowered=True)(images).shape == (5, 3)
    assert len(measure_sensitivity(model, images).layers) == 2
    assert LogitResponse.measure(model, images, agreement_configurations=2).layers
    assert analyze(model, images).timing is not None


class Choosing(nn.Module):
    """Answers for the samples that it finds, which may be none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y[y.amax(1) > 1e9]


@pytest.mark.parametrize("judge", [analyze, measure_sensitivity, LogitResponse.measure])
def test_an_output_without_rows_cannot_be_judged(judge: Any) -> None:
    with pytest.raises(DataError, match=r"the shape \(0, 4\) and so no values"):
        judge(fill(Choosing()), X)


@pytest.mark.parametrize(
    ("channels", "kernel", "groups"), [((128, 64), 4, 1), ((64, 64), 4, 64), ((2064, 2), 4, 1)]
)
@torch.no_grad()
def test_a_transposed_convolution_of_ordinary_size_runs_on_integers(
    channels: tuple[int, int], kernel: int, groups: int
) -> None:
    model = nn.Sequential(fill(nn.ConvTranspose2d(*channels, kernel, 2, groups=groups)))
    images = seeded((2, channels[0], 3, 3))
    quantized = quantize_model(model, images)
    integer = convert_execution(quantized)

    torch.testing.assert_close(integer(images), quantized(images), rtol=1e-4, atol=1e-2)
    assert list_executions(integer)[0].execution == "integer"


@torch.no_grad()
def test_a_transposed_convolution_of_too_many_products_says_how_many() -> None:
    model = nn.Sequential(fill(nn.ConvTranspose2d(2065, 2, 4, 2)))
    (found,) = list_executions(convert_execution(quantize_model(model, seeded((1, 2065, 2, 2)))))

    assert found.execution == "simulated"
    assert "33040 products" in found.reason


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("dtype", "preset"), [(torch.float32, "int8_per_channel"), (torch.float64, "int8_dynamic")]
)
@torch.no_grad()
def test_the_default_dtype_changes_no_number(
    dtype: torch.dtype, preset: str, tmp_path: Any, float64_by_default: None
) -> None:
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3, dtype=dtype), nn.Flatten()))
    model.append(fill(nn.Linear(64, 3, dtype=dtype)))
    images, recipe = seeded((4, 3, 6, 6)).to(dtype), PRESETS[preset]

    def everything() -> list[Any]:
        quantized = quantize_model(model, images, recipe)
        save_quantized_model(quantized, tmp_path)
        runs = [
            quantized,
            load_quantized_model(model, tmp_path),
            convert_execution(quantized),
            convert_execution(quantized, lowered=True),
        ]
        answers = [run(images) for run in runs]
        kernels = [execution.kernel for execution in list_executions(runs[2])]
        report = measure_sensitivity(model, images, recipe)
        return [*answers, kernels, report, analyze(model, images, recipe, measure_time=False)]

    found = everything()
    torch.set_default_dtype(torch.float32)
    for one, other in zip(found, everything(), strict=True):
        is_same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        assert is_same


def test_values_are_rounded_in_float32_whatever_the_default(float64_by_default: None) -> None:
    values = seeded((40, 7, 33, 17)) * 3
    grid = QParams(torch.tensor(0.0371, dtype=torch.float32), torch.tensor(3), -128, 127)
    codes = to_codes(values, grid)
    torch.set_default_dtype(torch.float32)

    assert torch.equal(codes, to_codes(values, grid))
