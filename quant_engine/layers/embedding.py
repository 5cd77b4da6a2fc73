"""Quantized embedding table."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme
from quant_engine.tensors.affine import QParams, dequantize


@register_quantized_layer(nn.Embedding)
class QuantizedEmbedding(QuantizedLayer):
    """`nn.Embedding` with an int8 table; only the rows that are looked up are dequantized.

    Input (...), integers; output (..., embedding_dim); weight (num_embeddings, embedding_dim).
    There is no float input to round, so a scheme's activation part is left out. "Per channel"
    means one scale for each row.

    `max_norm` shortens the rows that are looked up and leaves the table as it is. (The float layer
    shortens them in its weight, during forward.) `padding_idx`, `scale_grad_by_freq` and `sparse`
    act on gradients only, so they matter until the table is quantized.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Length of a row.
        padding_idx: Row that is not trained.
        max_norm: Longest norm of a row that is returned; None for no limit.
        norm_type: p of that p-norm.
        scale_grad_by_freq: Whether to divide gradients by how often a row occurs in the batch.
        sparse: Whether the gradient is a sparse tensor.
        scheme: How to quantize; by default one scale for each row.
    """

    takes_float_input = False
    float_arguments: ClassVar[tuple[str, ...]] = (
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    )

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    sparse: bool

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            nn.Embedding(
                num_embeddings,
                embedding_dim,
                padding_idx,
                max_norm,
                norm_type,
                scale_grad_by_freq,
                sparse,
            )
        )

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Look up the rows `x` of a float table; there is no bias."""
        rows = F.embedding(
            x, weight, self.padding_idx, None, 2.0, self.scale_grad_by_freq, self.sparse
        )
        return self._shortened(rows)

    def forward(self, input: Tensor) -> Tensor:
        """Look up the rows `input`; output in the dtype of the float table."""
        if self.stored_weight is None:
            return self.compute(input, self.weight)
        table = self.stored_weight.qparams
        rows = F.embedding(input, self.stored_weight.codes)
        if table.axis is None:
            return self._shortened(dequantize(rows, table)).to(self.weight_dtype)
        chosen = input.reshape(-1)
        grid = QParams(
            table.scale[chosen], table.zero_point[chosen], table.qmin, table.qmax, axis=0
        )
        values = dequantize(rows.reshape(chosen.numel(), self.embedding_dim), grid).view(rows.shape)
        return self._shortened(values).to(self.weight_dtype)

    def _shortened(self, rows: Tensor) -> Tensor:
        """Scale rows whose norm is above `max_norm` down to it."""
        if self.max_norm is None:
            return rows
        norm = torch.linalg.vector_norm(rows, self.norm_type, dim=-1, keepdim=True)
        return torch.where(norm > self.max_norm, rows * (self.max_norm / (norm + 1e-7)), rows)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {super().extra_repr()}"


class ScaledEmbedding(nn.Embedding):
    """`nn.Embedding` whose rows are multiplied by a constant.

    Attributes:
        scale: The constant.
    """

    scale: float = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows and multiply them."""
        return super().forward(input) * self.scale


@register_quantized_layer(ScaledEmbedding)
class QuantizedScaledEmbedding(QuantizedEmbedding):
    """`ScaledEmbedding` with an int8 table; arguments and shapes as in `QuantizedEmbedding`.

    The codes are those of the table without the constant, so that a tied layer can share them.
    """

    float_arguments = (*QuantizedEmbedding.float_arguments, "scale")

    scale: float = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows and multiply them."""
        return super().forward(input) * self.scale
