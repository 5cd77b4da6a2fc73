from __future__ import annotations

import threading
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from quant_engine import (
    LogitResponse,
    analyze,
    benchmark_inference,
    calibrate,
    compare_models,
    measure_sensitivity,
    quantize_model,
    verify_configurations,
)
from quant_engine.execution.timing import time_executions
from quant_engine.model.batches import Batch
from quant_engine.model.inputs import copy_inputs
from tests.quant_engine.layer_cases import fill, seeded


class Normalises(nn.Module):
    """Normalises its input in place, and counts in place in what comes with it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x, extra=None):
        x -= 0.5
        x *= 3.0
        if extra is not None:
            extra["shift"][0] += 1.0
            x = x + extra.pop("shift")[0]
        return self.last(torch.relu(self.first(x)))


class Spares(Normalises):
    """Computes the same and leaves its input alone."""

    def forward(self, x):
        return super().forward(x.clone())


MODEL = fill(Normalises())
INPUTS = seeded((16, 8))
SHIFT = seeded((16, 8), 1)


def run(model, extra=False):
    """What a model gives on tensors that nobody else has."""
    arguments = {"extra": {"shift": [SHIFT.clone()]}} if extra else {}
    with torch.no_grad():
        return model(INPUTS.clone(), **arguments)


LABELS = run(MODEL).argmax(dim=1)


def sqnr_db(output, changed):
    signal, noise = output.double().square().sum(), (output - changed).double().square().sum()
    return float(10.0 * torch.log10(signal / noise))


def kl_divergence(output, changed):
    p, q = (torch.log_softmax(t.double(), dim=-1) for t in (output, changed))
    return float(nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_an_analysis_gives_both_models_the_same_input():
    kept = INPUTS.clone()

    report = analyze(MODEL, INPUTS, evaluation_data=[(INPUTS, LABELS)], measure_time=False)

    assert torch.equal(INPUTS, kept)
    logits, changed = run(MODEL), run(quantize_model(MODEL, INPUTS.clone()))
    assert report.output.error.sqnr_db == pytest.approx(sqnr_db(logits, changed), rel=1e-6)
    assert report.output.kl_divergence == pytest.approx(kl_divergence(logits, changed), rel=1e-6)
    assert report.output.accuracy_float == 1.0


def test_tensors_in_containers_are_the_same_in_every_pass_too():
    extra = {"shift": [SHIFT]}
    batch = {"x": INPUTS, "extra": extra}
    kept = INPUTS.clone(), SHIFT.clone()

    report = analyze(MODEL, [batch], measure_time=False)

    assert extra["shift"][0] is SHIFT
    assert torch.equal(INPUTS, kept[0])
    assert torch.equal(SHIFT, kept[1])
    logits, changed = run(MODEL, True), run(quantize_model(MODEL, [batch]), True)
    assert report.output.error.sqnr_db == pytest.approx(sqnr_db(logits, changed), rel=1e-6)


def test_data_made_in_inference_mode_may_be_changed_in_place():
    with torch.inference_mode():
        x = INPUTS.clone()

    report = analyze(MODEL, x, measure_time=False)

    expected = analyze(MODEL, INPUTS, measure_time=False)
    assert report.output == expected.output
    assert report.layers == expected.layers


def test_ranges_are_those_of_the_input_as_it_was():
    kept = INPUTS.clone()

    calibration = calibrate(MODEL, [INPUTS, INPUTS])

    assert torch.equal(INPUTS, kept)
    seen = (kept - 0.5) * 3.0
    assert calibration.histograms["first"].lo == seen.min()
    assert calibration.histograms["first"].hi == seen.max()


def test_predictions_and_runs_start_from_the_input_as_it_was():
    kept = INPUTS.clone()

    response = LogitResponse.measure(MODEL, INPUTS)
    chosen = response.uniform(response.options[0])
    (score,) = verify_configurations(MODEL, INPUTS, response, [chosen])
    sweep = measure_sensitivity(MODEL, INPUTS)

    assert torch.equal(INPUTS, kept)
    expected = kl_divergence(run(MODEL), run(quantize_model(MODEL, INPUTS.clone())))
    assert score.kl_divergence == pytest.approx(expected, rel=1e-6)
    assert sweep.reference.kl_divergence == pytest.approx(expected, rel=1e-6)
    assert response.predict({}) == pytest.approx(run(MODEL).numpy(), rel=1e-6)
    spared = LogitResponse.measure(fill(Spares()), INPUTS)
    assert np.array_equal(response.predict(chosen), spared.predict(chosen))


def test_two_models_are_compared_on_the_same_input():
    kept = INPUTS.clone()
    quantized = quantize_model(MODEL, INPUTS.clone())

    results = compare_models(MODEL, quantized, INPUTS, num_classes=4)

    assert torch.equal(INPUTS, kept)
    expected = sqnr_db(run(MODEL), run(quantized))
    assert results["output_error"]["snr_db"] == pytest.approx(expected, rel=1e-6)


class Remembers(nn.Module):
    """Remembers every input it was given, then overwrites it."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(8, 4), []

    def forward(self, x):
        self.seen.append(x.clone())
        y = self.layer(x)
        x.zero_()
        return y


