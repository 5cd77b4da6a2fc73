"""The variants compute what their bases compute, and show what their descriptions promise."""

from __future__ import annotations

import pytest
import torch

from sample_models import get_model_info, list_models, load_model
from tests.sample_models.fake_quantization import (
    accuracy,
    fold_batchnorm,
    kl_divergence,
    round_activations,
    round_weights,
)

VARIANTS = [name for name in list_models() if get_model_info(name).is_teaching_variant]


def test_both_lessons_exist() -> None:
    assert {"mobilenet_unequal_channels", "vit_outlier_channels"} <= set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_float_function_is_that_of_the_base(name: str) -> None:
    info = get_model_info(name)
    assert info.derived_from is not None
    base = get_model_info(info.derived_from)
    inputs, _ = info.load_inputs("test")
    with torch.no_grad():
        difference = (load_model(name)(inputs) - base.load()(inputs)).abs().max().item()
    assert difference < 1e-5
    assert (info.accuracy, info.parameters) == (base.accuracy, base.parameters)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_differ_from_the_base(name: str) -> None:
    base = get_model_info(name).derived_from
    assert base is not None
    changed, original = load_model(name).state_dict(), load_model(base).state_dict()
    assert any(not torch.equal(changed[key], original[key]) for key in original)


def test_unequal_channels_fail_per_tensor_and_not_per_channel() -> None:
    info = get_model_info("mobilenet_unequal_channels")
    inputs, labels = info.load_inputs("test")
    calibration, _ = info.load_inputs("calibration")
    model = fold_batchnorm(info.load())

    per_tensor = round_weights(model, per_channel=False)
    assert accuracy(per_tensor, inputs, labels) < 0.5
    per_channel = round_weights(model, per_channel=True)
    assert accuracy(per_channel, inputs, labels) > info.accuracy - 0.01
    with_activations = round_activations(per_channel, calibration)
    assert accuracy(with_activations, inputs, labels) > info.accuracy - 0.01
    # The base itself bears a single scale: it is the rescaling that fails.
    base = fold_batchnorm(load_model("mobilenet"))
    assert accuracy(round_weights(base, per_channel=False), inputs, labels) > info.accuracy - 0.01


def test_outlier_channels_hurt_activations_and_not_weights() -> None:
    info = get_model_info("vit_outlier_channels")
    inputs, labels = info.load_inputs("test")
    calibration, _ = info.load_inputs("calibration")
    model, base = info.load(), load_model("vit")

    activations = round_activations(model, calibration)
    weights = round_weights(model, per_channel=True)
    assert accuracy(activations, inputs, labels) < info.accuracy - 0.05
    assert accuracy(weights, inputs, labels) > info.accuracy - 0.01
    assert kl_divergence(model, activations, inputs) > 50 * kl_divergence(model, weights, inputs)
    base_activations = round_activations(base, calibration)
    assert accuracy(base_activations, inputs, labels) > info.accuracy - 0.01
