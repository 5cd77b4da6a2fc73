"""Deciding what is judged, on a few samples, and saying it in one line."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from quant_engine.errors import DataError, QuantizationError, SchemeError, suggest
from quant_engine.judging.answers import named_tensors, other_names
from quant_engine.judging.guess import (
    Guess,
    Origin,
    find_origins,
    find_peak,
    guess,
    is_distribution,
    labelled_axis,
)
from quant_engine.judging.judged import (
    DEFAULT_METRICS,
    WITH_CLASSES,
    Judged,
    JudgedOutput,
    MetricFunction,
)
from quant_engine.judging.labels import fit_labels, why_unused
from quant_engine.judging.output import (
    AUTO,
    EMBEDDINGS,
    IMAGE,
    MASK,
    PROBABILITIES,
    VALUES,
    Output,
    OutputChoice,
    as_outputs,
)
from quant_engine.metrics.catalogue import METRICS
from quant_engine.metrics.counts import IGNORED
from quant_engine.model.batches import LABELS, Batch
from quant_engine.model.forward import run_model
from quant_engine.preparation.prepared_model import PreparedModel

_STATES = ("hidden_state", "hidden_states", "pooler_output")
_MASKS = ("decoder_attention_mask", "attention_mask")
_MOST_NAMES = 4
_WORDS = {VALUES: "values", EMBEDDINGS: "embeddings", MASK: "a mask", IMAGE: "an image"}


def check_metric(metric: str | MetricFunction | None) -> None:
    """Check that a metric is None, a known name or a function.

    Raises:
        SchemeError: If it is something else.
    """
    if metric is None or callable(metric) or (isinstance(metric, str) and metric in METRICS):
        return
    raise SchemeError(
        f"metric is {metric!r}. {suggest(str(metric), tuple(METRICS))} Or give a function "
        "(float_output, quantized_output) -> one number per sample, larger is worse."
    )


def describe_judged(
    prepared: PreparedModel, output: OutputChoice = None, metric: str | MetricFunction | None = None
) -> Judged:
    """Run a prepared model on the samples it was prepared with, and say what of it is judged.

    Args:
        prepared: The model, in its initial state.
        output: What the caller wants judged; None lets the samples decide.
        metric: Which number is about it; None takes the usual one of its kind.

    Returns:
        With an empty line where the model cannot be run; others will say why.

    Raises:
        SchemeError: If output or metric is not allowed.
        DataError: If the answer has no such output, labels hold what is no class, or the metric
            needs what is not there.
    """
    check_metric(metric)
    chosen = as_outputs(output)
    batch = prepared.samples
    if batch is None:
        return _unseen(chosen, metric)
    try:
        with prepared.state.leaving_no_trace(prepared.model):
            answer = run_model(prepared.model, batch)
    except QuantizationError:
        return _unseen(chosen, metric)
    found = choose_outputs(answer, batch.samples) if chosen is None else chosen
    if not found:
        return Judged()
    outputs = _read_all(prepared, answer, batch, found)
    outputs, missing = _with_metric(outputs, answer, batch, metric)
    caveats = [*missing, *_caveats(prepared.model, answer, batch, outputs, chosen)]
    return Judged(outputs, "; ".join([_headline(outputs), *caveats]))


def _unseen(chosen: tuple[Output, ...] | None, metric: str | MetricFunction | None) -> Judged:
    """Return what is judged where the model cannot be run beforehand."""
    named, function = _split(metric)
    outputs = [
        JudgedOutput(
            name=_name(output.select, "", number),
            select=output.select,
            kind=VALUES if output.kind == AUTO else output.kind,
            class_axis=output.class_axis,
            ignore_labels=output.ignore_labels,
            metric=named or DEFAULT_METRICS.get(output.kind, DEFAULT_METRICS[VALUES]),
            function=function,
        )
        for number, output in enumerate(chosen or (Output(),), start=1)
    ]
    return Judged(tuple(outputs))


def _split(metric: str | MetricFunction | None) -> tuple[str | None, MetricFunction | None]:
    """Return the name of a metric, and its function where it is the caller's."""
    if metric is None or isinstance(metric, str):
        return metric, None
    return getattr(metric, "__name__", type(metric).__name__), metric


