"""torch's transformer encoder, without the fast path that reads weights past their layers.

Modules of a private copy are given these classes; they keep all that they hold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quant_engine.layers.attention import additive_mask


class SplitTransformerEncoderLayer(nn.TransformerEncoderLayer):
    """An `nn.TransformerEncoderLayer`, its attention split, that calls its layers one by one."""

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode `src`; arguments and result as in `nn.TransformerEncoderLayer`."""
        masks = (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            src = src + self._sa_block(self.norm1(src), *masks)
            return src + self._ff_block(self.norm2(src))
        src = self.norm1(src + self._sa_block(src, *masks))
        encoded: Tensor = self.norm2(src + self._ff_block(src))
        return encoded


class SplitTransformerEncoder(nn.TransformerEncoder):
    """An `nn.TransformerEncoder` over such layers.

    In inference torch's own takes the padded positions out where it can (`use_nested_tensor`), and
    puts zeros there in the end; here they are computed and then set to zero.
    """

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
        encoded: Tensor = output if self.norm is None else self.norm(output)
        return encoded

    def _without_padding(self, output: Tensor, padding: Tensor) -> Tensor:
        zeroes_padding = getattr(self, "use_nested_tensor", False)
        if self.training or not zeroes_padding or output.dim() != 3:
            return output
        is_padding = additive_mask(padding, output.dtype) != 0
        if getattr(self, "mask_check", True):
            # Torch's own leaves the output as it is unless the padding comes last.
            is_padding = is_padding & (is_padding[:, 1:] >= is_padding[:, :-1]).all()
        return torch.where(is_padding.unsqueeze(-1), torch.zeros_like(output), output)
