"""Quantized embedding table."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer
from quant_engine.scheme import LayerScheme


def shortened(rows: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    """Scale rows whose p-norm is above `max_norm` down to it; `norm_type` is p."""
    if max_norm is None:
        return rows
    norm = torch.linalg.vector_norm(rows, norm_type, dim=-1, keepdim=True)
    return torch.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows)


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
        return shortened(rows, self.max_norm, self.norm_type)

    def forward(self, input: Tensor) -> Tensor:
        """Look up the rows `input`; output in the dtype of the float table."""
        if self.stored_weight is None:
            return self.compute(input, self.weight)
        rows = self.stored_weight.dequantize_rows(input.reshape(-1))
        values = rows.view(*input.shape, self.embedding_dim)
        return shortened(values, self.max_norm, self.norm_type).to(self.weight_dtype)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {super().extra_repr()}"


@register_quantized_layer(nn.EmbeddingBag)
class QuantizedEmbeddingBag(QuantizedLayer):
    """`nn.EmbeddingBag` with an int8 table; only the rows that are looked up are dequantized.

    Input and output as in torch; weight (num_embeddings, embedding_dim), "per channel" means one
    scale per row. Sums and means of rows are float, and so are `per_sample_weights`.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Length of a row.
        max_norm: Longest norm of a row that is summed up; None for no limit.
        norm_type: p of that p-norm.
        scale_grad_by_freq: Whether to divide gradients by how often a row occurs in the batch.
        mode: "sum", "mean" or "max" of a bag's rows.
        sparse: Whether the gradient is a sparse tensor.
        include_last_offset: Whether the last offset is the number of all indices.
        padding_idx: Row that is left out.
        scheme: How to quantize; by default one scale per row.
    """

    takes_float_input = False
    float_arguments = (
        "num_embeddings",
        "embedding_dim",
        "max_norm",
        "norm_type",
        "mode",
        "scale_grad_by_freq",
        "sparse",
        "include_last_offset",
        "padding_idx",
    )

    num_embeddings: int
    embedding_dim: int
    max_norm: float | None
    norm_type: float
    mode: str
    scale_grad_by_freq: bool
    sparse: bool
    include_last_offset: bool
    padding_idx: int | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        scheme: LayerScheme | None = None,
    ) -> None:
        super().__init__(scheme)
        self.adopt(
            nn.EmbeddingBag(
                num_embeddings,
                embedding_dim,
                max_norm,
                norm_type,
                scale_grad_by_freq,
                mode,
                sparse,
                include_last_offset=include_last_offset,
                padding_idx=padding_idx,
            )
        )

    def compute(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        padding_idx: int | None = None,
    ) -> Tensor:
        """Combine rows `x` of a float table; there is no bias."""
        rows = shortened(weight, self.max_norm, self.norm_type)
        bags: Tensor = F.embedding_bag(
            x,
            rows,
            offsets,
            None,
            2.0,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            padding_idx,
        )
        return bags

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """Combine the rows of every bag; arguments and output as in torch."""
        stored = self.stored_weight
        if stored is None:
            return self.compute(
                input, self.weight, None, offsets, per_sample_weights, self.padding_idx
            )
        used, ids = torch.unique(input, return_inverse=True)
        left_out = None
        if self.padding_idx is not None:
            (found,) = (used == self.padding_idx).nonzero(as_tuple=True)
            left_out = int(found[0]) if len(found) else None
        values = stored.dequantize_rows(used)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.float()
        bags = self.compute(ids, values, None, offsets, per_sample_weights, left_out)
        return bags.to(self.weight_dtype)

    def extra_repr(self) -> str:
        """Show the arguments and the scheme in `print(model)`."""
        sizes = f"{self.num_embeddings}, {self.embedding_dim}, mode={self.mode!r}"
        return f"{sizes}, {super().extra_repr()}"


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
