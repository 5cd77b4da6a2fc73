"""Teaching variant: a ViT with activation outliers, as large language models have them.

In large transformers a few channels of the normalized values are a hundred times larger than the
rest, the same few in every layer (Dettmers et al., "LLM.int8()", 2022). Here two channels are made
so on purpose: LayerNorm multiplies them by a power of two, and the Linear layer that reads them
divides its columns by it, so that the network computes what it computed before.
"""

from __future__ import annotations

import torch
from torch import nn

from sample_models.registry import load_model, register_model
from sample_models.vit import VisionTransformer, ViTBlock

FACTOR = 128.0
"""How many times larger the outlier channels become."""

CHANNELS = (0, 7)
"""Which channels become outliers, in every block."""


@register_model(
    title="ViT, outlier channels",
    family="Vision transformer",
    description="The trained ViT, rescaled so that two channels after each LayerNorm are 128 times "
    "larger, as in large language models. It computes what the ViT computes.",
    teaches="Two loud channels take nearly the whole activation range: quantizing activations "
    "ruins accuracy, quantizing weights alone does not.",
    derived_from="vit",
)
def vit_outlier_channels() -> VisionTransformer:
    """Rescale both LayerNorms of every block of the trained ViT."""
    model = load_model("vit")
    assert isinstance(model, VisionTransformer)
    for block in model.blocks:
        assert isinstance(block, ViTBlock)
        amplify_channels(block.norm1, block.attention.in_proj_weight)
        amplify_channels(block.norm2, block.fc1.weight)
    return model


@torch.no_grad()
def amplify_channels(norm: nn.LayerNorm, weight: torch.Tensor) -> None:
    """Make outlier channels after a LayerNorm, in place; the layer that reads them undoes it.

    Args:
        norm: The LayerNorm; only the layer that owns `weight` may read its output.
        weight: That layer's matrix, of shape (outputs, channels).
    """
    factors = torch.ones(weight.shape[1])
    factors[list(CHANNELS)] = FACTOR
    norm.weight.mul_(factors)
    norm.bias.mul_(factors)
    weight.div_(factors)
