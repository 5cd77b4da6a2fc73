"""From the caller's model to a private float copy whose layers can be quantized one by one.

The copy is in eval mode and computes what the original computes. In it, attention is split into
plain Linears, recomputed weights (weight_norm and the like) are plain ones, and BatchNorms can be
folded into the layers before them. The caller's model is read only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from quant_engine.errors import SchemeError
from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.layers.transformer import SplitTransformerEncoder, SplitTransformerEncoderLayer
from quant_engine.model.batches import Batch
from quant_engine.model.copying import copy_model, materialize_weights, share_tensors
from quant_engine.model.modules import (
    copy_hooks,
    count_parameter_uses,
    has_own_forward,
    named_parameters_of,
    replace_modules,
)
from quant_engine.model.pass_state import PassState
from quant_engine.preparation.batchnorm import Folding, fold_batchnorms, output_statistics
from quant_engine.preparation.standard_layers import (
    StandardLayer,
    find_standard_layers,
    standardize,
)
from quant_engine.report import Treatment

_FOLDED = "folded_batchnorms"


@dataclass(frozen=True, slots=True, eq=False)
class PreparedModel:
    """A float copy of the caller's model, ready to be quantized.

    Attributes:
        model: The copy, in eval mode; nothing of it is shared with the caller's model.
        notes: What was changed in it, in words.
        folded: The BatchNorms that were folded into the layers before them.
        split: Names of the attention modules that were split into plain Linears.
        state: What a pass changes besides giving an answer; `prepare_for` finds it on data.
        samples: A few samples of the data that errors are measured on; None without data.
        treatments: What remedies did to its weights.
        statistics: Layer that a BatchNorm was folded into -> mean and deviation of each channel of
            its output, as the BatchNorm knew them, before any remedy.
    """

    model: nn.Module
    notes: tuple[str, ...] = ()
    folded: tuple[Folding, ...] = ()
    split: tuple[str, ...] = ()
    state: PassState = field(default_factory=PassState)
    samples: Batch | None = None
    treatments: tuple[Treatment, ...] = ()
    statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def prepare(model: nn.Module) -> PreparedModel:
    """Copy a model and rebuild the copy so that every layer stands on its own.

    BatchNorms stay: which of them can be folded depends on what the model computes on data, so
    `prepare_for` folds them.

    Args:
        model: Any module, even a single layer. It is not changed.

    Returns:
        The copy and what was done to it.

    Raises:
        UnsupportedLayerError: If the model is not a module or cannot be copied.

    Example:
        >>> prepare(nn.MultiheadAttention(4, 2)).notes
        ('The model was split into plain Linears.',)
    """
    result, notes = copy_model(model)
    notes += materialize_weights(result)
    result, split = _split_attention(result)
    notes += [f"{_label(name)} was split into plain Linears." for name in split]
    _leave_fast_paths(result)
    notes += _shorten_embeddings(result)
    return PreparedModel(result, tuple(notes), split=split)


def fold(
    prepared: PreparedModel, foldings: Iterable[Folding], *, is_checked: bool = True
) -> PreparedModel:
    """Fold BatchNorms of a prepared model into the layers before them.

    Args:
        prepared: The model. It is not changed; the result shares all other tensors with it.
        foldings: What to fold.
        is_checked: Whether what would not give finite numbers stays; not where other weights are
            loaded next.

    Raises:
        SchemeError: If the model has no such layers.
    """
    try:
        model, foldings = share_tensors(prepared.model), tuple(foldings)
        kinds = {
            name: type(model.get_submodule(name)).__name__
            for found in foldings
            for name in (found.layer, found.batchnorm)
        }
        model, folded = fold_batchnorms(model, foldings, is_checked=is_checked)
    except AttributeError as error:
        raise SchemeError(
            f"The calibration is of another model: {error}. Calibrate this model."
        ) from error
    notes = (
        f"{found.batchnorm} ({kinds[found.batchnorm]}) was folded into {_label(found.layer)} "
        f"({kinds[found.layer]})."
        for found in folded
    )
    vars(model)[_FOLDED] = folded
    statistics = {
        found.layer: output_statistics(prepared.model.get_submodule(found.batchnorm))
        for found in folded
    }
    return replace(
        prepared, model=model, folded=folded, notes=(*prepared.notes, *notes), statistics=statistics
    )


def standardized(
    prepared: PreparedModel, known: Sequence[StandardLayer] | None = None
) -> PreparedModel:
    """Put plain layers in the place of others that compute the same.

    Args:
        prepared: The model. It is not changed; the result shares its tensors.
        known: What to replace, where that was found before; it is tried out if None.

    Raises:
        SchemeError: If the model has no such layers.
    """
    found = find_standard_layers(prepared.model) if known is None else known
    if not found:
        return prepared
    try:
        model, notes = standardize(share_tensors(prepared.model), found)
    except (AttributeError, TypeError, StopIteration, KeyError) as error:
        raise SchemeError(f"The layers are those of another model: {error}.") from error
    return replace(prepared, model=model, notes=(*prepared.notes, *notes))


def folded_batchnorms(model: nn.Module) -> tuple[Folding, ...]:
    """Return what was folded in a model, or in the model that it is a copy of."""
    folded: tuple[Folding, ...] = vars(model).get(_FOLDED, ())
    return folded


def reads_children_directly(module: nn.Module) -> bool:
    """Whether the module may read the weights of its children instead of calling them."""
    is_encoder = isinstance(module, nn.TransformerEncoderLayer)
    is_split = isinstance(module, SplitTransformerEncoderLayer)
    return isinstance(module, nn.MultiheadAttention) or (is_encoder and not is_split)


def _label(name: str) -> str:
    return name or "The model"


def _split_attention(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    kept = {
        id(layer.self_attn)
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer)
        and (type(layer) is not nn.TransformerEncoderLayer or has_own_forward(layer))
    }
    uses = count_parameter_uses(model)
    replacements: dict[str, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if type(module) is not nn.MultiheadAttention or id(module) in kept:
            continue
        own = {**named_parameters_of(module), **named_parameters_of(module.out_proj)}
        is_complete = "in_proj_weight" in own or "q_proj_weight" in own
        if has_own_forward(module) or not is_complete or any(uses[id(p)] > 1 for p in own.values()):
            continue
        replacements[name] = SplitMultiheadAttention(module)
        copy_hooks(module, replacements[name])
    return replace_modules(model, replacements), tuple(replacements)


def _leave_fast_paths(model: nn.Module) -> None:
    """Let encoders call their layers, where torch's own may read weights past them, in place."""
    plain = [module for module in model.modules() if not has_own_forward(module)]
    for module in plain:
        if type(module) is nn.TransformerEncoderLayer and isinstance(
            module.self_attn, SplitMultiheadAttention
        ):
            module.__class__ = SplitTransformerEncoderLayer
    for module in plain:
        if type(module) is nn.TransformerEncoder and all(
            isinstance(layer, SplitTransformerEncoderLayer) for layer in module.layers
        ):
            module.__class__ = SplitTransformerEncoder


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
