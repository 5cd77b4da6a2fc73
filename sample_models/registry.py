"""The registry of sample models: a factory function with a decorator, and nothing else to do.

Example:
    >>> list_models("*resnet*")
    ['resnet']
    >>> model = load_model("resnet")
    >>> inputs, labels = get_model_info("resnet").load_inputs("test")
    >>> model(inputs).shape
    torch.Size([400, 10])

To add a model, put a new file into this package that defines its ``nn.Module`` and a factory
function under `register_model`; the function's name is the model's name. Then run
``python -m sample_models.training <name>``. Lists, tests and the dashboard find it by themselves.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

import torch
from torch import nn

from sample_models import data, storage
from sample_models.data import Split
from sample_models.errors import SampleModelError, unknown_name
from sample_models.plan import TrainingPlan

Encoder: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From raw pixels (samples, 8, 8) to what a model takes, for example `data.as_images`."""

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class SampleModel:
    """Everything a person or a page wants to know about a sample model before loading it.

    Attributes:
        name: The name `load_model` takes.
        title: The name people read.
        family: The kind of architecture, for example ``"ResNet"``.
        task: What the model does.
        description: What it is, in one or two plain sentences.
        teaches: What quantizing it shows.
        input_shape: Shape of one sample, without the batch.
        input_kind: ``"float32"`` or ``"int64"``: values or token ids.
        num_classes: Length of the output.
        parameters: Trainable numbers.
        float_bytes: Bytes of all parameters and buffers in float form.
        accuracy: Share of the test split that the float model gets right, 0 to 1.
        test_samples: Size of that test split.
        data: What it was trained and tested on.
        licence: The licence of that data.
        derived_from: For a teaching variant, the model whose function it has; else None.
    """

    name: str
    title: str
    family: str
    task: str
    description: str
    teaches: str
    input_shape: tuple[int, ...]
    input_kind: str
    num_classes: int
    parameters: int
    float_bytes: int
    accuracy: float
    test_samples: int
    data: str
    licence: str
    derived_from: str | None

    @property
    def is_teaching_variant(self) -> bool:
        """Whether the weights were rescaled on purpose, without changing the function."""
        return self.derived_from is not None

    def load(self) -> nn.Module:
        """Load the trained model; the same as `load_model` with this name."""
        return load_model(self.name)

    def load_inputs(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one split exactly as this model takes it, and its labels.

        Args:
            split: ``"train"``, ``"calibration"`` or ``"test"``.

        Returns:
            Inputs of shape (samples, *input_shape) and digits, int64 of shape (samples,).

        Raises:
            UnknownNameError: If there is no such split.
        """
        return load_inputs(self.name, split)


@dataclass(frozen=True)
class Registration:
    """What the decorator keeps of a model: how to build, feed and train it."""

    factory: Callable[[], nn.Module]
    title: str
    family: str
    description: str
    teaches: str
    encode: Encoder
    plan: TrainingPlan | None
    derived_from: str | None


_REGISTRY: Final[dict[str, Registration]] = {}


def register_model(
    *,
    title: str,
    family: str,
    description: str,
    teaches: str,
    encode: Encoder = data.as_images,
    plan: TrainingPlan | None = None,
    derived_from: str | None = None,
) -> Callable[[Callable[[], ModelT]], Callable[[], ModelT]]:
    """Register a factory function; its name becomes the model's name.

    Exactly one of `plan` and `derived_from` is given. With a plan, the factory returns an untrained
    model whose weights are trained once and stored. With `derived_from`, the factory returns a
    finished model, made from the loaded base by a change that keeps its function.

    Args:
        title: The name people read.
        family: The kind of architecture.
        description: What it is, in one or two plain sentences.
        teaches: What quantizing it shows.
        encode: Turns raw pixels into the model's input.
        plan: How to train it.
        derived_from: The base of a teaching variant.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        SampleModelError: If the name is taken, or both or neither of `plan` and `derived_from`
            are given.
    """

    def register(factory: Callable[[], ModelT]) -> Callable[[], ModelT]:
        name = factory.__name__
        if (plan is None) == (derived_from is None):
            raise SampleModelError(
                f"the model {name!r} must have either a training plan or a base it is derived "
                f"from, got plan={plan!r} and derived_from={derived_from!r}: give exactly one"
            )
        if name in _REGISTRY and _source(_REGISTRY[name].factory) != _source(factory):
            raise SampleModelError(
                f"the model name {name!r} is already taken by a function in "
                f"{_source(_REGISTRY[name].factory)}: rename the function"
            )
        _REGISTRY[name] = Registration(
            factory, title, family, description, teaches, encode, plan, derived_from
        )
        return factory

    return register


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the registered models.

    Args:
        pattern: A shell wildcard.

    Returns:
        The matching names, sorted; empty if none matches.

    Example:
        >>> list_models("mlp")
        ['mlp']
    """
    _discover()
    return sorted(name for name in _REGISTRY if fnmatchcase(name, pattern))


def get_registration(name: str) -> Registration:
    """Return how a model is built, fed and trained.

    Raises:
        UnknownNameError: If there is no such model; the message lists the valid names.
    """
    _discover()
    if name not in _REGISTRY:
        raise unknown_name("model", name, _REGISTRY)
    return _REGISTRY[name]


def get_model_info(name: str) -> SampleModel:
    """Describe a model without building it.

    Args:
        name: One of `list_models`.

    Returns:
        What it is, how large, and how accurate.

    Raises:
        UnknownNameError: If there is no such model.
        WeightsError: If it was never trained.

    Example:
        >>> get_model_info("mlp").input_shape
        (1, 8, 8)
    """
    entry = get_registration(name)
    record = storage.read_record(name)
    sample = entry.encode(torch.zeros(1, data.IMAGE_SIZE, data.IMAGE_SIZE))
    return SampleModel(
        name=name,
        title=entry.title,
        family=entry.family,
        task="Which digit, 0 to 9, is this?",
        description=entry.description,
        teaches=entry.teaches,
        input_shape=tuple(sample.shape[1:]),
        input_kind=str(sample.dtype).removeprefix("torch."),
        num_classes=data.NUM_CLASSES,
        parameters=record.parameters,
        float_bytes=record.float_bytes,
        accuracy=record.accuracy,
        test_samples=record.samples,
        data=data.DATA_NAME,
        licence=data.DATA_LICENCE,
        derived_from=entry.derived_from,
    )


def load_model(name: str) -> nn.Module:
    """Load a trained model, in eval mode.

    Every call returns a new object, and the global random state is left as it was.

    Args:
        name: One of `list_models`.

    Returns:
        The model with its trained float32 weights, on the CPU.

    Raises:
        UnknownNameError: If there is no such model.
        WeightsError: If its weights are missing or do not fit.
    """
    entry = get_registration(name)
    with torch.random.fork_rng(devices=[]):
        model = entry.factory()
    if entry.plan is not None:
        storage.read_weights(name, model)
    return model.eval()


def load_inputs(name: str, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one split exactly as the named model takes it, and its labels.

    Raises:
        UnknownNameError: If there is no such model or split.
    """
    entry = get_registration(name)
    pixels, labels = data.load_pixels(split)
    return entry.encode(pixels), labels


@cache
def _discover() -> None:
    """Import every module of this package once, so that each can register its models."""
    package = importlib.import_module("sample_models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"sample_models.{module.name}")


def _source(factory: Callable[..., Any]) -> str:
    """Return the file that defines a factory: a module imported twice may register twice."""
    return inspect.getsourcefile(factory) or factory.__module__
