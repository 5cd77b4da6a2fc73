"""Which of a model's outputs is judged, how it is read, and which labels are not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_engine.errors import QuantizationError
from quant_engine.metrics.output import has_logits, why_labels_are_dropped
from quant_engine.model.forward import primary_output, run_model
from quant_engine.model.nesting import nested_tensors
from quant_engine.preparation.prepared_model import PreparedModel

NMSE = "nmse"
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_MOST_NAMES = 4
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Judged:
    """What is judged, in words.

    Attributes:
        line: One sentence: "judged: ...", then what is not as one might expect, each after "; ".
    """

    line: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """The line, if it holds more than which single output is read how."""
        return (self.line,) if "; " in self.line else ()


def describe_judged(prepared: PreparedModel, metric: object = None) -> Judged:
    """Run a prepared model on the samples it was prepared with, and say what of it is judged.

    Args:
        prepared: The model, in its initial state.
        metric: "nmse" if the output is not to be read as logits; any other changes nothing.

    Returns:
        An empty line where the model cannot be run; others will say why.
    """
    batch = prepared.samples
    if batch is None:
        return Judged()
    try:
        with prepared.state.leaving_no_trace(prepared.model):
            output = run_model(prepared.model, batch)
    except QuantizationError:
        return Judged()
    tensor = primary_output(output)
    if tensor is None or not tensor.is_floating_point():
        return Judged()
    is_read = metric != NMSE
    which, others = _name_outputs(output, tensor)
    parts = [f"judged: {which}, {_how(tensor, batch.labels, is_read)}"]
    if others:
        parts.append(f"{_listed(others)} not judged")
    if is_read and has_logits(tensor, batch.labels) and _are_probabilities(tensor):
        parts.append(
            "its rows look like probabilities (none is negative, their sum is 1), so the KL "
            "divergence is that of a softmax over probabilities and far too small"
        )
    dropped = why_labels_are_dropped(tensor, batch.labels, is_read=is_read)
    return Judged("; ".join([*parts, *([dropped] if dropped else [])]))


def _name_outputs(output: Any, judged: Tensor) -> tuple[str, list[str]]:
    """Return what the judged output is called, and the others that hold tensors."""
    if isinstance(output, Tensor):
        return "the output", []
    if not isinstance(output, Mapping | list | tuple):
        output = vars(output) if hasattr(output, "__dict__") else {"logits": judged}
    is_named = isinstance(output, Mapping)
    items = list(output.items()) if is_named else list(enumerate(output, start=1))
    items = [(key, value) for key, value in items if next(nested_tensors(value), None) is not None]
    names = [repr(str(key)) if is_named else f"output {key}" for key, _ in items]
    found = [any(t is judged for t in nested_tensors(value)) for _, value in items]
    index = found.index(True) if True in found else 0
    if len(items) < 2:
        return "the output", []
    ordinal = _ORDINALS[index] if index < len(_ORDINALS) else f"number {index + 1}"
    name = f", {names[index]}" if is_named else ""
    return f"the {ordinal} of {len(items)} outputs{name}", [*names[:index], *names[index + 1 :]]


def _how(tensor: Tensor, labels: Tensor | None, is_read: bool) -> str:
    if is_read and has_logits(tensor, labels):
        return f"read as logits of {tensor.shape[-1]} classes by KL divergence"
    return "read as values by NMSE"


def _listed(names: list[str]) -> str:
    shown = names[:_MOST_NAMES]
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more are"
    return f"{' and '.join(shown)} {'is' if len(shown) == 1 else 'are'}"


def _are_probabilities(tensor: Tensor) -> bool:
    sums = tensor.detach().double().sum(dim=-1)
    is_one = torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=_SUM_TOLERANCE)
    return bool((tensor >= 0).all()) and is_one
