"""Transformer encoder: reads a digit as a sentence of 64 pixel tokens."""

from __future__ import annotations

import math

import torch
from torch import nn

from sample_models.data import IMAGE_SIZE, MAX_PIXEL, NUM_CLASSES, as_tokens
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model


class SimpleTransformer(nn.Module):
    """Token and position embeddings, encoder layers, and a Linear layer on the mean token.

    The encoder layers are torch's own, with ReLU and with normalization after each addition.

    Args:
        vocab_size: Number of token ids.
        embed_dim: Length of a token's vector.
        num_heads: Attention heads; divides `embed_dim`.
        num_layers: Encoder layers.
        ff_dim: Hidden width of each layer's feed-forward part.
        max_seq_len: Longest sentence.
        num_classes: Length of the output.
        dropout: Share of values dropped during training.

    Example:
        >>> model = SimpleTransformer(1000, 128, 4, 2, 256, 100, 10)
        >>> model(torch.zeros(2, 100, dtype=torch.int64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        ff_dim: int,
        max_seq_len: int,
        num_classes: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        # The forward pass multiplies by √embed_dim; so a token's vector starts with unit variance.
        nn.init.normal_(self.embedding.weight, std=embed_dim**-0.5)
        self.pos_encoding = nn.Parameter(torch.randn(max_seq_len, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.transformer_blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(embed_dim, num_heads, ff_dim, dropout, batch_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify sentences of token ids, int64 of shape (batch, length)."""
        vectors = self.embedding(x) * math.sqrt(self.embed_dim)
        vectors = self.dropout(vectors + self.pos_encoding[: x.shape[1]])
        for block in self.transformer_blocks:
            vectors = block(vectors)
        logits: torch.Tensor = self.classifier(self.norm(vectors).mean(dim=1))
        return logits


def sine_positions(rows: int, columns: int, embed_dim: int) -> torch.Tensor:
    """Describe each pixel by sines and cosines of its row and of its column.

    Neighbours start with similar vectors, which random ones would first have to learn.

    Args:
        rows: Rows of the image.
        columns: Columns of the image.
        embed_dim: Length of a vector, a multiple of 4.

    Returns:
        One vector per pixel, row by row, float32 of shape (rows · columns, embed_dim).
    """
    waves = embed_dim // 4
    frequencies = math.pi / 2 * 10.0 ** (-torch.arange(waves) / waves)

    def encode(length: int) -> torch.Tensor:
        angles = torch.arange(length).unsqueeze(1) * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_row = encode(rows).repeat_interleave(columns, dim=0)
    return torch.cat([by_row, encode(columns).repeat(rows, 1)], dim=1)


@register_model(
    title="Transformer",
    family="Transformer encoder",
    description="Two encoder layers over a sentence of 64 tokens, one for each pixel; the pixel's "
    "value 0 to 16 is the token's id.",
    teaches="Embedding, attention and LayerNorm: which parts of a transformer are quantized, and "
    "which stay float.",
    encode=as_tokens,
    plan=TrainingPlan(
        epochs=60,
        learning_rate=2e-3,
        batch_size=8,
        augmented=0.7,
        shift=0.5,
        rotation=5,
        zoom=0.05,
    ),
)
def transformer() -> SimpleTransformer:
    """17 token ids, 64 positions, vectors of 64 numbers, four heads."""
    model = SimpleTransformer(MAX_PIXEL + 1, 64, 4, 2, 128, IMAGE_SIZE**2, NUM_CLASSES)
    model.pos_encoding = nn.Parameter(sine_positions(IMAGE_SIZE, IMAGE_SIZE, model.embed_dim))
    return model
