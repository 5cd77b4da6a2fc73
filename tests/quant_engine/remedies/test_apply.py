"""Remedies in their fixed order, at every door."""

from __future__ import annotations

import torch
from torch import nn

from quant_engine import LogitResponse, analyze, measure_sensitivity, verify_configurations
from quant_engine.scheme import (
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    Recipe,
    SmoothQuant,
    TensorScheme,
)
from tests.quant_engine.layer_cases import fill, seeded

CHAIN = (BiasCorrection(), Gptq(), SmoothQuant(), CrossLayerEqualization())


def uneven() -> nn.Sequential:
    """Two linear layers whose hidden channels differ a lot in range."""
    model = fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    factors = 4.0 ** torch.arange(-4, 4)
    with torch.no_grad():
        model[0].weight.mul_(factors[:, None])
        model[0].bias.mul_(factors)
        model[2].weight.div_(factors)
    return model


def test_remedies_are_applied_in_one_order_however_they_are_given() -> None:
    x = seeded((40, 6))
    recipe = Recipe(TensorScheme(bits=4), TensorScheme(symmetric=False), remedies=CHAIN)

    report = analyze(uneven(), [x], recipe, measure_time=False)

    kinds = list(dict.fromkeys(found.remedy for found in report.treatments))
    assert kinds == ["cross_layer_equalization", "smooth_quant", "gptq", "bias_correction"]


def test_measurements_are_of_the_equalized_model_and_say_what_they_leave_out() -> None:
    x, recipe = seeded((60, 6)), Recipe(TensorScheme(bits=6), TensorScheme(symmetric=False))
    equalized = recipe.with_remedy(CrossLayerEqualization())
    all_of_them = equalized.with_remedy(Gptq()).with_remedy(BiasCorrection())

    before, after, noted = (
        measure_sensitivity(uneven(), [x], r) for r in (recipe, equalized, all_of_them)
    )
    response = LogitResponse.measure(uneven(), [x], all_of_them, agreement_configurations=2)

    harms = [
        {found.name: found.kl_divergence for found in r.layers} for r in (before, after, noted)
    ]
    assert harms[0]["2"] > 3 * harms[1]["2"]
    assert harms[2] == harms[1]
    both = "Gptq and BiasCorrection of the recipe are not part of these figures"
    assert any(both in note for note in noted.notes)
    one = "BiasCorrection of the recipe is not part of these figures"  # GPTQ is an option there
    assert any(note.startswith(one) for note in response.report.notes)
    assert not any("not part of these figures" in note for note in after.notes)
    configuration = dict.fromkeys(response.layers, response.options[0])
    assert response.recipe(configuration).remedies == all_of_them.without_remedy(Gptq).remedies
    (measured,) = verify_configurations(uneven(), [x], response, [configuration])
    assert measured.kl_divergence is not None