def test_every_timed_run_starts_from_the_input_as_it_was():
    model = fill(Remembers())
    kept = INPUTS.clone()

    benchmark_inference(model, INPUTS, num_runs=2, warmup_runs=1)
    time_executions(model, model, Batch((INPUTS,), samples=16), ["layer"])

    assert torch.equal(INPUTS, kept)
    assert len(model.seen) > 3
    assert all(torch.equal(x, kept[: len(x)]) for x in model.seen)


def test_what_shares_memory_shares_it_in_the_copy_and_with_nothing_else():
    array = np.arange(12, dtype=np.float32)
    x = torch.from_numpy(array)
    tail, bits = torch.from_numpy(array[3:]), x[1::2].view(torch.int32)
    other = torch.ones(3)

    batch = copy_inputs(Batch((x, tail), {"same": [x], "bits": bits, "other": other}))

    copied, copied_tail = batch.args
    assert batch.kwargs["same"][0] is copied
    assert torch.equal(batch.kwargs["bits"], bits)
    copied *= 2.0
    assert torch.equal(copied_tail, torch.arange(3.0, 12.0) * 2.0)
    assert torch.equal(batch.kwargs["bits"].view(torch.float32), torch.arange(1.0, 12.0, 2.0) * 2.0)
    assert array.tolist() == list(range(12))
    batch.kwargs["other"].zero_()
    assert other.tolist() == [1.0, 1.0, 1.0]


def test_a_few_rows_of_much_data_are_copied_alone():
    data = torch.zeros(1000, 8)

    (rows,) = copy_inputs(Batch((data[100:102],))).args

    assert rows.untyped_storage().nbytes() == 2 * 8 * 4


@pytest.mark.parametrize(
    "tensor",
    [
        seeded((2, 3, 4, 4)).to(memory_format=torch.channels_last),
        seeded((3, 4)).t(),
        seeded((1, 4)).expand(3, 4),
        seeded((3, 8))[:, ::2],
        torch.tensor(2.0),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        seeded((3,), 0).requires_grad_(),
        nn.Parameter(seeded((3,), 0)) * 2.0,
    ],
)
def test_a_copy_has_the_values_and_the_kind_of_what_was_copied(tensor):
    one, other, twice = copy_inputs(Batch((tensor, tensor[...], tensor))).args

    for copied in (one, other):
        assert torch.equal(copied, tensor)
        assert copied.dtype == tensor.dtype
        assert copied.requires_grad == tensor.requires_grad
        assert copied is not tensor
        assert copied.data_ptr() != tensor.data_ptr() or not tensor.numel()
    assert twice is one


def test_layouts_of_images_stay():
    images = seeded((2, 3, 4, 4)).to(memory_format=torch.channels_last)

    (copied,) = copy_inputs(Batch((images,))).args

    assert copied.stride() == images.stride()


def test_containers_of_any_kind_are_copied_with_what_they_hold():
    x = torch.ones(3)
    given = {"ordered": OrderedDict(x=x), "object": SimpleNamespace(x=x), "array": np.ones(3)}

    copied = copy_inputs(Batch((x,), given)).kwargs

    copied["ordered"]["x"].zero_()
    copied["array"][:] = 0.0
    assert copied["object"].x is copied["ordered"]["x"]
    assert x.tolist() == given["array"].tolist() == [1.0, 1.0, 1.0]


def test_what_python_cannot_copy_is_handed_on_beside_copies_of_the_rest():
    x, lock = torch.ones(3), threading.Lock()

    batch = copy_inputs(Batch((x,), {"tools": {"lock": lock, "x": x}}))

    assert batch.kwargs["tools"]["lock"] is lock
    assert batch.kwargs["tools"]["x"] is batch.args[0] is not x