def choose_outputs(answer: Any, samples: int) -> tuple[Output, ...]:
    """Return what of an answer is about samples: no loss, no inner states beside logits."""
    tensors = list(enumerate(named_tensors(answer)))
    if any("logits" in name for _, (name, _) in tensors):
        tensors = [item for item in tensors if not item[1][0].endswith(_STATES)]
    about = [item for item in tensors if item[1][1].dim() and len(item[1][1]) == samples]
    return tuple(Output(name or index) for index, (name, _) in about or tensors[:1])


@dataclass(frozen=True, slots=True)
class _Seen:
    """An output on the samples, before it is read."""

    name: str
    key: str
    tensor: Tensor
    origin: Origin


def _read_all(
    prepared: PreparedModel, answer: Any, batch: Batch, chosen: Sequence[Output]
) -> tuple[JudgedOutput, ...]:
    tensors = named_tensors(answer)
    origins: Sequence[Origin] = ()
    if any(output.kind == AUTO for output in chosen):
        origins = find_origins(prepared, batch, len(tensors))
    by_id = {id(t): o for (_, t), o in zip(tensors, origins, strict=False)}
    keys = {id(t): name for name, t in tensors}
    outputs: list[JudgedOutput] = []
    owner: tuple[int, ...] | None = None  # shape of the logits that plain labels are about
    for number, output in enumerate(chosen, start=1):
        tensor = JudgedOutput("", output.select).find(answer)
        key = output.select if isinstance(output.select, str) else keys.get(id(tensor), "")
        name = _name(output.select, key, number if len(chosen) > 1 else 0)
        origin = by_id.get(id(tensor), Origin())
        labels, is_named = batch.labels, isinstance(batch.labels, Mapping)
        if isinstance(labels, Mapping):
            labels = labels.get(name)
        is_free = owner is None or owner == tuple(tensor.shape) or is_named
        seen = _Seen(name, key, tensor.detach(), origin)
        judged = _read(output, seen, batch, labels if is_free else None)
        if judged.has_labels:
            owner = tuple(tensor.shape)
        outputs.append(judged)
    names = [judged.name for judged in outputs]
    if len(set(names)) < len(names):
        outputs = [replace(j, name=f"output {n}") for n, j in enumerate(outputs, start=1)]
    return tuple(outputs)


def _name(select: object, key: str, number: int) -> str:
    if isinstance(select, str):
        return select
    if callable(select):
        name = getattr(select, "__name__", "<lambda>")
        if name != "<lambda>":
            return str(name)
    return key or (f"output {number}" if number else "the output")


def _read(output: Output, seen: _Seen, batch: Batch, labels: Tensor | None) -> JudgedOutput:
    """Say what one output is: as the caller says, the rest by what a few samples show."""
    tensor = seen.tensor
    if output.kind == AUTO:
        found = guess(seen.key, tensor, seen.origin, batch, labels)
        if output.class_axis != -1:
            found = replace(found, class_axis=output.class_axis)
    else:
        found = Guess(output.kind, output.class_axis, _is_binary(output, tensor, labels))
    if found.kind not in DEFAULT_METRICS:
        found = Guess(VALUES)
    is_inside = bool(((tensor >= 0) & (tensor <= 1)).all())
    judged = JudgedOutput(
        name=seen.name,
        select=output.select,
        kind=found.kind,
        class_axis=found.class_axis,
        ignore_labels=output.ignore_labels,
        metric=DEFAULT_METRICS[found.kind],
        is_binary=found.is_binary and found.kind in WITH_CLASSES,
        is_probability=found.kind == PROBABILITIES or (found.kind == MASK and is_inside),
        peak=find_peak(tensor) if found.kind == IMAGE else 1.0,
    )
    tensor = JudgedOutput.find(replace(judged, select=lambda _: tensor), None)
    positions = tensor.shape if judged.is_binary else tensor.shape[:-1]
    if found.kind in (*WITH_CLASSES, EMBEDDINGS) and len(positions) > 1:
        for name in reversed(_MASKS):
            mask = batch.kwargs.get(name)
            if isinstance(mask, Tensor) and mask.shape == positions:
                judged = replace(judged, mask=name)
    if found.kind in WITH_CLASSES and labels is not None and tensor.dim():
        shape = (*tensor.shape, 2) if judged.is_binary else tensor.shape
        fitting = fit_labels(labels, shape, judged.class_axis, judged.ignore_labels)
        if fitting is not None:
            is_next = _are_inputs(fitting, batch)
            judged = replace(judged, has_labels=True, is_next_token=is_next)
    return judged


