"""Teaching variant: a MobileNet whose depthwise channels differ 256-fold in range.

A factor can move through ReLU without changing what a network computes: multiply a channel before
it, divide after it. Trained MobileNets get such channels by themselves, through BatchNorm; here
they are made on purpose, in powers of two, so that float results stay the same bit for bit.
"""

from __future__ import annotations

import torch

from sample_models.mobilenet import InvertedResidual, MobileNet
from sample_models.registry import load_model, register_model

FACTOR = 16.0
"""How much smaller every second channel becomes, before or after the depthwise convolution."""


@register_model(
    title="MobileNet, unequal channels",
    family="Depthwise separable network",
    description="The trained MobileNet, rescaled so that neighbouring depthwise channels differ "
    "256-fold in range. It computes exactly what the MobileNet computes.",
    teaches="One scale per tensor rounds half of the depthwise filters to zero and accuracy "
    "collapses; one scale per channel costs nothing.",
    derived_from="mobilenet",
)
def mobilenet_unequal_channels() -> MobileNet:
    """Rescale every block of the trained MobileNet."""
    model = load_model("mobilenet")
    assert isinstance(model, MobileNet)
    for block in model.blocks:
        assert isinstance(block, InvertedResidual)
        spread_channels(block)
    return model


@torch.no_grad()
def spread_channels(block: InvertedResidual) -> None:
    """Make a block's depthwise channels unequal, in place, without changing its output.

    Odd channels enter the depthwise convolution 16 times smaller, even ones leave it 16 times
    smaller; the layers after undo both. Once BatchNorm is folded in, odd kernels are therefore 256
    times as large as even ones, while the values between layers differ only 16-fold: the weights
    are what a single scale cannot hold.

    Args:
        block: The block to change.
    """
    channels = block.depthwise.out_channels
    is_odd = torch.arange(channels) % 2 == 1
    before = torch.where(is_odd, 1 / FACTOR, 1.0)
    after = torch.where(is_odd, 1.0, 1 / FACTOR)
    block.expand_bn.weight.mul_(before)
    block.expand_bn.bias.mul_(before)
    block.depthwise.weight.div_(before.view(-1, 1, 1, 1))
    block.depthwise_bn.weight.mul_(after)
    block.depthwise_bn.bias.mul_(after)
    block.project.weight.div_(after.view(1, -1, 1, 1))
