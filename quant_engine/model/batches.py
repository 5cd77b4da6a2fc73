"""Data in the forms people have it, one checked batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.model.nesting import map_nested, nested_tensors

Data: TypeAlias = Tensor | Iterable[Any]

LABELS = "labels"
_IMAGE_CHANNELS = (1, 3, 4)

Labels: TypeAlias = Tensor | Mapping[str, Tensor]
"""One tensor, or a mapping from the name of an output to its labels; samples first."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Arguments of one forward pass.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        labels: What is right, or None.
        samples: Length of the first axis of the first tensor, or number of images in a list.
        where: What to call the batch in a message.
        number: Its index in the data.
        reading: How a form that can be read in several ways was read; empty for others.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Labels | None = None
    samples: int = 0
    where: str = "batch 0"
    number: int = 0
    reading: str = ""

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, but for those within containers."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)]

    def tokens(self, shape: Sequence[int]) -> list[Tensor]:
        """Return the integers of a shape among them."""
        wanted = torch.Size(shape)
        return [x for x in self.tensors if x.shape == wanted and not x.is_floating_point()]


def iterate_batches(data: Data, what: str = "calibration_data") -> Iterator[Batch]:
    """Read data once, checking every batch as it comes.

    Args:
        data: A tensor (one batch), or an iterable of batches. A batch is a tensor, a pair
            (inputs, labels), or a mapping or dataclass passed as keyword arguments whose key
            "labels" is kept back for accuracy. The inputs of a pair are a tensor, a list of images,
            or a tuple or mapping of several. Labels are a tensor, or a mapping from the name of an
            output to its own. Numpy arrays are taken for tensors.
        what: Name of the data in messages.

    Yields:
        The batches in order; they may differ in length.

    Raises:
        DataError: If there is no batch, or one is empty, of another form, holds NaN or Inf, or has
            fewer or more labels than samples; the message names the batch.
    """
    data = as_tensor(data)
    if isinstance(data, Tensor):
        data = [data]
    if isinstance(data, Mapping | str | bytes) or not isinstance(data, Iterable):
        raise DataError(
            f"{what} is a {type(data).__name__}. Give a tensor, or a list (or loader) of batches."
        )
    if isinstance(data, tuple) and len(data) == 2 and _looks_like_labels(*data):
        raise DataError(
            f"{what} is one pair (inputs, labels), which reads as two batches. "
            f"Give a list of such pairs: {what}=[(inputs, labels)]."
        )
    count = 0
    for count, item in enumerate(data, start=1):
        yield replace(_to_batch(item, f"{what}, batch {count - 1}"), number=count - 1)
    if count == 0:
        raise DataError(f"{what} holds no batches. Give at least one.")


def _looks_like_labels(inputs: Any, labels: Any) -> bool:
    return (
        isinstance(inputs, Tensor)
        and isinstance(labels, Tensor)
        and labels.dim() == 1
        and not labels.is_floating_point()
        and inputs.dim() > 1
        and len(inputs) == len(labels)
    )


def _to_batch(item: Any, where: str) -> Batch:
    labels: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    reading = ""
    item = map_nested(item, as_tensor)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        item = {f.name: as_tensor(getattr(item, f.name)) for f in dataclasses.fields(item)}
    if isinstance(item, Tensor):
        args = (item,)
    elif isinstance(item, Mapping):
        kwargs = {str(key): as_tensor(value) for key, value in item.items() if key != LABELS}
        labels = item.get(LABELS)
    elif _are_images(item):
        args, reading = (item,), f"a list of {len(item)} images was read as one input"
    elif isinstance(item, tuple | list) and len(item) == 1:
        args = (item[0],)
    elif isinstance(item, tuple | list) and len(item) == 2:
        (inputs, labels), args = item, (item[0],)
        if _are_images(inputs):
            reading = f"a list of {len(inputs)} images was read as one input"
        elif type(inputs) in (tuple, list) and all(isinstance(x, Tensor) for x in inputs):
            args = tuple(inputs)
        elif isinstance(inputs, Mapping):
            args, kwargs = (), {str(key): as_tensor(value) for key, value in inputs.items()}
        elif isinstance(labels, Tensor) and (labels.is_floating_point() or labels.dim() > 1):
            reading = "(x, y) was read as inputs and labels"
    else:
        size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"{where} is a {type(item).__name__}{size}. A batch is a tensor, a pair (inputs, "
            "labels), or a mapping of keyword arguments."
        )
    tensors = list(nested_tensors((args, kwargs)))
    if not tensors:
        raise DataError(f"{where} holds no tensor.")
    for tensor in tensors:
        _check_values(tensor, where)
    samples = len(tensors[0]) if tensors[0].dim() else 1
    if args and _are_images(args[0]):
        samples = len(args[0])
    if samples == 0:
        raise DataError(f"{where} has shape {tuple(tensors[0].shape)}: no samples. Leave it out.")
    if isinstance(labels, list | tuple) and any(isinstance(x, Mapping) for x in labels):
        words = f"the targets, a {type(labels).__name__} of mappings, are not used"
        reading, labels = "; ".join(filter(None, (reading, words))), None
    elif isinstance(labels, Mapping):
        found = {str(key): as_tensor(value) for key, value in labels.items()}
        labels = {
            key: _check_labels(value, samples, where)
            for key, value in found.items()
            if isinstance(value, Tensor)
        }
    else:
        labels = _check_labels(labels, samples, where)
    return Batch(args, kwargs, labels, samples, where, reading=reading)