def _is_binary(output: Output, tensor: Tensor, labels: Tensor | None) -> bool:
    """Whether an output that the caller calls probabilities or a mask has no axis of classes."""
    if output.kind == PROBABILITIES:
        return tensor.dim() < 2 or not is_distribution(tensor, output.class_axis)
    if output.kind != MASK:
        return False
    if output.class_axis != -1:
        return tensor.shape[output.class_axis] < 2
    return labelled_axis(tensor, labels) != -1


def _are_inputs(labels: Tensor, batch: Batch) -> bool:
    """Whether labels repeat what the model reads, so that the next position is what it predicts."""
    if labels.dim() != 2 or labels.shape[1] < 2:
        return False
    is_label = labels != IGNORED
    return any(bool((x == labels)[is_label].all()) for x in batch.tokens(labels.shape))


def _with_metric(
    outputs: tuple[JudgedOutput, ...],
    answer: Any,
    batch: Batch,
    metric: str | MetricFunction | None,
) -> tuple[tuple[JudgedOutput, ...], list[str]]:
    """Give every output the metric asked for that can have it; say which cannot."""
    name, function = _split(metric)
    if name is None:
        return outputs, []
    if function is not None:
        return tuple(replace(o, metric=name, function=function) for o in outputs), []
    changed = []
    for output in outputs:
        tensor = output.find(answer)
        if METRICS[name].is_known(output.compare(tensor, tensor, batch)):
            output = replace(output, metric=name)
        changed.append(output)
    left = [output.name for output in changed if output.metric != name]
    if len(left) == len(changed):
        raise DataError(
            f"The metric {name!r} needs {METRICS[name].needs}. "
            "Give that, or choose another metric: nmse works for every output."
        )
    return tuple(changed), [f"{_listed(left)} not judged by {name}"] if left else []


def _headline(outputs: Sequence[JudgedOutput]) -> str:
    parts = []
    for output in outputs:
        kind = _WORDS.get(output.kind, output.kind + (" of yes" if output.is_binary else ""))
        metric = output.metric if output.function is not None else output.measure.short
        parts.append(f"{_quoted(output.name)} as {kind} by {metric}")
    if len(parts) > 1:
        return f"judged: {len(parts)} outputs, {', '.join(parts)}"
    return f"judged: {parts[0]}"


def _quoted(name: str) -> str:
    return name if name.startswith(("the ", "output ")) else f"`{name}`"


def _caveats(
    model: nn.Module,
    answer: Any,
    batch: Batch,
    outputs: Sequence[JudgedOutput],
    chosen: tuple[Output, ...] | None,
) -> list[str]:
    """Say what is not as one might expect."""
    found = []
    if chosen is None:
        left = other_names(answer, {output.name for output in outputs})
        if left:
            found.append(f"{_listed([f'`{name}`' for name in left])} not judged")
    first = outputs[0].find(answer)
    if first.dim() and len(first) != batch.samples:
        found.append(
            f"its first axis has {len(first)} entries, which count as samples, for "
            f"{batch.samples} samples that came in"
        )
    masks = {output.mask for output in outputs if output.mask}
    found += [f"only positions that `{mask}` keeps count" for mask in sorted(masks)]
    if any(output.is_next_token for output in outputs):
        found.append("the labels are the inputs, so a position is right if it says the next one")
    for output in outputs:
        if output.kind == IMAGE:
            found.append(f"PSNR is against a peak of {output.peak:.4g}")
    if batch.labels is not None and not any(output.has_labels for output in outputs):
        found.append(why_unused(batch.labels, outputs[0].kind, _quoted(outputs[0].name)))
    if batch.labels is not None and LABELS in inspect.signature(model.forward).parameters:
        found.append("the labels were kept back from the model, which takes them")
    return [*found, *([batch.reading] if batch.reading else [])]


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_NAMES])
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more are"
    words = ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1]
    return f"{words} {'is' if len(shown) == 1 else 'are'}"
