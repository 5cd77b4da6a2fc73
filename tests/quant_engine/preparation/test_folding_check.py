"""The prepared model computes on the data what the caller's model computes, whatever is hidden."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    LogitResponse,
    Recipe,
    analyze,
    calibrate,
    load_quantized_model,
    measure_sensitivity,
    quantize_model,
    save_quantized_model,
    verify_configurations,
)
from quant_engine.errors import DataError
from quant_engine.metrics.functions import kl_divergence
from quant_engine.preparation.batchnorm import Folding
from quant_engine.preparation.folding_check import prepare_for
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot

X = seeded((40, 2, 5, 5))


class Plain(nn.Module):
    """What can be folded, with a place to do more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z: Tensor = self.head(F.relu(self.joined(x, y, self.norm(y))).mean((2, 3)))
        return z

    def joined(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return z


class Hiding(Plain):
    """Reads the convolution's output where symbols do not come."""

    def joined(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return z + y if type(x) is Tensor else z


class Optional(Plain):
    """Reads it where an argument is given that need not be."""

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        z = self.norm(y) if skip is None else self.norm(y) + y * skip
        return self.head(F.relu(z).mean((2, 3)))


def cases() -> dict[str, tuple[nn.Module, list[dict[str, Tensor]]]]:
    """Models and data, whose labels are the model's own answers."""
    found = {}
    for name, build, others in (
        ("hidden", Hiding, {}),
        ("optional", Optional, {"skip": torch.ones(40, 1, 1, 1)}),
    ):
        model = fill(build())
        with torch.no_grad():
            labels = model(X, **others).argmax(1)
        found[name] = (model, [{"x": X, **others, "labels": labels}])
    return found


CASES = cases()
each_case = pytest.mark.parametrize(("model", "data"), CASES.values(), ids=CASES)


def run(model: nn.Module, data: list[dict[str, Tensor]]) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(**{key: value for key, value in data[0].items() if key != "labels"})
    return y


@each_case
def test_the_prepared_model_computes_the_same(
    model: nn.Module, data: list[dict[str, Tensor]]
) -> None:
    before = snapshot(model)
    prepared, _, _ = prepare_for(model, data)

    assert torch.equal(run(prepared.model, data), run(model, data))
    assert prepared.folded == ()
    assert snapshot(model) == before


@each_case
def test_the_report_is_about_the_callers_model(
    model: nn.Module, data: list[dict[str, Tensor]]
) -> None:
    report = analyze(model, data, measure_time=False)
    quantized = quantize_model(model, data)

    assert report.output is not None
    assert report.output.accuracy_float == 1.0
    right = kl_divergence(run(model, data), run(quantized, data))
    assert report.output.kl_divergence == pytest.approx(right, rel=1e-6)


@each_case
def test_every_measurement_is_about_the_callers_model(
    model: nn.Module, data: list[dict[str, Tensor]]
) -> None:
    response = LogitResponse.measure(model, data, agreement_configurations=2)
    verified = verify_configurations(model, data, response, [{}])
    found = {e.name: e.kl_divergence for e in measure_sensitivity(model, data).layers}

    torch.testing.assert_close(torch.from_numpy(response.predict({})).float(), run(model, data))
    assert verified[0].accuracy == 1.0
    expected = run(model, data)
    for name, value in found.items():
        others = tuple(other for other in found if other != name)
        changed = quantize_model(model, data, Recipe.default().with_excluded(*others))
        assert value == pytest.approx(kl_divergence(expected, run(changed, data)), rel=1e-6)


def test_it_is_said() -> None:
    model, data = CASES["hidden"]
    notes = analyze(model, data, measure_time=False).notes

    assert any("BatchNorms were not folded" in note for note in notes)


def test_a_calibration_remembers_it() -> None:
    model, data = CASES["hidden"]
    calibration = calibrate(model, data)
    quantized = quantize_model(model, calibration)

    assert calibration.folded == ()
    assert calibrate(fill(Plain()), X).folded == (Folding("norm", "conv"),)
    assert isinstance(quantized.norm, nn.BatchNorm2d)
    assert torch.equal(run(quantized, data), run(quantize_model(model, data), data))


class HidingInLargeBatches(Plain):
    def joined(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return z + y if type(x) is Tensor and len(x) > 8 else z


def test_evaluation_data_are_checked_too() -> None:
    """The calibration data take the way that can be traced, the evaluation data another one."""
    model = fill(HidingInLargeBatches())

    prepared, _, _ = prepare_for(model, X[:4], X)
    notes = analyze(model, X[:4], evaluation_data=X, measure_time=False).notes

    assert prepare_for(model, X[:4])[0].folded
    assert torch.equal(prepared.model(X), model(X))
    assert any("BatchNorms were not folded" in note for note in notes)


def test_what_folds_exactly_is_folded() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        layers = []
        for _ in range(6):
            layers += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        model = fill(nn.Sequential(*layers)).to(dtype)
        prepared, _, _ = prepare_for(model, (0.1 * seeded((4, 4, 8, 8))).to(dtype))
        assert len(prepared.folded) == 6, dtype


def test_a_stored_model_without_folding_is_loaded(tmp_path: Any) -> None:
    model, data = CASES["hidden"]
    quantized = quantize_model(model, data)
    save_quantized_model(quantized, tmp_path)

    loaded = load_quantized_model(fill(Hiding(), seed=5), tmp_path)

    assert isinstance(loaded.norm, nn.BatchNorm2d)
    assert torch.equal(run(loaded, data), run(quantized, data))


class Noisy(nn.Module):
    """Draws random numbers, and counts its runs, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y = self.features(x)
        return y * (1 + torch.rand(y.shape) * self.runs)


def test_random_numbers_and_state_of_the_model_stay() -> None:
    model = fill(Noisy())
    torch.manual_seed(3)
    before = torch.get_rng_state()

    prepared, _, _ = prepare_for(model, X)

    assert torch.equal(torch.get_rng_state(), before)
    assert prepared.folded == (Folding("features.1", "features.0"),)
    assert prepared.model.runs == 0
    assert model.runs == 0


class Fixed(Hiding):
    def joined(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return super().joined(x, y, z).reshape(40, 4, 3, 3)


def test_a_model_that_insists_on_its_batch_size_is_checked_on_it() -> None:
    prepared, _, _ = prepare_for(fill(Fixed()), X)

    assert prepared.folded == ()


class Loader:
    """Batches that can be read more than once, and a record of the reading."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches, self.passes, self.reads = batches, 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for batch in self.batches:
            self.reads += 1
            yield batch


def test_data_are_still_read_once_and_in_order() -> None:
    loader = Loader([X[:8], 2 * X[8:16], 3 * X[16:24]])
    totals: list[int] = []
    found = calibrate(
        fill(Plain()), loader, progress=lambda done, total, text: totals.append(total)
    )
    streamed = calibrate(fill(Plain()), iter(loader.batches))

    assert (loader.passes, loader.reads) == (1, 3)
    assert set(totals) == {3}
    assert found.batches == streamed.batches == 3
    for calibration in (found, streamed):
        assert calibration.histograms["conv"].count == 24 * 50

    prepared, data, _ = prepare_for(fill(Plain()), loader)
    assert prepared.folded
    for _ in range(2):
        assert [float(batch[0, 0, 0, 0]) for batch in data] == [
            float(batch[0, 0, 0, 0]) for batch in loader.batches
        ]


def test_bad_data_are_refused_as_ever() -> None:
    for data in ([], iter([]), [X[:0]], [torch.full_like(X, torch.nan)], 5, {"x": X}):
        with pytest.raises(DataError):
            calibrate(fill(Plain()), copy.copy(data))  # type: ignore[arg-type]


def test_without_data_only_neighbours_in_a_sequential_are_folded() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))

    assert prepare_for(fill(model), None)[0].folded == (Folding("1", "0"),)
    assert prepare_for(fill(Plain()), None)[0].folded == ()
