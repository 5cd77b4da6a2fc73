"""Remedies and groups as options of a layer: what is predicted is what a recipe then does."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    Candidate,
    LogitResponse,
    analyze,
    calibrate,
    in_groups,
    measure_sensitivity,
    pareto_frontier,
    quantize_model,
    search_configuration,
    search_measured,
    treated,
    verify_configurations,
)
from quant_engine.errors import SchemeError, StorageError
from quant_engine.remedies import codes
from quant_engine.report import ResponseReport
from quant_engine.scheme import (
    ADAROUND,
    BIAS_CORRECTION,
    GPTQ,
    AdaRound,
    BiasCorrection,
    Gptq,
    LayerScheme,
    Recipe,
    TensorScheme,
)
from tests.quant_engine.layer_cases import fill, seeded

FOUR = LayerScheme(TensorScheme(4, granularity="per_channel"), TensorScheme(symmetric=False))
THREE = FOUR.with_bits(3)
PLAIN = {"four": FOUR, "three": THREE}
OPTIONS = {**PLAIN, **treated(PLAIN, GPTQ)}
RECIPE = Recipe(FOUR.weight, FOUR.activation)
X = seeded((60, 3, 6, 6), 4) + 0.3 * seeded((60, 1, 6, 6), 5)


class Net(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.mix(torch.relu(self.stem(x))))
        result: Tensor = self.head(y.mean(dim=(2, 3)))
        return result


class Odd(nn.Module):
    """A table, two layers with one weight, and a layer that GPTQ can round."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x).mean(dim=1)
        result: Tensor = self.head(torch.tanh(self.b(torch.tanh(self.a(y)))))
        return result


