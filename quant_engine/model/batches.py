"""Data in the forms people have it, one checked batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.model.nesting import map_nested, nested_tensors

Data: TypeAlias = Tensor | Iterable[Any]

LABELS = "labels"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Arguments of one forward pass.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        labels: Class of each sample, shape (samples,), or None.
        samples: Length of the first axis of the first tensor.
        where: What to call the batch in a message.
        number: Its index in the data.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None
    samples: int = 0
    where: str = "batch 0"
    number: int = 0


def iterate_batches(data: Data, what: str = "calibration_data") -> Iterator[Batch]:
    """Read data once, checking every batch as it comes.

    Args:
        data: A tensor (one batch), or an iterable of batches. A batch is a tensor, a pair
            (inputs, labels), or a mapping passed as keyword arguments whose key "labels" is kept
            back for accuracy. The inputs of a pair are a tensor, or a tuple or mapping of several.
        what: Name of the data in messages.

    Yields:
        The batches in order; they may differ in length.

    Raises:
        DataError: If there is no batch, or one is empty, of another form, holds NaN or Inf, or has
            fewer or more labels than samples; the message names the batch.
    """
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
    if isinstance(item, Tensor):
        args = (item,)
    elif isinstance(item, Mapping):
        kwargs = {str(key): value for key, value in item.items() if key != LABELS}
        labels = item.get(LABELS)
    elif isinstance(item, tuple | list) and len(item) == 1:
        args = (item[0],)
    elif isinstance(item, tuple | list) and len(item) == 2:
        args, labels = (item[0],), item[1]
        if type(item[0]) in (tuple, list) and all(isinstance(x, Tensor) for x in item[0]):
            args = tuple(item[0])
        elif isinstance(item[0], Mapping):
            args, kwargs = (), {str(key): value for key, value in item[0].items()}
    else:
        size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"{where} is a {type(item).__name__}{size}. A batch is a tensor, a pair (inputs, "
            "labels), or a mapping of keyword arguments."
        )
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors:
        raise DataError(f"{where} holds no tensor.")
    for tensor in tensors:
        _check_values(tensor, where)
    samples = len(tensors[0]) if tensors[0].dim() else 1
    if samples == 0:
        raise DataError(f"{where} has shape {tuple(tensors[0].shape)}: no samples. Leave it out.")
    return Batch(args, kwargs, _check_labels(labels, samples, where), samples, where)


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


def first_samples(batch: Batch, count: int) -> Batch | None:
    """Return a copy of the first samples of a batch; None if not all its tensors have them first.

    Args:
        batch: The batch.
        count: How many samples, at most.
    """
    count = min(count, batch.samples)
    tensors = nested_tensors((batch.args, batch.kwargs))
    if any(tensor.dim() == 0 or len(tensor) != batch.samples for tensor in tensors):
        return None

    def cut(value: object) -> object:
        return value[:count].clone() if isinstance(value, Tensor) else value

    args, kwargs = map_nested((batch.args, dict(batch.kwargs)), cut)
    if any(len(tensor) != count for tensor in nested_tensors((args, kwargs))):
        return None  # one lies in a container that cannot be rebuilt
    labels = None if batch.labels is None else batch.labels[:count]
    samples = "one sample" if count == 1 else f"{count} samples"
    return Batch(args, kwargs, labels, count, f"{samples} of {batch.where}")


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
