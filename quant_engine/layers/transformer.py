"""torch's transformer encoder, without the fast path that reads weights past their layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from quant_engine.layers.attention import SplitMultiheadAttention, additive_mask


class SplitTransformerEncoderLayer(nn.Module):
    """The same function as an `nn.TransformerEncoderLayer`, calling its layers one by one.

    Args:
        layer: The module to rebuild; its attention is already split. Its other layers are shared.
    """

    activation: Callable[[Tensor], Tensor]

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.self_attn = cast(SplitMultiheadAttention, layer.self_attn)
        self.linear1, self.dropout, self.linear2 = layer.linear1, layer.dropout, layer.linear2
        self.norm_first = layer.norm_first
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.dropout1, self.dropout2 = layer.dropout1, layer.dropout2
        self.activation = layer.activation
        self.training = layer.training

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode `src`; arguments and result as in `nn.TransformerEncoderLayer`."""
        if self.norm_first:
            attended = self._attend(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            src = src + attended
            return src + self._transform(self.norm2(src))
        attended = self._attend(src, src_mask, src_key_padding_mask, is_causal)
        src = self.norm1(src + attended)
        return cast(Tensor, self.norm2(src + self._transform(src)))

    def _attend(
        self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor:
        mixed, _ = self.self_attn(
            x,
            x,
            x,
            attn_mask=mask,
            key_padding_mask=padding,
            need_weights=False,
            is_causal=is_causal,
        )
        return cast(Tensor, self.dropout1(mixed))

    def _transform(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return cast(Tensor, self.dropout2(self.linear2(hidden)))


class SplitTransformerEncoder(nn.Module):
    """The same function as an `nn.TransformerEncoder` over rebuilt layers.

    In inference torch's own takes the padded positions out where it can (`use_nested_tensor`), and
    puts zeros there in the end; here they are computed and then set to zero.

    Args:
        encoder: The module to rebuild; its layers are shared.
    """

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = encoder.layers
        self.num_layers = encoder.num_layers
        self.norm = encoder.norm
        self.zeroes_padding = bool(getattr(encoder, "use_nested_tensor", False))
        self.mask_check = bool(getattr(encoder, "mask_check", True))
        self.training = encoder.training

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Encode `src`; arguments and result as in `nn.TransformerEncoder`."""
        output = src
        for layer in self.layers:
            output = layer(
                output,
                src_mask=mask,
                is_causal=bool(is_causal),
                src_key_padding_mask=src_key_padding_mask,
            )
        if mask is None and src_key_padding_mask is not None:
            output = self._without_padding(output, src_key_padding_mask)
        return output if self.norm is None else cast(Tensor, self.norm(output))

    def _without_padding(self, output: Tensor, padding: Tensor) -> Tensor:
        if self.training or not self.zeroes_padding or output.dim() != 3:
            return output
        is_padding = additive_mask(padding, output.dtype) != 0
        if self.mask_check:  # torch's own leaves the output as it is unless the padding comes last
            is_padding = is_padding & (is_padding[:, 1:] >= is_padding[:, :-1]).all()
        return torch.where(is_padding.unsqueeze(-1), torch.zeros_like(output), output)
