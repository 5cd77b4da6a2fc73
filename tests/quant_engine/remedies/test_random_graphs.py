"""Remedies that move factors leave the float output as it is on random graphs with branches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from quant_engine.preparation import prepare_for
from quant_engine.remedies import treat_float_model
from quant_engine.scheme import CrossLayerEqualization, Recipe, Remedy, SmoothQuant, TensorScheme
from tests.quant_engine.remedies.cases import branches, branching, images

PER_CHANNEL = TensorScheme(4, granularity="per_channel")


@pytest.mark.parametrize(
    "remedy", [CrossLayerEqualization(), SmoothQuant(alpha=0.5)], ids=lambda remedy: remedy.kind
)
@settings(max_examples=6)
@given(branches)
def test_the_float_output_stays_as_it_is(remedy: Remedy, steps: list[tuple[str, str, str]]) -> None:
    model, x = branching(steps), images()
    prepared, data, _ = prepare_for(model, x)

    treated = treat_float_model(prepared, Recipe(PER_CHANNEL, remedies=(remedy,)), data)

    with torch.no_grad():
        change = (treated.model(x) - model(x)).abs().max() / model(x).abs().max()
    assert change < 1e-5
    # Neither has the check of the remedies' own taken anything back.
    assert not any("float output" in found.reason for found in treated.treatments)
    if isinstance(remedy, CrossLayerEqualization):
        moved = {found.layers[0] for found in treated.treatments if found.is_applied}
        assert not any(name.startswith("sides") for name in moved)  # other outputs join theirs
