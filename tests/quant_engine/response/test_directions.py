import numpy as np
import pytest
import torch
from torch import nn

from quant_engine.errors import DataError
from quant_engine.metrics.functions import kl_divergences
from quant_engine.response.arrays import ResponseArrays
from quant_engine.response.directions import Directions, OutputPlan
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.response_cases import measure


def arrays_of(plan: OutputPlan, directions: Directions, shift: torch.Tensor) -> ResponseArrays:
    along = directions.along(shift).float().numpy()[None, None]
    return ResponseArrays(
        base=directions.base.float().numpy(),
        shifts=along,
        roundings=along[:, :0],
        rounding_of=np.array([-1]),
        sources=np.zeros((1, 1), dtype=bool),
        signal=np.ones(directions.rows),
        shape=plan.shape if plan.is_complete else (plan.kept,),
        has_logits=plan.has_logits,
        is_complete=plan.is_complete,
        positions=np.full(directions.rows, float(np.prod(plan.shape[:-1]))),
    )


def test_few_values_are_all_kept_and_many_are_not():
    assert OutputPlan.choose(torch.zeros(5, 10), 32, 16, 8, has_logits=True).count == 10
    assert OutputPlan.choose(torch.zeros(5, 100), 32, 16, 8, has_logits=True).count == 16 + 1 + 8
    tokens = OutputPlan.choose(torch.zeros(5, 9, 10), 32, 16, 8, has_logits=True)
    assert (tokens.count, tokens.kept, tokens.has_logits) == (8, 0, True)
    values = OutputPlan.choose(torch.zeros(5, 9, 10), 32, 16, 8, has_logits=False)
    assert (values.count, values.has_logits) == (8, False)


def test_along_is_the_inner_product_with_every_direction():
    output, shift = seeded((4, 50), 1), seeded((4, 50), 2)
    plan = OutputPlan.choose(output, 32, 5, 3, has_logits=True)
    directions = Directions(plan, output, torch.Generator().manual_seed(0))
    expected = torch.stack([(d * shift.double()).sum(dim=1) for d in directions], dim=1)
    torch.testing.assert_close(directions.along(shift), expected)


def test_a_shift_of_the_largest_logits_needs_no_projections():
    output = seeded((6, 60), 1) * 3
    plan = OutputPlan.choose(output, 32, 10, 4, has_logits=True)
    directions = Directions(plan, output, torch.Generator().manual_seed(0))
    shift = torch.zeros(6, 60).scatter_(1, output.topk(10).indices, seeded((6, 10), 2))
    arrays = arrays_of(plan, directions, shift)
    expected = float(kl_divergences(output, output.double() + shift).mean())
    assert arrays.degradation([(0, 0)]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(200, 60), (60, 7, 9)])
def test_projections_estimate_the_divergence_without_bias(shape):
    output, shift = seeded(shape, 1), 0.02 * seeded(shape, 2)
    plan = OutputPlan.choose(output, 32, 4, 64, has_logits=True)
    directions = Directions(plan, output, torch.Generator().manual_seed(0))
    expected = float(kl_divergences(output, output.double() + shift).mean())
    assert arrays_of(plan, directions, shift).degradation([(0, 0)]) == pytest.approx(
        expected, rel=0.05
    )


def test_projections_of_values_estimate_their_noise_and_its_error_is_stated():
    output, shift = seeded((100, 50), 1), seeded((100, 50), 2)
    plan = OutputPlan((50,), False, 0, 64)
    directions = Directions(plan, output, torch.Generator().manual_seed(0))
    arrays = arrays_of(plan, directions, shift)
    expected = float(shift.square().sum()) / 100
    assert arrays.degradation([(0, 0)]) == pytest.approx(expected, rel=0.05)
    # The relative error of a mean of 64 squares of normal numbers over 100 rows each.
    assert arrays.projection_errors()[0, 0] == pytest.approx(np.sqrt(2 / 6400), rel=0.4)


def test_rows_of_another_length_are_refused():
    plan = OutputPlan.choose(torch.zeros(5, 10), 32, 16, 8, has_logits=True)
    with pytest.raises(DataError, match="one length"):
        Directions(plan, torch.zeros(5, 11), torch.Generator())


def test_many_classes_are_scored_close_to_all_of_them():
    model, x = fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 100))), seeded((40, 6))
    with torch.no_grad():
        model[2].weight.mul_(0.3)
    whole, part = measure(model, x, classes=100), measure(model, x, projections=32)
    assert (whole.report.is_complete, part.report.is_complete) == (True, False)
    for option in whole.options:
        for layer in whole.layers:
            complete, partial = whole.score({layer: option}), part.score({layer: option})
            assert partial.kl_divergence == pytest.approx(complete.kl_divergence, rel=0.15)
            assert partial.top1_agreement == pytest.approx(complete.top1_agreement, abs=0.05)
    assert 0.0 < part.report.projection_error < 0.2
    predicted, expected = (r.predict({"2": "four"}) for r in (part, whole))
    largest = np.argsort(expected, axis=1)[:, -3:]
    np.testing.assert_allclose(
        np.take_along_axis(predicted, largest, 1),
        np.take_along_axis(expected, largest, 1),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_long_sequence_is_scored_but_not_predicted_value_by_value():
    model = fill(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)))
    x, labels = seeded((30, 9, 6)), torch.zeros(30, 9, dtype=torch.int64)
    data = [{"input": x, "labels": labels}]
    whole = measure(model, x, evaluation_data=data, classes=45)
    part = measure(model, x, evaluation_data=data, projections=32)
    for option in whole.options:
        expected = whole.score({"0": option}).kl_divergence
        assert part.score({"0": option}).kl_divergence == pytest.approx(expected, rel=0.3)
    assert part.score({}).top1_agreement is None
    with pytest.raises(DataError, match="larger `classes`"):
        part.predict({})
