"""From the caller's model to a private float copy whose layers can be quantized one by one.

The copy is in eval mode and computes what the original computes. In it, BatchNorms are folded into
the convolutions before them, attention is split into plain Linears, and recomputed weights
(weight_norm and the like) are plain ones. The caller's model is read only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from quant_engine.batches import Batch
from quant_engine.batchnorm import can_fold, fold_batchnorm, is_batchnorm
from quant_engine.copying import copy_model, materialize_weights
from quant_engine.dataflow import sequential_links, trace_links
from quant_engine.errors import UnsupportedLayerError
from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.layers.transformer import SplitTransformerEncoder, SplitTransformerEncoderLayer
from quant_engine.modules import (
    copy_hooks,
    count_parameter_uses,
    has_own_forward,
    named_parameters_of,
    replace_module,
)
from quant_engine.pass_state import PassState


@dataclass(frozen=True, slots=True, eq=False)
class PreparedModel:
    """A float copy of the caller's model, ready to be quantized.

    Attributes:
        model: The copy, in eval mode; nothing of it is shared with the caller's model.
        notes: What was changed in it, in words.
        folded: Names (BatchNorm, convolution) of what was folded; the BatchNorm is an
            `nn.Identity` now.
        split: Names of the attention modules that were split into plain Linears.
        has_folding: Whether BatchNorms were folded where the forward allows it.
        state: What a pass changes besides giving an answer; `prepare_for` finds it on data.
        samples: A few samples of the data that errors are measured on; None without data.
    """

    model: nn.Module
    notes: tuple[str, ...] = ()
    folded: tuple[tuple[str, str], ...] = ()
    split: tuple[str, ...] = ()
    has_folding: bool = True
    state: PassState = field(default_factory=PassState)
    samples: Batch | None = None


def prepare(model: nn.Module, *, has_folding: bool = True) -> PreparedModel:
    """Copy a model and rebuild the copy so that every layer stands on its own.

    Args:
        model: Any module, even a single layer. It is not changed.
        has_folding: Whether to fold BatchNorms where the forward allows it, as far as tracing can
            tell; `prepare_for` checks it on data.

    Returns:
        The copy and what was done to it.

    Raises:
        UnsupportedLayerError: If the model is no module or cannot be copied.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> prepare(model).notes
        ('1 (BatchNorm2d) was folded into 0 (Conv2d).',)
    """
    result, notes = copy_model(model)
    notes += materialize_weights(result)
    result, split = _split_attention(result)
    notes += [f"{_label(name)} was split into plain Linears." for name in split]
    result = _rebuild_encoders(result)
    folded: tuple[tuple[str, str], ...] = ()
    if has_folding:
        result, folded, fold_notes = _fold_batchnorms(result)
        notes += fold_notes
    notes += _shorten_embeddings(result)
    return PreparedModel(result, tuple(notes), folded, split, has_folding)


def reads_children_directly(module: nn.Module) -> bool:
    """Whether the module may read the weights of its children instead of calling them."""
    return isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention)


def _label(name: str) -> str:
    return name or "The model"


def _split_attention(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    kept = {
        id(layer.self_attn)
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer) and not _is_plain_encoder_layer(layer)
    }
    uses = count_parameter_uses(model)
    split = []
    for name, module in list(model.named_modules()):
        if type(module) is not nn.MultiheadAttention or id(module) in kept:
            continue
        own = {**named_parameters_of(module), **named_parameters_of(module.out_proj)}
        is_complete = "in_proj_weight" in own or "q_proj_weight" in own
        if has_own_forward(module) or not is_complete or any(uses[id(p)] > 1 for p in own.values()):
            continue
        replacement = SplitMultiheadAttention(module)
        copy_hooks(module, replacement)
        model = replace_module(model, name, replacement)
        split.append(name)
    return model, tuple(split)


def _is_plain_encoder_layer(module: nn.Module) -> bool:
    return (
        type(module) is nn.TransformerEncoderLayer
        and type(module.self_attn) is nn.MultiheadAttention
        and not has_own_forward(module)
    )


def _rebuild_encoders(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if (
            type(module) is nn.TransformerEncoderLayer
            and isinstance(module.self_attn, SplitMultiheadAttention)
            and not has_own_forward(module)
        ):
            layer = SplitTransformerEncoderLayer(module)
            copy_hooks(module, layer)
            model = replace_module(model, name, layer)
    for name, module in list(model.named_modules()):
        if type(module) is nn.TransformerEncoder and not has_own_forward(module):
            if not all(isinstance(x, SplitTransformerEncoderLayer) for x in module.layers):
                continue
            encoder = SplitTransformerEncoder(module)
            copy_hooks(module, encoder)
            model = replace_module(model, name, encoder)
    return model


def _fold_batchnorms(
    model: nn.Module,
) -> tuple[nn.Module, tuple[tuple[str, str], ...], list[str]]:
    if not any(is_batchnorm(module) for module in model.modules()):
        return model, (), []
    notes, folded = [], []
    try:
        links = trace_links(model)
    except UnsupportedLayerError as error:
        links = sequential_links(model)
        notes.append(
            "The forward could not be traced, so BatchNorms were folded only inside "
            f"nn.Sequential. ({error})"
        )
    uses = count_parameter_uses(model)
    for first, second in links:
        convolution, batchnorm = model.get_submodule(first), model.get_submodule(second)
        if not can_fold(convolution, batchnorm, uses) or not fold_batchnorm(convolution, batchnorm):
            continue
        kind = type(batchnorm).__name__
        model = replace_module(model, second, nn.Identity().eval())
        folded.append((second, first))
        notes.append(f"{second} ({kind}) was folded into {first} ({type(convolution).__name__}).")
    return model, tuple(folded), notes


def _shorten_embeddings(model: nn.Module) -> list[str]:
    """Apply `max_norm` once to whole tables: torch changes the weight in forward, row by row."""
    uses = count_parameter_uses(model)
    notes = []
    for name, module in model.named_modules():
        if type(module) is not nn.Embedding or module.max_norm is None:
            continue
        weight = named_parameters_of(module).get("weight")
        if weight is None or uses[id(weight)] > 1:
            continue
        with torch.no_grad():
            rows = torch.arange(module.num_embeddings, device=weight.device)
            torch.embedding_renorm_(weight, rows, module.max_norm, module.norm_type)
        module.max_norm = None
        notes.append(f"{_label(name)}: max_norm was applied to the whole table once.")
    return notes
