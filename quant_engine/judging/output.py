"""What a caller says about the answer that is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from quant_engine.errors import SchemeError, require_choice

AUTO = "auto"
LOGITS = "logits"
PROBABILITIES = "probabilities"
VALUES = "values"
EMBEDDINGS = "embeddings"
MASK = "mask"
IMAGE = "image"
KINDS = (AUTO, LOGITS, PROBABILITIES, VALUES, EMBEDDINGS, MASK, IMAGE)


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of a model's answer, and what it means.

    Attributes:
        select: Which tensor: a key of a mapping or the name of an attribute; an index among the
            float tensors that have an axis, so that a loss in front does not count; or a function
            from the whole answer to a tensor, samples on its first axis. Predictions follow
            gradients through it.
        kind: "logits" and "probabilities" are judged by KL divergence, agreement and accuracy (and
            perplexity, for tokens), "values" by NMSE, "embeddings" by cosine, "mask" by mean IoU,
            "image" by PSNR. "auto" lets a few samples decide.
        class_axis: Axis of the classes, or of an embedding's values; 1 for (samples, classes,
            height, width).
        ignore_labels: Labels of positions that do not count.

    Raises:
        SchemeError: If a field is not allowed.

    Example:
        >>> Output("boxes", kind="values").select
        'boxes'
    """

    select: str | int | Callable[[Any], Tensor] = 0
    kind: str = AUTO
    class_axis: int = -1
    ignore_labels: tuple[int, ...] = (-100,)

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        is_index = isinstance(self.select, int) and not isinstance(self.select, bool)
        if not (is_index or isinstance(self.select, str) or callable(self.select)):
            raise SchemeError(
                f"select is {self.select!r}. Give a key, an index from 0 up, or a function from "
                "the model's answer to a tensor."
            )
        if is_index and self.select < 0:  # type: ignore[operator]
            raise SchemeError(f"select is {self.select}. An index counts from 0 up.")
        if isinstance(self.class_axis, bool) or not isinstance(self.class_axis, int):
            raise SchemeError(f"class_axis is {self.class_axis!r}. Give an axis, such as -1 or 1.")
        if self.class_axis == 0:
            raise SchemeError(
                "class_axis is 0, which counts samples. Give 1 for (N, classes, ...)."
            )


OutputChoice: TypeAlias = Output | Sequence[Output] | None
"""What `output=` takes; None lets a few samples decide what is judged."""


def as_outputs(output: OutputChoice) -> tuple[Output, ...] | None:
    """Return a caller's choice as a tuple; None where it is left to the samples.

    Raises:
        SchemeError: If it is something else, or empty.
    """
    if output is None:
        return None
    outputs = (output,) if isinstance(output, Output) else tuple(output)
    if not outputs or not all(isinstance(item, Output) for item in outputs):
        raise SchemeError(
            f"output is {output!r}. Give an Output, such as Output('logits'), or several of them."
        )
    return outputs