def as_tensor(value: Any) -> Any:
    """Return a numpy array of numbers as a tensor, float64 as torch's default type."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return value
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    return tensor.to(torch.get_default_dtype()) if value.dtype == np.float64 else tensor


def _are_images(value: object) -> bool:
    """Whether a value is a list of images (channels, height, width), of any sizes."""
    return (
        type(value) is list
        and len(value) > 0
        and all(
            isinstance(x, Tensor)
            and x.is_floating_point()
            and x.dim() == 3
            and x.shape[0] == value[0].shape[0]
            and x.shape[0] in _IMAGE_CHANNELS
            for x in value
        )
    )


def _check_values(tensor: Tensor, where: str) -> None:
    if tensor.layout is not torch.strided:
        raise DataError(f"{where} holds a sparse or nested tensor. Give dense ones: x.to_dense().")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise DataError(
            f"{where} holds {bad} NaN or Inf among {tensor.numel()} values. Remove them."
        )


def _check_labels(labels: Any, samples: int, where: str) -> Tensor | None:
    if labels is None:
        return None
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{where}: the labels are not a tensor ({error}).") from error
    if labels.dim() == 0 or len(labels) != samples:
        raise DataError(
            f"{where} has {samples} samples but labels of shape {tuple(labels.shape)}. "
            "Give one label per sample."
        )
    checked: Tensor = labels.detach()
    return checked


def map_tensors(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Apply `change` to every tensor among the arguments, also within containers."""

    def on_tensor(value: object) -> object:
        return change(value) if isinstance(value, Tensor) else value

    args, kwargs = map_nested((batch.args, dict(batch.kwargs)), on_tensor)
    return replace(batch, args=args, kwargs=kwargs)


def map_labels(labels: Labels | None, change: Callable[[Tensor], Tensor]) -> Labels | None:
    """Apply `change` to every tensor of labels."""
    if isinstance(labels, Mapping):
        return {name: change(tensor) for name, tensor in labels.items()}
    return None if labels is None else change(labels)


def first_samples(batch: Batch, count: int) -> Batch | None:
    """Return a copy of the first samples of a batch; None if not all its tensors have them first.

    Args:
        batch: The batch.
        count: How many samples, at most.
    """
    count = min(count, batch.samples)
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if batch.args and _are_images(batch.args[0]):
        args, kwargs = ([image.clone() for image in batch.args[0][:count]],), {}
        what = f"{count} images"
    else:
        tensors = nested_tensors((batch.args, batch.kwargs))
        if any(tensor.dim() == 0 or len(tensor) != batch.samples for tensor in tensors):
            return None

        part = map_tensors(batch, lambda tensor: tensor[:count].clone())
        args, kwargs = part.args, dict(part.kwargs)
        if any(len(tensor) != count for tensor in nested_tensors((args, kwargs))):
            return None  # one lies in a container that cannot be rebuilt
        what = "one sample" if count == 1 else f"{count} samples"
    labels = map_labels(batch.labels, lambda tensor: tensor[:count])
    return Batch(args, kwargs, labels, count, f"{what} of {batch.where}", reading=batch.reading)


def is_rereadable(data: Data) -> bool:
    """Whether iterating over `data` twice gives the batches twice."""
    return isinstance(data, Tensor) or not isinstance(data, Iterator)


def count_batches(data: Data) -> int | None:
    """Return the number of batches where it is known beforehand."""
    if isinstance(data, Tensor):
        return 1
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None
