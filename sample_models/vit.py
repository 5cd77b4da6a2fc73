"""Vision transformer: cuts the image into patches and lets them attend to each other."""

from __future__ import annotations

import torch
from torch import nn

from sample_models.data import IMAGE_SIZE, NUM_CLASSES
from sample_models.plan import TrainingPlan
from sample_models.registry import register_model


class ViTBlock(nn.Module):
    """Attention and a two-layer perceptron, each normalized before and added after.

    Args:
        embed_dim: Length of a patch's vector.
        num_heads: Attention heads; divides `embed_dim`.
        ff_dim: Hidden width of the perceptron.
        dropout: Share of values dropped during training.
    """

    def __init__(self, embed_dim: int, num_heads: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, dropout, batch_first=True)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ff_dim)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(ff_dim, embed_dim)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, patches, embed_dim) to the same shape."""
        y = self.norm1(x)
        attended, _ = self.attention(y, y, y, need_weights=False)
        x = x + self.dropout1(attended)
        result: torch.Tensor = x + self.dropout2(self.fc2(self.gelu(self.fc1(self.norm2(x)))))
        return result


class VisionTransformer(nn.Module):
    """Patches by a strided convolution, blocks of attention, a Linear layer on the mean patch.

    Args:
        image_size: Height and width of the image; a multiple of `patch_size`.
        patch_size: Height and width of a patch.
        input_channels: Channels of the image.
        num_classes: Length of the output.
        embed_dim: Length of a patch's vector.
        num_heads: Attention heads; divides `embed_dim`.
        num_layers: Blocks.
        ff_dim: Hidden width of each block's perceptron.
        dropout: Share of values dropped during training.

    Raises:
        ValueError: If the image cannot be cut into whole patches.

    Example:
        >>> VisionTransformer(8, 2, 1, 10, 16, 2, 1, 32)(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        input_channels: int,
        num_classes: int,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        ff_dim: int,
        dropout: float = 0.1,
    ) -> None:
        if image_size % patch_size:
            raise ValueError(
                f"patch_size must divide image_size, got {patch_size} and {image_size}: choose "
                "sizes that cut the image into whole patches"
            )
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Conv2d(input_channels, embed_dim, patch_size, patch_size)
        self.pos_embedding = nn.Parameter(torch.randn(patches, embed_dim) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(ViTBlock(embed_dim, num_heads, ff_dim, dropout) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images of shape (batch, input_channels, image_size, image_size)."""
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)
        vectors = self.blocks(self.dropout(patches + self.pos_embedding))
        logits: torch.Tensor = self.head(self.norm(vectors).mean(dim=1))
        return logits


@register_model(
    title="ViT",
    family="Vision transformer",
    description="Sixteen 2×2 patches go through four blocks of attention and perceptron, "
    "normalized before each part.",
    teaches="Attention on images: projections, GELU, and LayerNorm outputs with uneven channels.",
    plan=TrainingPlan(
        epochs=80, learning_rate=2e-3, batch_size=32, shift=0.5, rotation=10, zoom=0.1
    ),
)
def vit() -> VisionTransformer:
    """Vectors of 48 numbers, four heads, four blocks."""
    return VisionTransformer(IMAGE_SIZE, 2, 1, NUM_CLASSES, 48, 4, 4, 96)
