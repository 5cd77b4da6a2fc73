"""What an output means, guessed from its name, what made it, its values and the labels.

The rules are tried in the order in which they can be trusted. Every guess is said in the report,
and `output=` overrules it. What made an output is read from the graph that autograd builds: logits
come from a linear layer, an embedding from a mean, a normalisation or a pooling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_engine.judging.answers import named_tensors
from quant_engine.judging.labels import fit_labels
from quant_engine.judging.output import EMBEDDINGS, IMAGE, LOGITS, MASK, PROBABILITIES, VALUES
from quant_engine.model.batches import Batch
from quant_engine.model.forward import added_zeros
from quant_engine.model.inputs import copy_inputs
from quant_engine.model.modules import named_parameters_of
from quant_engine.preparation.prepared_model import PreparedModel

_SUM_TOLERANCE = 1e-3
_LEAST_EMBEDDING = 8  # values; a row of fewer is not called an embedding
_IMAGE_CHANNELS = (1, 3)

# What an output, or the layer that made it, is called -> what it is.
_WORDS = {
    VALUES: "box|boxes|bbox|bboxes|coord|coords|offset|offsets|landmarks|keypoints|regression|reg"
    "|depth|flow|delta|deltas",
    LOGITS: "logit|logits",
    PROBABILITIES: "prob|probs|probability|probabilities|score|scores|confidence",
    EMBEDDINGS: "embed|embeds|embedding|embeddings|features|pooler|hidden",
    MASK: "mask|masks",
    IMAGE: "image|images|reconstruction|sr",
}

# Operations that hand values on: what stands before them made the output.
_HAND_ON = re.compile(
    r"^(View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Transpose|Permute|T|Slice|Select|ToCopy"
    r"|Clone|Alias|AsStrided|Expand|Split|Unbind|Mul|Div|Copy|Cat|Index|Add)"
)
_LINEAR = re.compile(r"^(Addmm|Mm|Bmm|Baddbmm|Convolution|MkldnnLinear)")
_POOLED = re.compile(r"(Mean|LayerNorm|BatchNorm|GroupNorm|Pool|Norm|Sum|Tanh)")
_LINEAR_OP = "a linear layer"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made an output.

    Attributes:
        operation: Name of autograd's node, `_LINEAR_OP` for a layer or a product; empty if unknown.
        layer: Name of the layer; empty if none stands right before it.
    """

    operation: str = ""
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Guess:
    """What an output is taken for.

    Attributes:
        kind: See `Output`.
        class_axis: See `Output`.
        is_binary: Whether each value is a probability, or logit, of its own.
    """

    kind: str
    class_axis: int = -1
    is_binary: bool = False


