"""Multi-head attention made of plain Linears, so that each of them can be quantized.

`nn.MultiheadAttention` keeps three projections in one weight and its fast path reads all weights
directly, so replacing its `out_proj` alone would change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.errors import DataError
from quant_engine.layers.base import QuantizedLayer
from quant_engine.model.modules import has_hooks, has_own_forward, named_parameters_of


class SplitMultiheadAttention(nn.Module):
    """The same function as an `nn.MultiheadAttention`, with plain Linears for the projections.

    Shapes as in torch: query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim); with
    `batch_first` (N, L, embed_dim) and so on; without a batch (L, embed_dim) and so on.

    Models that read the packed parameters themselves, as `F.multi_head_attention_forward` wants
    them, find them under torch's names, put together from the Linears at every reading.

    Args:
        attention: The module to split. Biases `bias_k`, `bias_v` and the output projection's
            parameters are shared with it, the others are copied out of the packed ones.
    """

    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim = attention.embed_dim
        self.kdim = attention.kdim
        self.vdim = attention.vdim
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.dropout = attention.dropout
        self.batch_first = attention.batch_first
        self.add_zero_attn = attention.add_zero_attn
        self.q_proj, self.k_proj, self.v_proj = _projections(attention)
        self.out_proj = _linear(**named_parameters_of(attention.out_proj))
        own = named_parameters_of(attention)
        self.register_parameter("bias_k", own.get("bias_k"))
        self.register_parameter("bias_v", own.get("bias_v"))
        self._qkv_same_embed_dim = attention._qkv_same_embed_dim
        self.train(attention.training)

    @property
    def in_proj_weight(self) -> Tensor | None:
        """Weights of the three projections, (3 · embed_dim, embed_dim); None as in torch."""
        if not self._qkv_same_embed_dim:
            return None
        return torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    @property
    def in_proj_bias(self) -> Tensor | None:
        """Biases of the three projections, (3 · embed_dim,), or None."""
        if self.q_proj.bias is None:
            return None
        return torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])

    @property
    def q_proj_weight(self) -> Tensor | None:
        """Weight of the query's projection where keys or values have a width of their own."""
        return None if self._qkv_same_embed_dim else self.q_proj.weight

    @property
    def k_proj_weight(self) -> Tensor | None:
        """Weight of the key's projection where keys or values have a width of their own."""
        return None if self._qkv_same_embed_dim else self.k_proj.weight

    @property
    def v_proj_weight(self) -> Tensor | None:
        """Weight of the value's projection where keys or values have a width of their own."""
        return None if self._qkv_same_embed_dim else self.v_proj.weight

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results as in `nn.MultiheadAttention`.

        Args:
            query: What asks.
            key: What is compared with the query.
            value: What is mixed.
            key_padding_mask: (N, S) or (S); bool (True: ignore this key) or added to the scores.
            need_weights: Whether to return the attention weights too.
            attn_mask: (L, S) or (N · heads, L, S); bool (True: do not look) or added to the scores.
            average_attn_weights: Whether to average the weights over the heads.
            is_causal: Says that `attn_mask` is the causal mask.

        Returns:
            The output, and the weights (N, L, S), (N, heads, L, S) or None.

        Raises:
            DataError: If shapes do not fit, or is_causal is given without attn_mask.
        """
        is_batched = query.dim() == 3
        # What is one tensor stays one, so that its projections can share the rounding of it.
        turned = {id(x): self._batch_first(x, is_batched) for x in (query, key, value)}
        query, key, value = (turned[id(x)] for x in (query, key, value))
        if key_padding_mask is not None and not is_batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        if is_causal and attn_mask is None:
            raise DataError("is_causal is a hint about attn_mask. Give attn_mask too.")
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
        mask = self._merged_mask(query, key, attn_mask, key_padding_mask)
        q, k, v = run_side_by_side((self.q_proj, self.k_proj, self.v_proj), (query, key, value))
        q = self._heads(q)
        k = self._heads(self._extended(k, self.bias_k))
        v = self._heads(self._extended(v, self.bias_v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            mixed = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not is_batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _batch_first(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, embed_dim) -> (N, heads, L, head_dim)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _extended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Append the learned key or value, and the zero one, where the module has them."""
        extra = [] if bias is None else [bias.to(x.dtype).expand(x.shape[0], 1, -1)]
        if self.add_zero_attn:
            extra.append(x.new_zeros(x.shape[0], 1, x.shape[-1]))
        return torch.cat([x, *extra], dim=1) if extra else x

    def _merged_mask(
        self, query: Tensor, key: Tensor, attn_mask: Tensor | None, padding: Tensor | None
    ) -> Tensor | None:
        """Return both masks as one to add to the scores, broadcastable to (N, heads, L, S)."""
        samples, length, width = query.shape[0], query.shape[1], key.shape[1]
        parts = []
        if attn_mask is not None:
            shapes = [(length, width), (samples * self.num_heads, length, width)]
            _require_shape("attn_mask", attn_mask, shapes)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.view(samples, self.num_heads, length, width)
            parts.append(attn_mask)
        if padding is not None:
            _require_shape("key_padding_mask", padding, [(samples, width)])
            parts.append(padding.view(samples, 1, 1, width))
        if not parts:
            return None
        added = (self.bias_k is not None) + self.add_zero_attn
        merged = [F.pad(additive_mask(part, query.dtype), (0, added)) for part in parts]
        return merged[0] if len(merged) == 1 else merged[0] + merged[1]

    def extra_repr(self) -> str:
        """Show the arguments in `print(model)`."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask to be added to scores: -inf where a bool mask is True.

    Raises:
        DataError: If the mask is neither bool nor float.
    """
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
    if mask.is_floating_point():
        return mask.to(dtype)
    raise DataError(f"A mask has dtype {mask.dtype}. Masks are bool or float.")


