"""What every entry point refuses, and odd input that none of them may stumble over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    PRESETS,
    Int8Quantizer,
    LogitResponse,
    Recipe,
    TensorScheme,
    analyze,
    calibrate,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
)
from quant_engine.errors import DataError, SchemeError, StorageError, UnsupportedLayerError
from tests.quant_engine.layer_cases import fill, seeded

ENTRY_POINTS = [analyze, calibrate, measure_sensitivity, quantize_model]


def data() -> Tensor:
    return torch.linspace(-1.0, 1.0, 15).view(5, 3)


class Total(nn.Module):
    """Answers with a single number, without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).square().sum()


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("recipe", ["int8", {}, {"weight": {}}, TensorScheme(), 0])
def test_a_recipe_of_another_type_is_refused(entry: Callable[..., Any], recipe: object) -> None:
    with pytest.raises(SchemeError, match="Give a Recipe"):
        entry(nn.Linear(3, 2), data(), recipe)


@pytest.mark.parametrize("seed", [-1, "0", 1.5, None, True])
def test_a_seed_that_is_none_is_refused_before_the_work(seed: object) -> None:
    steps: list[str] = []

    with pytest.raises(SchemeError, match="seed is"):
        measure_sensitivity(
            nn.Linear(3, 2),
            data(),
            seed=seed,  # type: ignore[arg-type]
            progress=lambda _done, _total, text: steps.append(text),
        )

    assert steps == []


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_layer_that_got_no_weights_yet_is_named(entry: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'0' is a LazyLinear.*Run the model once"):
        entry(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), data())


def test_an_output_without_axes_is_one_sample() -> None:
    model = fill(Total())

    report = analyze(model, data(), measure_time=False)
    sensitivity = measure_sensitivity(model, data())

    assert report.output is not None
    assert sensitivity.samples == 1
    assert sensitivity.layers[0].nmse == pytest.approx(report.output.error.nmse, rel=1e-6)


def test_data_made_in_inference_mode() -> None:
    model = fill(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.inference_mode():
        made = data()

    assert made.is_inference()
    assert measure_sensitivity(model, made) == measure_sensitivity(model, data())


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_sparse_data_is_refused(entry: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"batch 1 holds a sparse .*to_dense"):
        entry(nn.Linear(3, 2), [data(), data().to_sparse()])


def test_values_beyond_float32_are_counted() -> None:
    model = nn.Linear(3, 2).double()

    with pytest.raises(DataError, match="holds 15 NaN or Inf, or values beyond float32, among 15"):
        calibrate(model, data().double() * 1e300)


@pytest.mark.parametrize("scale", ["a", None, [[1.0], [1.0, 2.0]]])
def test_a_scale_that_is_no_number_is_refused(scale: Any) -> None:
    with pytest.raises(SchemeError, match="Give numbers"):
        Int8Quantizer().set_quantization_params(scale, 0)


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^Cannot read "):
        load_quantized_model(nn.Linear(3, 2), tmp_path)


class Noisy(nn.Module):
    """Draws random numbers in every pass, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 32)
        self.second = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(x), 0.5, training=True))


def test_both_models_draw_the_same_random_numbers() -> None:
    recipe = PRESETS["int8_weights_only"]
    report = analyze(fill(Noisy()), data(), recipe, measure_time=False)

    assert report.output is not None
    assert report.output.error.sqnr_db > 30.0
    assert report.layer("second").accumulated_error.sqnr_db > 30.0


class Tied(nn.Module):
    """A table that is the last layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).mean(1))


@pytest.mark.parametrize("head_bits", [8, 4])
def test_the_curve_counts_shared_weights_once(head_bits: int) -> None:
    ids = torch.arange(24).remainder(11).view(8, 3)
    model = fill(Tied())
    recipe = Recipe.default().with_layer_bits("head", head_bits)

    points = measure_sensitivity(model, ids, recipe).cumulative

    for point, quantized in zip(points, ([], [points[1].layer], None), strict=True):
        others = [] if quantized is None else [n for n in ("table", "head") if n not in quantized]
        size = analyze(model, ids, recipe.with_excluded(*others), measure_time=False).size
        assert size is not None
        assert point.model_bytes == size.quantized_bytes


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("job", [analyze, measure_sensitivity, LogitResponse.measure])
def test_a_label_that_is_no_class_is_refused(job, label):
    model = nn.Sequential(nn.Linear(4, 3))
    data = [(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, label]))]
    with pytest.raises(DataError, match=r"labels are no class of the output, .*3 classes, 0 to 2"):
        job(model, data)


JUDGES = {
    analyze: lambda report: report.output.accuracy_float,
    measure_sensitivity: lambda report: report.accuracy_float,
    LogitResponse.measure: lambda response: response.report.float_accuracy,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("label", [0.37, float("nan"), float("inf")])
@pytest.mark.parametrize("job", list(JUDGES))
def test_a_label_that_is_no_whole_number_is_refused(job, label, dtype):
    labels = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, label], dtype=dtype)
    with pytest.raises(DataError, match=r"1 of 6 labels are not integers, such as"):
        job(fill(nn.Sequential(nn.Linear(4, 3))), [(torch.randn(6, 4), labels)])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float16])
@pytest.mark.parametrize(("job", "accuracy"), list(JUDGES.items()))
def test_whole_numbers_of_any_type_are_classes(job, accuracy, dtype):
    model, x = fill(nn.Sequential(nn.Linear(4, 2))), seeded((6, 4))
    labels = model(x).argmax(dim=1)
    labels[0] = 1 - labels[0]
    assert accuracy(job(model, [(x, labels.to(dtype))])) == pytest.approx(5 / 6)
