"""Training is seeded, repeatable, and leaves the process as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sample_models import get_model_info, list_models, load_model, training
from sample_models.data import as_images, load_pixels
from sample_models.plan import TrainingPlan
from sample_models.registry import get_registration, load_inputs
from sample_models.storage import read_record, read_weights

SHORT = TrainingPlan(epochs=3, shift=0.5, rotation=10, zoom=0.1)


def train_perceptron(plan: TrainingPlan) -> nn.Module:
    """Train a small perceptron from fixed initial weights."""
    with training.deterministic(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        training.train(model, *load_pixels("train"), as_images, plan)
    return model


@pytest.fixture
def known_state() -> Iterator[None]:
    """Give the process another thread count for the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_same_seed_same_weights() -> None:
    first, second = train_perceptron(SHORT), train_perceptron(SHORT)
    for key, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], tensor)


def test_another_seed_gives_other_weights() -> None:
    other = TrainingPlan(epochs=3, shift=0.5, rotation=10, zoom=0.1, seed=1)
    assert not torch.equal(train_perceptron(SHORT)[1].weight, train_perceptron(other)[1].weight)


def test_training_learns() -> None:
    model = train_perceptron(TrainingPlan(epochs=30, learning_rate=1e-2))
    inputs, labels = load_inputs("mlp", "calibration")
    assert training.count_correct(model, inputs, labels) > 0.9 * len(labels)
    assert not model.training


@pytest.mark.usefixtures("known_state")
def test_the_process_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    with training.deterministic(5):
        torch.rand(3)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("known_state")
def test_a_failure_leaves_the_process_as_it_was_too() -> None:
    def fail() -> None:
        with training.deterministic(5):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_learning_rate_rises_then_falls() -> None:
    factors = [training.learning_rate_factor(step, 200) for step in range(201)]
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert max(factors) == 1.0
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert training.learning_rate_factor(0, 1) == 1.0


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, exempt = training._parameter_groups(model, 0.5)
    assert decayed == {"params": [model[0].weight], "weight_decay": 0.5}
    assert exempt["weight_decay"] == 0.0
    assert len(exempt["params"]) == 3  # type: ignore[arg-type]


def test_training_a_variant_returns_the_rescaled_base() -> None:
    name = "vit_outlier_channels"
    trained, loaded = training.train_model(name).state_dict(), load_model(name).state_dict()
    assert all(torch.equal(trained[key], loaded[key]) for key in loaded)


def test_command_line_trains_bases_before_variants(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trained: list[str] = []

    def pretend(name: str) -> object:
        trained.append(name)
        return read_record(name)

    monkeypatch.setattr(training, "train_and_store", pretend)
    with caplog.at_level(logging.INFO):
        training.main(list_models()[::-1])
    assert sorted(trained) == list_models()
    for name in trained:
        base = get_model_info(name).derived_from
        assert base is None or trained.index(base) < trained.index(name)
    assert f"test accuracy {get_model_info('mlp').accuracy:.4f}" in caplog.text


def test_command_line_without_names_trains_all(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr(
        training, "train_and_store", lambda name: (trained.append(name), read_record(name))[1]
    )
    training.main([])
    assert sorted(trained) == list_models()


@pytest.mark.slow
def test_retraining_reaches_the_stated_accuracy(tmp_path: Path) -> None:
    record = training.train_and_store("mlp", tmp_path)
    stated = get_model_info("mlp")
    assert record.parameters == stated.parameters
    # Another processor rounds differently; the weights then differ, the quality does not.
    assert record.accuracy == pytest.approx(stated.accuracy, abs=0.01)
    model = get_registration("mlp").factory()
    read_weights("mlp", model, tmp_path)
    inputs, labels = load_inputs("mlp", "test")
    assert training.count_correct(model.eval(), inputs, labels) == record.correct