def _require_shape(what: str, mask: Tensor, shapes: list[tuple[int, ...]]) -> None:
    if tuple(mask.shape) not in shapes:
        allowed = " or ".join(str(shape) for shape in shapes)
        raise DataError(f"{what} has shape {tuple(mask.shape)}. It must be {allowed}.")


def _projections(attention: nn.MultiheadAttention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    own = named_parameters_of(attention)
    if "in_proj_weight" in own:
        weights = _thirds(own["in_proj_weight"])
    else:
        weights = [own[f"{name}_proj_weight"] for name in "qkv"]
    biases: Sequence[nn.Parameter | None] = (None, None, None)
    if "in_proj_bias" in own:
        biases = _thirds(own["in_proj_bias"])
    q, k, v = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return q, k, v


def _thirds(packed: nn.Parameter) -> list[nn.Parameter]:
    return [
        nn.Parameter(part.detach().clone(), requires_grad=packed.requires_grad)
        for part in packed.chunk(3)
    ]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None = None) -> nn.Linear:
    """Return an `nn.Linear` around existing parameters."""
    out_features, in_features = weight.shape
    layer = nn.Linear(in_features, out_features, bias=False, device="meta")
    layer.weight = weight
    layer.bias = bias  # type: ignore[assignment]
    return layer


def run_side_by_side(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run each layer on its own input; on integers, an input that several read is rounded once.

    Args:
        layers: Layers that do not depend on each other.
        inputs: One for each layer; the same tensor may stand for several.
    """
    if _run_on_integers(layers):
        form = layers[0].integer_form
        assert form is not None
        return form.run_all(layers, inputs)
    return [layer(x) for layer, x in zip(layers, inputs, strict=True)]


def _run_on_integers(layers: Sequence[nn.Module]) -> TypeGuard[Sequence[QuantizedLayer]]:
    """Whether all run on integers, and nobody watches or replaces a call of one of them."""
    return all(
        isinstance(layer, QuantizedLayer)
        and layer.integer_form is not None
        and layer.is_quantized
        and not has_hooks(layer)
        and not has_own_forward(layer)
        for layer in layers
    )
