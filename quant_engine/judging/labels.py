"""Labels of a batch, put beside the positions of an output, or why they cannot be."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.counts import IGNORED


def shape_words(shape: Sequence[int]) -> str:
    """Return a shape with N for the samples.

    Example:
        >>> shape_words((40, 3))
        '(N, 3)'
    """
    return f"({', '.join(['N', *map(str, shape[1:])])})"


def fit_labels(
    labels: Tensor, shape: Sequence[int], class_axis: int, ignored: Collection[int]
) -> Tensor | None:
    """Return the class of each position of logits; None if labels do not say.

    Taken are classes in the shape of the positions, the same with an axis of length 1 more or less,
    and one-hot rows.

    Args:
        labels: As they came in the batch.
        shape: Shape of the logits, classes last.
        class_axis: Where the classes stand in the model's own output, and so in one-hot labels.
        ignored: Labels of positions that do not count.

    Returns:
        int64, shape `shape[:-1]`, `IGNORED` where a position does not count.

    Raises:
        DataError: If a label is no class, so that no answer could be right.
    """
    positions, classes = tuple(shape[:-1]), shape[-1]
    one_hot = _from_one_hot(labels, shape, class_axis)
    if one_hot is not None:
        return one_hot
    fitting = _in_shape(labels, positions)
    if fitting is None:
        return None
    whole = fitting[fitting.frac() != 0.0] if fitting.is_floating_point() else fitting.flatten()[:0]
    if whole.numel():
        raise DataError(
            f"{whole.numel()} of {labels.numel()} labels are not integers, such as "
            f"{whole[0].item():.6g}. Give the class of each sample, 0 to {classes - 1}, no labels, "
            "or output=Output(kind='values') for a regression."
        )
    fitting = fitting.to(torch.int64)
    is_ignored = torch.zeros_like(fitting, dtype=torch.bool)
    for label in ignored:
        is_ignored |= fitting == label
    wrong = fitting[~is_ignored & ((fitting < 0) | (fitting >= classes))]
    if wrong.numel():
        raise DataError(
            f"{wrong.numel()} of {labels.numel()} labels are no class of the output, such as "
            f"{int(wrong[0])}: it has {classes} classes, 0 to {classes - 1}. Labels of positions "
            f"that do not count are those in Output(ignore_labels={tuple(ignored)})."
        )
    return torch.where(is_ignored, IGNORED, fitting)


def _in_shape(labels: Tensor, positions: tuple[int, ...]) -> Tensor | None:
    """Return labels in the shape of the positions, if only axes of length 1 differ."""
    if tuple(labels.shape) == positions:
        return labels
    squeezed = [size for size in labels.shape[1:] if size != 1]
    if squeezed == [size for size in positions[1:] if size != 1] and len(labels) == positions[0]:
        return labels.reshape(positions)
    return None


def _from_one_hot(labels: Tensor, shape: Sequence[int], class_axis: int) -> Tensor | None:
    if labels.dim() != len(shape) or labels.dim() < 2:
        return None
    rows = labels.movedim(class_axis, -1)
    if tuple(rows.shape) != tuple(shape) or shape[-1] < 2:
        return None
    is_one = (rows == 1).sum(dim=-1) == 1
    is_zero = (rows == 0).sum(dim=-1) == shape[-1] - 1
    return rows.argmax(dim=-1) if bool((is_one & is_zero).all()) else None


def why_unused(labels: object, kind: str, name: str) -> str:
    """Say why labels are not used for accuracy."""
    what = (
        f"the labels, of shape {shape_words(labels.shape)},"
        if isinstance(labels, Tensor)
        else "the labels"
    )
    if kind not in ("logits", "probabilities", "mask"):
        return f"{what} are not used, as {name} is not read as logits"
    return (
        f"{what} are not used: give the class of each position of {name}, or one-hot rows, or say "
        "with output=Output(class_axis=...) where the classes stand"
    )
