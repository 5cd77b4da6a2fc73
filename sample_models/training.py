"""Seeded training of the sample models.

``python -m sample_models.training`` trains every model anew and writes its weights and record;
``python -m sample_models.training mlp cnn`` only those named. On one machine the same seed gives
the same weights bit for bit: one thread, deterministic algorithms, one generator per purpose.
Settings were chosen by accuracy on the calibration split and a held-back part of the training
split; the test split only measures the accuracy that is stated.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from sample_models import data, storage
from sample_models.augmentation import augment
from sample_models.plan import TrainingPlan
from sample_models.registry import (
    Encoder,
    get_registration,
    list_models,
    load_inputs,
    load_model,
)

_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises to its peak."""

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    encode: Encoder,
    plan: TrainingPlan,
) -> None:
    """Train a model in place.

    Args:
        model: The model; its initial weights are part of what decides the result.
        pixels: Raw training images, values 0..16 of shape (samples, 8, 8).
        labels: Their digits, int64 of shape (samples,).
        encode: Turns raw pixels into the model's input.
        plan: Every setting.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(_parameter_groups(model, plan.weight_decay), plan.learning_rate)
    loss_function = nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing)
    steps_per_epoch = math.ceil(len(labels) / plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, plan.epochs * steps_per_epoch)
    )
    model.train()
    for _ in range(plan.epochs):
        inputs = encode(augment(pixels, plan, generator))
        # Nearly equal chunks: a last batch of one or two samples would spoil BatchNorm.
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.tensor_split(steps_per_epoch):
            optimizer.zero_grad(set_to_none=True)
            loss_function(model(inputs[chosen]), labels[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()


def learning_rate_factor(step: int, total_steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then half a cosine.

    Args:
        step: Steps done.
        total_steps: Steps of the whole run.

    Example:
        >>> [round(learning_rate_factor(step, 100), 2) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warm_up = max(1, round(total_steps * _WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total_steps - warm_up)))


def count_correct(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> int:
    """Count the samples whose largest output is at their label."""
    with torch.no_grad():
        return int((model(inputs).argmax(dim=1) == labels).sum())


def train_model(name: str) -> nn.Module:
    """Build and train a registered model from its seed.

    A teaching variant is not trained: it is made from its base, and returned as it is.

    Args:
        name: One of `list_models`.

    Returns:
        The trained model in eval mode. Nothing is written.
    """
    entry = get_registration(name)
    if entry.plan is None:
        return load_model(name)
    with deterministic(entry.plan.seed):
        model = entry.factory()
        train(model, *data.load_pixels("train"), entry.encode, entry.plan)
    return model


def train_and_store(name: str, folder: Path = storage.WEIGHTS_FOLDER) -> storage.WeightsRecord:
    """Train a registered model and write its weights and record.

    Args:
        name: One of `list_models`.
        folder: Where to write.

    Returns:
        The record: size, and accuracy on the test split.
    """
    model = train_model(name)
    if get_registration(name).plan is not None:
        storage.write_weights(name, model, folder)
    inputs, labels = load_inputs(name, "test")
    record = storage.describe(model, count_correct(model, inputs, labels), len(labels))
    storage.write_record(name, record, folder)
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the models named on the command line, or all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m sample_models.training",
        description="Train the sample models from their seeds and write their weights.",
    )
    parser.add_argument("names", nargs="*", help="models to train; all of them if none is named")
    names = parser.parse_args(arguments).names or list_models()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Bases first: a variant is made from its base's new weights.
    for name in sorted(names, key=lambda name: get_registration(name).derived_from is not None):
        start = time.perf_counter()
        record = train_and_store(name)
        _log.info(
            "%-28s %9s parameters   test accuracy %.4f   %5.1f s",
            name,
            f"{record.parameters:,}",
            record.accuracy,
            time.perf_counter() - start,
        )


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices and kernels; leave biases, norm and other vectors alone."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    exempt = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seed torch and make it repeatable inside the block; restore everything after it."""
    threads = torch.get_num_threads()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_deterministic)


if __name__ == "__main__":
    main()
