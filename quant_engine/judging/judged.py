"""What of a model's answer is judged, ready to be used: selected, read, and compared."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from quant_engine.errors import DataError, QuantizationError, SchemeError, suggest
from quant_engine.judging.answers import named_tensors
from quant_engine.judging.labels import fit_labels
from quant_engine.judging.output import EMBEDDINGS, IMAGE, LOGITS, MASK, PROBABILITIES, VALUES
from quant_engine.metrics.catalogue import (
    COSINE,
    KL_DIVERGENCE,
    MEAN_IOU,
    NMSE,
    PSNR_DB,
    SQNR_DB,
    Metric,
    find_metric,
)
from quant_engine.metrics.counts import (
    IGNORED,
    SampleCounts,
    by_sample,
    count_cosines,
    count_logits,
    count_overlap,
    count_peaks,
    count_values,
)
from quant_engine.model.batches import Batch
from quant_engine.model.forward import is_finite, run_model
from quant_engine.tensors.histogram import FloatArray

MetricFunction: TypeAlias = Callable[[Tensor, Tensor], Any]
"""Called as metric(float_output, quantized_output) on one batch, samples first, classes last.

It returns one finite number for each sample, shape (samples,); larger is worse.
"""

Answer: TypeAlias = tuple[Tensor, ...]
"""One tensor for each judged output, samples first, classes last."""

DEFAULT_METRICS = {
    LOGITS: KL_DIVERGENCE,
    PROBABILITIES: KL_DIVERGENCE,
    VALUES: NMSE,
    EMBEDDINGS: COSINE,
    MASK: MEAN_IOU,
    IMAGE: PSNR_DB,
}
WITH_CLASSES = (LOGITS, PROBABILITIES, MASK)
_LEAST_PROBABILITY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class JudgedOutput:
    """One output of a model, and how it is read.

    Attributes:
        name: What reports call it.
        select: How it is found in an answer; see `Output`.
        kind: One of `DEFAULT_METRICS`.
        class_axis: Where the classes, or the values of an embedding, stand in the model's answer.
        ignore_labels: Labels of positions that do not count.
        metric: Name of the metric it is judged by.
        is_binary: Whether every value is one probability, or logit, of yes.
        is_probability: Whether its values are probabilities, not logits.
        has_labels: Whether the labels of a batch are about it.
        is_next_token: Whether the label of a position is the next position's input.
        mask: Name of the input that marks the positions that count; empty if all do.
        peak: Largest difference two values of an image can have.
        function: A metric of the caller's.
    """

    name: str
    select: str | int | Callable[[Any], Tensor] = 0
    kind: str = VALUES
    class_axis: int = -1
    ignore_labels: tuple[int, ...] = (IGNORED,)
    metric: str = NMSE
    is_binary: bool = False
    is_probability: bool = False
    has_labels: bool = False
    is_next_token: bool = False
    mask: str = ""
    peak: float = 1.0
    function: MetricFunction | None = None

    @property
    def has_logits(self) -> bool:
        """Whether predictions are about classes; the NMSE of logits is about their values."""
        return self.kind in WITH_CLASSES and self.metric not in (NMSE, SQNR_DB)

    @property
    def measure(self) -> Metric:
        """The metric it is judged by."""
        return find_metric(self.metric)

    def find(self, answer: Any, where: str = "the samples") -> Tensor:
        """Return the tensor of an answer, samples first, classes last.

        Raises:
            DataError: If the answer has no such tensor.
        """
        tensor = self._select(answer, where)
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = f"{tensor.dtype} values" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise DataError(
                f"What is judged of the model's output on {where} is no float tensor but {got}. "
                "Return a tensor, or a tuple or mapping with one, or choose one by "
                "output=Output(select=...)."
            )
        if self.kind in (*WITH_CLASSES, EMBEDDINGS) and not self.is_binary and tensor.dim() > 1:
            if not -tensor.dim() <= self.class_axis < tensor.dim():
                raise DataError(
                    f"class_axis is {self.class_axis}, but {self.name} has the shape "
                    f"{tuple(tensor.shape)}. Give an axis that it has."
                )
            return tensor.movedim(self.class_axis, -1)
        return tensor

    def _select(self, answer: Any, where: str) -> Any:
        if isinstance(self.select, str):
            found = answer.get(self.select) if isinstance(answer, Mapping) else None
            found = getattr(answer, self.select, None) if found is None else found
            if found is None:
                names = [name for name, _ in named_tensors(answer) if name]
                raise DataError(
                    f"The model's output on {where} has no {self.select!r}. "
                    f"{suggest(self.select, names)}"
                )
            return found
        if not isinstance(self.select, int):
            try:
                return self.select(answer)
            except QuantizationError:
                raise
            except Exception as error:
                raise DataError(
                    f"select failed on the model's output: {type(error).__name__}: {error}"
                ) from error
        tensors = named_tensors(answer)
        if not tensors:
            raise DataError(
                f"The model's output on {where} holds no float tensor. "
                "Return a tensor, or a tuple or mapping with one."
            )
        if self.select >= len(tensors):
            raise DataError(
                f"The model's output on {where} holds {len(tensors)} float tensors, so there is "
                f"none with the index {self.select}."
            )
        return tensors[self.select][1]

    def as_logits(self, tensor: Tensor) -> Tensor:
        """Return logits whose softmax is what the output says, shape (..., classes).

        Probabilities become their logarithms, so no second softmax is taken of them. A single
        probability, or logit, of yes becomes two classes, no and yes.
        """
        if self.is_probability:
            if self.is_binary:
                tensor = torch.stack([1.0 - tensor, tensor], dim=-1)
            return tensor.clamp_min(_LEAST_PROBABILITY).log()
        if self.is_binary:
            return torch.stack([torch.zeros_like(tensor), tensor], dim=-1)
        return tensor

    def labels(self, tensor: Tensor, batch: Batch) -> Tensor | None:
        """Return the class of each position, `IGNORED` where none counts; None without labels.

        Args:
            tensor: The output.
            batch: What it is the answer to.

        Raises:
            DataError: If labels fitted an earlier batch and do not fit this one.
        """
        labels = batch.labels
        if isinstance(labels, Mapping):
            labels = labels.get(self.name)
        if labels is None or not self.has_labels:
            return None
        shape = (*tensor.shape, 2) if self.is_binary else tensor.shape
        fitting = fit_labels(labels.to(tensor.device), shape, self.class_axis, self.ignore_labels)
        if fitting is None:
            raise DataError(
                f"{batch.where} has labels of shape {tuple(labels.shape)}, which do not fit the "
                f"output of shape {tuple(tensor.shape)}, as those of the first batch did."
            )
        if self.is_next_token:
            after = torch.full_like(fitting[:, :1], IGNORED)
            return torch.cat([fitting[:, 1:], after], dim=1)
        return fitting

    def counted(self, tensor: Tensor, batch: Batch) -> Tensor | None:
        """Return the positions that count, shape (samples, ...) without classes; None if all do."""
        mask = batch.kwargs.get(self.mask) if self.mask else None
        counted = None if mask is None else mask.to(tensor.device) != 0
        labels = self.labels(tensor, batch) if self.kind in WITH_CLASSES else None
        if labels is None or not (labels == IGNORED).any():
            return counted
        return labels != IGNORED if counted is None else counted & (labels != IGNORED)

    def for_prediction(self, tensor: Tensor, batch: Batch) -> Tensor:
        """Return what predictions follow: logits, embeddings of length 1, or the values.

        Positions that do not count are 0, so that nothing moves them. Differentiable.
        """
        if self.has_logits:
            result = self.as_logits(tensor)
        elif self.kind == EMBEDDINGS and self.metric == COSINE:
            norm = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True)
            result = tensor / norm.clamp_min(torch.finfo(tensor.dtype).tiny)
        else:
            return tensor
        counted = self.counted(tensor, batch)
        return result if counted is None else result * counted[..., None].to(result.dtype)

    def compare(self, expected: Tensor, changed: Tensor, batch: Batch) -> SampleCounts:
        """Count what a changed model's output says next to the float model's.

        Raises:
            DataError: If the shapes differ, or the caller's metric fails.
        """
        found = count_values(expected, changed)
        found["counted"] = found["signal"] * 0.0 + 1.0
        counted = self.counted(expected, batch)
        if self.kind in WITH_CLASSES:
            labels = self.labels(expected, batch)
            logits, other = self.as_logits(expected), self.as_logits(changed)
            found |= count_logits(logits, other, labels, counted)
            if self.kind == MASK:
                best, best_other, classes = logits.argmax(-1), other.argmax(-1), logits.shape[-1]
                found |= count_overlap(best, best_other, classes, counted)
                if labels is not None:
                    found |= count_overlap(best, labels, classes, counted, "labelled_float_")
                    found |= count_overlap(best_other, labels, classes, counted, "labelled_")
            # Labels are of tokens where the model reads one integer for each.
            if labels is None or labels.dim() != 2 or not batch.tokens(labels.shape):
                found.pop("nll", None)
                found.pop("nll_float", None)
        elif self.kind == EMBEDDINGS:
            found |= count_cosines(expected, changed, counted)
        elif self.kind == IMAGE:
            found |= count_peaks(expected, self.peak)
        if self.function is not None:
            found["custom"] = _apply(self.function, expected, changed)
        return SampleCounts(found)


@dataclass(frozen=True, slots=True)
class Judged:
    """All outputs that are judged, and the line that says so.

    Attributes:
        outputs: At least one.
        line: "judged: ...", then what is not as one might expect, each after "; ". Empty where
            nothing could be looked at beforehand.
    """

    outputs: tuple[JudgedOutput, ...] = field(default=(JudgedOutput("the output"),))
    line: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """The line, if it holds more than how the only output is read."""
        return (self.line,) if "; " in self.line or len(self.outputs) > 1 else ()

    def find(self, answer: Any, where: str = "the samples") -> Answer:
        """Return the judged tensors of a model's answer.

        Raises:
            DataError: If one is missing, or they are not about the same samples.
        """
        found = tuple(output.find(answer, where) for output in self.outputs)
        lengths = {len(tensor) if tensor.dim() else 1 for tensor in found}
        if len(lengths) > 1:
            shapes = ", ".join(
                f"{output.name} {tuple(tensor.shape)}"
                for output, tensor in zip(self.outputs, found, strict=True)
            )
            raise DataError(
                f"The outputs that are judged have different numbers of samples on {where}: "
                f"{shapes}. Choose those with one entry per sample by output=."
            )
        return found

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        """Run a model and return what is judged of its answer.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If a judged output is missing, has no values, or holds NaN or Inf.
        """
        found = self.find(run_model(model, batch), batch.where)
        for output, tensor in zip(self.outputs, found, strict=True):
            which = "" if len(found) == 1 else f", {output.name},"
            if not tensor.numel():
                raise DataError(
                    f"The model's output{which} on {batch.where} has the shape "
                    f"{tuple(tensor.shape)} and so no values. Give batches on which the model "
                    "answers something."
                )
            if not is_finite(tensor):
                raise DataError(
                    f"The model's output{which} on {batch.where} holds NaN or Inf, so no error can "
                    "be measured. Check the model's weights and the data's range."
                )
        return found

    def compare(self, expected: Answer, changed: Answer, batch: Batch) -> tuple[SampleCounts, ...]:
        """Count each output; see `JudgedOutput.compare`."""
        triples = zip(self.outputs, expected, changed, strict=True)
        return tuple(output.compare(x, x_hat, batch) for output, x, x_hat in triples)

    def check_sendable(self) -> None:
        """Check that the caller's functions can be sent to another process.

        Raises:
            SchemeError: If one cannot; the message says why.
        """
        for output in self.outputs:
            for what, value in (("metric", output.function), ("select", output.select)):
                try:
                    pickle.dumps(value)
                except Exception as error:
                    raise SchemeError(
                        f"{what} cannot be sent to the executor: {error}. Define the function at "
                        "the top level of a module that workers can import, or measure without "
                        "an executor."
                    ) from error


def _apply(metric: MetricFunction, expected: Tensor, changed: Tensor) -> FloatArray:
    try:
        # Copies: what the caller's function does to them must not reach a recorded tensor.
        values = torch.as_tensor(metric(expected.clone(), changed.clone())).detach().double().cpu()
    except QuantizationError:
        raise
    except Exception as error:
        raise DataError(f"The metric failed: {type(error).__name__}: {error}") from error
    samples = len(by_sample(expected))
    if values.shape != (samples,):
        raise DataError(
            f"The metric gave the shape {tuple(values.shape)} for an output of shape "
            f"{tuple(expected.shape)}. Return one number for each of the {samples} samples."
        )
    if not torch.isfinite(values).all():
        raise DataError("The metric gave NaN or Inf. Return finite numbers.")
    array: FloatArray = values.numpy()
    return array
