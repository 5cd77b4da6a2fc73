from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from quant_engine.errors import DataError, ModelForwardError, UnsupportedLayerError
from quant_engine.model.batches import iterate_batches
from quant_engine.model.forward import run_model
from quant_engine.quantization.calibration import Calibration, calibrate
from quant_engine.scheme import PRESETS
from quant_engine.tensors.histogram import Histogram
from tests.quant_engine.unchanged import snapshot


class Twice(nn.Module):
    """One Linear that runs twice, one that runs by keyword, one that never runs."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.by_keyword = nn.Linear(4, 2)
        self.idle = nn.Linear(4, 4)

    def forward(self, x):
        return self.by_keyword(input=self.shared(torch.relu(self.shared(x))))


class Tokens(nn.Module):
    """Embedding and Linear, fed with token ids and a mask by name."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids, mask):
        return {"logits": self.head((self.embedding(ids) * mask[..., None]).mean(1)), "aux": None}


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def batches(count=3, generator=None):
    generator = generator or torch.Generator().manual_seed(1)
    return [torch.randn(5 + number, 4, generator=generator) for number in range(count)]


def state(histogram: Histogram):
    return (histogram.count, histogram.lo, histogram.hi, histogram.counts.tolist())


def states(calibration: Calibration):
    return {name: state(histogram) for name, histogram in calibration.histograms.items()}


def test_every_value_that_enters_a_layer_is_counted():
    model, data = mlp(), batches()
    found = calibrate(model, data)
    hidden = [model[1](model[0](x)).detach() for x in data]
    for name, values in (("0", data), ("2", hidden)):
        expected = Histogram()
        expected.update(torch.cat(values))
        assert state(found.histograms[name]) == state(expected)
    assert (found.samples, found.batches) == (18, 3)
    assert found.calls == {"0": 1, "2": 1}


def test_batches_in_any_cut_count_alike():
    model, data = mlp(), torch.cat(batches())
    whole = states(calibrate(model, data))
    assert states(calibrate(model, list(data.split(7)))) == whole
    assert states(calibrate(model, (x for x in data.split(1)))) == whole
    assert states(calibrate(model, [(x, torch.zeros(len(x))) for x in data.split(4)])) == whole


def test_a_layer_called_twice_is_measured_on_both_calls():
    model = Twice()
    x = torch.randn(6, 4)
    found = calibrate(model, [x, x])
    first, second = x, torch.relu(model.shared(x)).detach()
    expected = Histogram()
    expected.update(torch.cat([first, second, first, second]))
    assert state(found.histograms["shared"]) == state(expected)
    assert found.calls == {"shared": 2, "by_keyword": 1}
    assert set(found.histograms) == {"shared", "by_keyword"}


def test_token_ids_are_not_values():
    model = Tokens()
    batch = {"ids": torch.tensor([[1, 2], [3, 4]]), "mask": torch.ones(2, 2), "labels": [0, 1]}
    found = calibrate(model, [batch])
    assert set(found.histograms) == {"head"}
    assert found.calls == {"embedding": 1, "head": 1}
    assert found.samples == 2


def test_the_recipe_changes_nothing():
    model, data = mlp(), batches()
    plain = calibrate(model, data)
    recipe = PRESETS["int4_weights"].with_excluded("0")
    other = calibrate(model, data, recipe)
    assert states(plain) == states(other)


def test_the_model_runs_in_eval_mode_whatever_its_own():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model.train()
    before = snapshot(model)
    trained = states(calibrate(model, batches()))
    assert snapshot(model) == before
    assert states(calibrate(copy.deepcopy(model).eval(), batches())) == trained


def test_the_callers_random_state_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    before = torch.get_rng_state()
    calibrate(model, batches())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_counted_as_float32(dtype):
    model, x = mlp().to(dtype), torch.randn(9, 4).to(dtype)
    expected = Histogram()
    expected.update(x.float())
    assert state(calibrate(model, x).histograms["0"]) == state(expected)


def test_progress_tells_every_batch():
    calls = []
    calibrate(mlp(), batches(), progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    assert all("measure value ranges" in text for *_, text in calls)


def test_progress_of_an_unknown_length_never_passes_its_total():
    calls = []
    calibrate(mlp(), iter(batches()), progress=lambda *call: calls.append(call))
    assert all(done <= total for done, total, _ in calls)


def test_progress_may_cancel_and_the_model_is_whole():
    model = mlp()
    before = snapshot(model)

    def cancel(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, batches(), progress=cancel)
    assert snapshot(model) == before


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "calibration_data holds no batches"),
        ([torch.full((2, 4), math.inf)], "calibration_data, batch 0 holds 8 NaN or Inf"),
        ([torch.zeros(2, 4), torch.zeros(0, 4)], "batch 1 has shape"),
    ],
)
def test_bad_data_is_refused_and_the_model_is_whole(data, message):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(DataError, match=message):
        calibrate(model, data)
    assert snapshot(model) == before


def test_nan_inside_the_model_names_the_layer_it_reaches():
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(DataError, match=r"The input of layer '2' holds 5 NaN or Inf among 40"):
        calibrate(model, batches(1))


def test_a_model_that_fails_halfway_is_whole_afterwards():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 3))
    before = snapshot(model)
    with pytest.raises(ModelForwardError, match=r"batch 0 .* in layer '1'"):
        calibrate(model, batches())
    assert snapshot(model) == before


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LayerNorm(4), nn.Sequential()])
def test_a_model_with_nothing_to_quantize_is_refused(model):
    with pytest.raises(UnsupportedLayerError, match=r"No layer of this model.*Types that can"):
        calibrate(model, torch.zeros(2, 4))


def test_a_snapshot_notices_what_tests_rely_on_it_for():
    model = mlp()
    before = snapshot(model)
    for change in (
        lambda: model.train(),
        lambda: model[0].weight.data.add_(1.0),
        lambda: model[0].weight.requires_grad_(False),
        lambda: model[2].register_forward_hook(lambda *_: None),
        lambda: setattr(model[0], "extra", 3),
    ):
        changed = copy.deepcopy(before)
        change()
        assert snapshot(model) != changed
        before = snapshot(model)
    run_model(model, next(iterate_batches(torch.zeros(1, 4))))
    assert snapshot(model) == before