def find_origins(prepared: PreparedModel, batch: Batch, count: int) -> list[Origin]:
    """Return what made each float tensor of the answer, in the order of `named_tensors`."""
    model = prepared.model
    layers = {
        name: module
        for name, module in model.named_modules()
        if (weight := named_parameters_of(module).get("weight")) is not None and weight.dim() > 1
    }
    origins: list[Origin] = []
    # A model that autograd cannot take has no origins; values and names decide then.
    with (
        suppress(Exception),
        prepared.state.leaving_no_trace(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        added_zeros(layers) as zeros,
    ):
        inputs = copy_inputs(batch)
        answer = model(*inputs.args, **inputs.kwargs)
        owners = {id(zero): name for name, found in zeros.items() for zero in found}
        origins = [_origin(tensor.grad_fn, owners) for _, tensor in named_tensors(answer)]
    return origins if len(origins) == count else [Origin()] * count


def _origin(node: Any, owners: Mapping[int, str]) -> Origin:
    """Go back over what only hands values on, to what made them."""
    for _ in range(64):
        if node is None:
            return Origin()
        before = [step for step, _ in node.next_functions if step is not None]
        leaves = [step for step in before if hasattr(step, "variable")]
        for leaf in leaves:
            if id(leaf.variable) in owners:
                return Origin(_LINEAR_OP, owners[id(leaf.variable)])
        name = node.name()
        if _LINEAR.match(name):
            return Origin(_LINEAR_OP)
        following = [step for step in before if step not in leaves]
        if not _HAND_ON.match(name) or not following:
            return Origin(name)
        if name.startswith(("Add", "Mul", "Div")) and len(following) > 1:
            return Origin(name)
        node = following[0]
    return Origin()


def guess(name: str, tensor: Tensor, origin: Origin, batch: Batch, labels: Tensor | None) -> Guess:
    """Say what an output means.

    Args:
        name: Its key in the answer; empty if it has none.
        tensor: The float model's answer on a few samples.
        origin: What made it.
        batch: The samples.
        labels: Labels that may be about it.
    """
    named = _by_name(name, tensor)
    if named is not None:
        return named
    axis = labelled_axis(tensor, labels)
    sums = {axis: is_distribution(tensor, axis) for axis in (-1, 1) if tensor.dim() > 1}
    if axis is not None:
        return Guess(PROBABILITIES if sums[axis] else LOGITS, axis)
    if labels is not None and labels.is_floating_point() and labels.shape == tensor.shape:
        return Guess(VALUES)
    for axis in sums:
        if sums[axis] and (axis == -1 or tensor.dim() > 2):
            return Guess(PROBABILITIES, axis)
    is_image = _is_image(tensor, batch)
    if origin.operation.startswith("Sigmoid") and not is_image:
        return Guess(PROBABILITIES, is_binary=True)
    named = _by_name(origin.layer.rsplit(".", 1)[-1], tensor)
    if named is not None and origin.layer:
        return named
    if is_image:
        return Guess(IMAGE)
    return Guess(_by_shape(tensor, origin, batch))


def _by_name(name: str, tensor: Tensor) -> Guess | None:
    """Say what a name says, where the values do not contradict it."""
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    kinds = [kind for kind, known in _WORDS.items() if set(words) & set(known.split("|"))]
    if not kinds:
        return None
    kind = kinds[0]
    has_classes = tensor.dim() > 1 and tensor.shape[-1] > 1
    if kind == LOGITS and has_classes:
        return Guess(LOGITS)
    if kind == PROBABILITIES and bool(((tensor >= 0) & (tensor <= 1 + _SUM_TOLERANCE)).all()):
        return Guess(PROBABILITIES, is_binary=not (has_classes and is_distribution(tensor, -1)))
    if kind == EMBEDDINGS and has_classes:
        return Guess(EMBEDDINGS)
    if kind == MASK and tensor.dim() > 2:
        return Guess(MASK, is_binary=True)
    if kind == IMAGE and tensor.dim() == 4:
        return Guess(IMAGE)
    return Guess(VALUES) if kind == VALUES else None


def labelled_axis(tensor: Tensor, labels: Tensor | None) -> int | None:
    """Return the axis of the classes that labels are about: the last, or the second; None else."""
    if labels is None or tensor.dim() < 2:
        return None
    for axis in (-1, 1):
        shape = tensor.movedim(axis, -1).shape
        if shape[-1] < 2 or (axis == 1 and tensor.dim() < 3):
            continue
        if labels.is_floating_point() and labels.shape == tensor.shape:
            # One-hot rows are labels, a regression's targets are not.
            is_fitting = bool(((labels == 0) | (labels == 1)).all())
        else:
            is_fitting = True
        if is_fitting and _fits(labels, shape, axis):
            return axis
    return None


def _fits(labels: Tensor, shape: Sequence[int], axis: int) -> bool:
    """Whether labels have the shape of the positions, whatever they are; or are one-hot."""
    plain = torch.zeros_like(labels) if tuple(labels.shape) != tuple(shape) else labels
    return fit_labels(plain, shape, axis, ()) is not None


def is_distribution(tensor: Tensor, axis: int) -> bool:
    """Whether no value is negative and the sums along an axis are 1."""
    if tensor.shape[axis] < 2 or not bool((tensor >= 0).all()):
        return False
    sums = tensor.detach().double().sum(dim=axis)
    return torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=_SUM_TOLERANCE)


def _is_image(tensor: Tensor, batch: Batch) -> bool:
    """Whether an output has the channels of an image that came in, and at least its size."""
    return tensor.dim() == 4 and any(
        x.dim() == 4
        and x.is_floating_point()
        and x.shape[1] == tensor.shape[1]
        and x.shape[1] in _IMAGE_CHANNELS
        and x.shape[2] <= tensor.shape[2]
        and x.shape[3] <= tensor.shape[3]
        for x in batch.tensors
    )


def _by_shape(tensor: Tensor, origin: Origin, batch: Batch) -> str:
    width = tensor.shape[-1] if tensor.dim() > 1 else 1
    if tensor.dim() not in (2, 3) or width < 2:
        return VALUES
    is_long = width >= _LEAST_EMBEDDING
    lengths = torch.linalg.vector_norm(tensor.double(), dim=-1)
    if is_long and torch.allclose(lengths, torch.ones_like(lengths), rtol=0.0, atol=1e-4):
        return EMBEDDINGS
    if is_long and _POOLED.search(origin.operation):
        return EMBEDDINGS
    if tensor.dim() == 2:
        is_product = origin.operation in ("", _LINEAR_OP)  # or nothing is known of it
        is_logits = is_product or origin.operation.startswith(("LogSoftmax", "Add", "Mul"))
        return LOGITS if is_logits else VALUES
    has_tokens = bool(batch.tokens(tensor.shape[:2]))
    return LOGITS if has_tokens and origin.operation == _LINEAR_OP else VALUES


def find_peak(tensor: Tensor) -> float:
    """Return the difference between black and white: 1, 2 (-1 to 1) or 255, else what is seen."""
    lo, hi = (float(edge) for edge in torch.aminmax(tensor))
    if lo >= -0.5 and hi <= 1.5:
        return 1.0
    if lo >= -1.5 and hi <= 1.5:
        return 2.0
    if lo >= -128.0 and 64.0 <= hi <= 383.0:
        return 255.0
    return max(hi - lo, torch.finfo(torch.float32).tiny)