def measure(model: nn.Module, x: Tensor = X, **settings: object) -> LogitResponse:
    settings = {"options": OPTIONS, "agreement_configurations": 12, **settings}
    return LogitResponse.measure(model, [x], RECIPE, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fill(Net())


@pytest.fixture(scope="module")
def response(net: nn.Module) -> LogitResponse:
    return measure(net)


def test_one_layer_is_predicted_as_the_remedy_rounds_it():
    model, x = fill(nn.Linear(9, 5)), seeded((40, 9)) + 0.5 * seeded((40, 1), 3)
    response = measure(model, x)
    with torch.no_grad():
        by_remedy = quantize_model(model, x, RECIPE.with_remedy(Gptq()))(x).numpy()

    np.testing.assert_allclose(
        response.predict({"": "four, GPTQ"}), by_remedy, rtol=1e-5, atol=1e-5
    )
    assert abs(response.predict({"": "four"}) - by_remedy).max() > 1e-2


@pytest.mark.parametrize(
    "configuration",
    [
        {"stem": "four, GPTQ", "mix": "three", "head": "three, GPTQ"},
        {"mix": "three, GPTQ"},
        {"stem": "four", "head": "three"},
    ],
)
def test_what_is_run_is_what_the_recipe_of_a_configuration_does(net, response, configuration):
    """Oracle: `analyze`, which knows nothing of options."""
    (measured,) = verify_configurations(net, [X], response, [configuration])
    recipe = response.recipe(configuration)
    report = analyze(net, [X], recipe, measure_time=False)

    assert report.output.kl_divergence == pytest.approx(measured.kl_divergence, rel=1e-6)
    assert measured.size.weight_bytes == report.size.weight_bytes
    treated = tuple(name for name, option in configuration.items() if option.endswith("GPTQ"))
    assert [r.layers for r in recipe.remedies] == ([treated] if treated else [])
    assert all(treatment.is_applied for treatment in report.treatments)
    factor = response.score(configuration).degradation / measured.degradation
    assert 0.5 < factor < 2.0


def test_biases_and_groups_are_predicted_as_the_recipe_makes_them(net):
    four, three = {"four": FOUR}, {"three": THREE}
    options = {
        **four,
        **treated(four, BIAS_CORRECTION),
        **treated(four, GPTQ, BIAS_CORRECTION),
        **in_groups(three, 4),
    }
    configuration = {
        "stem": "four, bias correction",
        "mix": "four, GPTQ + bias correction",
        "head": "three, groups of 4",
    }
    recipe = RECIPE.with_remedy(BiasCorrection())  # in order, which no prediction is about
    response = LogitResponse.measure(net, [X], recipe, options=options, agreement_configurations=12)
    (measured,) = verify_configurations(net, [X], response, [configuration])
    recipe = response.recipe(configuration)
    report = analyze(net, [X], recipe, measure_time=False)

    assert recipe.remedies == (
        Gptq(("mix",)), BiasCorrection(("stem", "mix"), is_sequential=False),
    )  # fmt: skip
    assert report.output.kl_divergence == pytest.approx(measured.kl_divergence, rel=1e-6)
    assert measured.size.model_bytes == report.size.quantized_bytes
    assert response.agreement.random.rank_correlation > 0.9
    for option in options:
        everywhere = response.uniform(option)
        (alone,) = verify_configurations(net, [X], response, [everywhere])
        assert 0.5 < response.score(everywhere).degradation / alone.degradation < 2.0
    assert response.recipe({}).remedies == (BiasCorrection(),)
    few, grouped = (response.size({"head": o}).model_bytes for o in ("four", "three, groups of 4"))
    assert grouped - few == 5 * 4 - 5  # a scale of 4 bytes more for each row, a bit less a weight


def test_adaround_of_layers_by_themselves_is_an_option_set_as_in_the_recipe(net):
    learned = AdaRound(steps=60, learning_rate=0.05, is_sequential=False)
    options = {"three": THREE, **treated({"three": THREE}, ADAROUND, BIAS_CORRECTION)}
    recipe = RECIPE.with_remedy(learned)
    response = LogitResponse.measure(net, [X], recipe, options=options, agreement_configurations=4)
    configuration = {"stem": "three, AdaRound + bias correction", "mix": "three", "head": "three"}
    recipe = response.recipe(configuration)
    report = analyze(net, [X], recipe, measure_time=False)

    assert recipe.remedies == (
        replace(learned, layers=("stem",)), BiasCorrection(("stem",), is_sequential=False),
    )  # fmt: skip
    (measured,) = verify_configurations(net, [X], response, [configuration])
    assert measured.kl_divergence == pytest.approx(report.output.kl_divergence, rel=1e-6)
    assert 0.5 < response.score(configuration).degradation / measured.degradation < 2.0
    everywhere = response.uniform("three, AdaRound + bias correction")
    rounded = response.uniform("three")
    assert response.score(everywhere).degradation < 0.7 * response.score(rounded).degradation


def test_gptq_costs_no_bytes_and_is_chosen_where_it_is_predicted_better(net, response):
    budget = response.size(response.uniform("three")).model_bytes
    assert response.size(response.uniform("three, GPTQ")).model_bytes == budget

    found = search_configuration(response, model_bytes=budget)
    rounded = search_configuration(measure(net, options=PLAIN), model_bytes=budget)

    assert any(option.endswith("GPTQ") for _, option in found.configuration)
    assert found.predicted.degradation < rounded.predicted.degradation
    assert found.predicted.size.model_bytes <= budget
    smallest = pareto_frontier(response, points=4).points[0]
    assert smallest.predicted.degradation <= response.score(response.uniform("three")).degradation
    run = search_measured(net, [X], response, model_bytes=budget, candidates=3)[0]
    assert run.measured is not None
    assert run.measured.degradation <= 1.5 * response.score(run.as_dict()).degradation


def test_the_agreement_mixes_both_roundings(response):
    agreement = response.agreement
    assert {name for name, figures in agreement.by_option if figures.count == 3} == set(OPTIONS)
    assert any(
        len({option.endswith("GPTQ") for _, option in point.configuration}) == 2
        for point in agreement.random_points
    )
    assert agreement.random.rank_correlation > 0.9
    assert 0.5 < agreement.random.median_ratio < 2.0


def test_layers_that_gptq_cannot_round_are_named_and_left_at_plain_rounding():
    model, x = fill(Odd()), torch.arange(160).view(40, 4) * 7 % 10
    response = measure(model, x)
    names = ("four, GPTQ", "three, GPTQ")
    shared = "it shares its weight with another layer"
    table = "it looks rows up, so its weights are not summed with those of other inputs"

    assert {(n, o): why for n, o, _, why in response.report.untreated} == {
        (n, o): why for n, why in (("table", table), ("a", shared), ("b", shared)) for o in names
    }
    assert response.uniform("four, GPTQ") == {
        "table": "four", "a": "four", "b": "four", "head": "four, GPTQ",
    }  # fmt: skip
    places = {name: index for index, name in enumerate(response.options)}
    for index, name in enumerate(response.layers):
        plain, rounded = (response.arrays.shifts[index, places[o]] for o in ("four", "four, GPTQ"))
        assert np.array_equal(plain, rounded) == (name != "head")
    everywhere = dict.fromkeys(response.layers, "four, GPTQ")
    assert response.recipe(everywhere).remedies == (Gptq(layers=("head",)),)
    assert response.recipe({"a": "four, GPTQ"}).remedies == ()
    points = (*response.agreement.single_points, *response.agreement.random_points)
    budget = response.size(everywhere).model_bytes
    found = search_configuration(response, model_bytes=budget)
    told = {pair for point in (*points, found) for pair in point.configuration}
    assert {name for name, option in told if option.endswith("GPTQ")} == {"head"}
    (measured,) = verify_configurations(model, [x], response, [everywhere])
    report = analyze(model, [x], response.recipe(everywhere), measure_time=False)
    assert measured.kl_divergence == pytest.approx(report.output.kl_divergence, rel=1e-6)


def test_what_cannot_be_factored_is_said(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> dict[str, codes.SeenInputs]:
        hessian = torch.tensor([[[1.0, 90.0], [90.0, 1.0]]]).double()
        return {"": codes.SeenInputs(hessian, torch.zeros(1, 2).double(), 9)}

    monkeypatch.setattr(codes, "_see_inputs", broken)
    response = measure(fill(nn.Linear(2, 3)), seeded((9, 2)))
    assert [pair[:2] for pair in response.report.untreated] == [
        ("", "four, GPTQ"), ("", "three, GPTQ"),
    ]  # fmt: skip
    assert all("cannot be factored" in why for *_, why in response.report.untreated)
    assert response.uniform("four, GPTQ") == {"": "four"}
    four = {"four": FOUR}
    both = {**four, **treated(four, BIAS_CORRECTION), **treated(four, GPTQ, BIAS_CORRECTION)}
    response = measure(fill(nn.Linear(2, 3)), seeded((9, 2)), options=both)
    assert response.uniform("four, GPTQ + bias correction") == {"": "four, bias correction"}
    assert response.recipe({"": "four, GPTQ + bias correction"}).remedies == (
        BiasCorrection(("",), is_sequential=False),
    )


def test_without_a_plain_twin_an_option_keeps_its_name():
    model, x = fill(Odd()), torch.arange(160).view(40, 4) * 7 % 10
    response = measure(model, x, options=treated(PLAIN, GPTQ))
    assert set(response.uniform("four, GPTQ").values()) == {"four, GPTQ"}
    assert len(response.report.untreated) == 6


def test_a_recipe_with_the_remedy_brings_the_options_and_the_damping(net):
    recipe = RECIPE.with_remedy(Gptq(damping=0.5)).with_remedy(BiasCorrection())
    response = LogitResponse.measure(net, [X], recipe, agreement_configurations=8)
    assert len(response.options) == 10
    plain = measure(net, options={"four": Candidate(FOUR, (GPTQ,))})
    name = "int4 weights + int8 inputs, GPTQ"
    damped, usual = (r.score(r.uniform(o)) for r, o in ((response, name), (plain, "four")))
    assert damped.degradation != pytest.approx(usual.degradation, rel=1e-3)
    assert response.recipe({"mix": name}).remedies == (
        Gptq(("mix",), damping=0.5), BiasCorrection(),
    )  # fmt: skip
    (note,) = [note for note in response.report.notes if "not part of these figures" in note]
    assert note.startswith("BiasCorrection of the recipe is not part")


def test_options_by_gptq_need_data(net, response):
    calibration = calibrate(net, [X], RECIPE)
    with pytest.raises(SchemeError, match=r"remedies \(Gptq\).*Give the data"):
        LogitResponse.measure(net, calibration, RECIPE, options=OPTIONS, evaluation_data=[X])
    with pytest.raises(SchemeError, match="Give the data"):
        verify_configurations(
            net, calibration, response, [{"mix": "four, GPTQ"}], evaluation_data=[X]
        )
    (plain,) = verify_configurations(
        net, calibration, response, [{"mix": "four"}], evaluation_data=[X]
    )
    assert plain.degradation > 0
    with pytest.raises(SchemeError, match="sensitivity does not measure"):
        measure_sensitivity(net, [X], RECIPE, options=OPTIONS)


def test_files_keep_roundings_and_older_ones_have_none(response):
    again = LogitResponse.from_bytes(response.to_bytes())
    assert again.report == response.report
    assert again.candidates == response.candidates
    data = json.loads(response.report.to_json())
    del data["untreated"]
    for option in data["options"]:
        del option["remedies"]
    older = ResponseReport.from_json(json.dumps(data))
    assert {option.remedies for option in older.options} == {()}
    assert not older.untreated
    data["options"][0]["remedies"] = ["smooth_quant"]
    with pytest.raises(StorageError, match="kind of a remedy of one layer"):
        ResponseReport.from_json(json.dumps(data))
