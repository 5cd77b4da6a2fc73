"""Trained weights on disk: ``weights/<name>.safetensors`` and a small record beside it.

The record (``weights/<name>.json``) states what the weights are and what they reach, so that a
list of models with sizes and accuracies needs no model to be built.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save

from sample_models.errors import WeightsError

WEIGHTS_FOLDER: Final = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class WeightsRecord:
    """What is known about one trained model.

    Attributes:
        parameters: Trainable numbers.
        float_bytes: Bytes of all parameters and buffers in float form.
        correct: Samples of the test split that the model gets right.
        samples: Samples in the test split.
    """

    parameters: int
    float_bytes: int
    correct: int
    samples: int

    @property
    def accuracy(self) -> float:
        """Share of the test split that is right, 0 to 1."""
        return self.correct / self.samples


def describe(model: torch.nn.Module, correct: int, samples: int) -> WeightsRecord:
    """Measure a model's size and join it with its result on the test split."""
    tensors = [*model.parameters(), *model.buffers()]
    return WeightsRecord(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        float_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        correct=correct,
        samples=samples,
    )


def write_weights(name: str, model: torch.nn.Module, folder: Path = WEIGHTS_FOLDER) -> Path:
    """Store a model's parameters and buffers.

    Returns:
        The file written.
    """
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    path = folder / f"{name}.safetensors"
    path.write_bytes(save(state))
    return path


def read_weights(name: str, model: torch.nn.Module, folder: Path = WEIGHTS_FOLDER) -> None:
    """Fill a freshly built model with its stored weights.

    Raises:
        WeightsError: If the file is missing or was written for another architecture.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(_missing(name, path))
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise WeightsError(
            f"the weights in {path.name} do not fit the model {name!r}: {error}. Train it again "
            f"with: python -m sample_models.training {name}"
        ) from error


def write_record(name: str, record: WeightsRecord, folder: Path = WEIGHTS_FOLDER) -> Path:
    """Store the record of a model.

    Returns:
        The file written.
    """
    path = folder / f"{name}.json"
    path.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return path


def read_record(name: str, folder: Path = WEIGHTS_FOLDER) -> WeightsRecord:
    """Read the record of a model.

    Raises:
        WeightsError: If the model was never trained, or its record is not one.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise WeightsError(_missing(name, path))
    stored = json.loads(path.read_text(encoding="utf-8"))
    expected = {field.name for field in fields(WeightsRecord)}
    if not isinstance(stored, dict) or set(stored) != expected:
        raise WeightsError(
            f"{path.name} must hold exactly {sorted(expected)}, got "
            f"{sorted(stored) if isinstance(stored, dict) else type(stored).__name__}. Train the "
            f"model again with: python -m sample_models.training {name}"
        )
    return WeightsRecord(**stored)


def _missing(name: str, path: Path) -> str:
    return (
        f"the model {name!r} has no file {path.name} in {path.parent}: it was never trained. "
        f"Train it with: python -m sample_models.training {name}"
    )
