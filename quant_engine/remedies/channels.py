"""The weights of a layer by output and input channel, whatever kind of layer it is.

Every weight is seen as one block (out / groups, in / groups, taps) for each group: `nn.Linear` has
one group and one tap, a depthwise convolution as many groups as channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from quant_engine.graph.layer_calls import TRANSPOSED, LayerCalls
from quant_engine.graph.nodes import module_path
from quant_engine.model.modules import add_bias
from quant_engine.remedies.chains import NotFollowedError, groups_of


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution or linear layer of a prepared model.

    Attributes:
        name: Dotted name of the module.
        module: Holds `weight` and `bias`.
        groups: Blocks of channels that do not see each other.
        is_transposed: Whether the weight is (in, out / groups, ...), as in transposed convolutions.
    """

    name: str
    module: nn.Module
    groups: int = 1
    is_transposed: bool = False

    def blocks(self, weight: Tensor) -> Tensor:
        """Return a view (groups, out / groups, in / groups, taps) of a contiguous weight."""
        rows, columns = weight.shape[:2]
        blocks = weight.view(self.groups, rows // self.groups, columns, -1)
        return blocks.transpose(1, 2) if self.is_transposed else blocks

    @property
    def weight(self) -> Tensor:
        """A float64 copy of the weight."""
        weight: Tensor = self.module.weight.detach()  # type: ignore[operator]
        return weight.double().contiguous().clone()

    @property
    def bias(self) -> Tensor | None:
        """A float64 copy of the bias, shape (out,); None where there is none."""
        bias = self.module._parameters["bias"]
        return None if bias is None else bias.detach().double().clone()

    def assign(self, weight: Tensor, bias: Tensor | None) -> None:
        """Give the module new parameters, of the type that they had."""
        old: Tensor = self.module.weight  # type: ignore[assignment]
        self.module.weight = nn.Parameter(weight.to(old.dtype), old.requires_grad)
        if bias is not None and self.bias is None:
            add_bias(self.module, bias.to(old.dtype))
        elif bias is not None:
            self.module.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)

    def output_reach(self, weight: Tensor) -> Tensor:
        """Return the largest magnitude of each output channel's weights, shape (out,)."""
        return self.blocks(weight).abs().amax(dim=(2, 3)).flatten()

    def input_reach(self, weight: Tensor) -> Tensor:
        """Return the largest magnitude of the weights that read each input channel, (in,)."""
        return self.blocks(weight).abs().amax(dim=(1, 3)).flatten()

    def divide_outputs(self, weight: Tensor, factors: Tensor) -> None:
        """Divide the weights of each output channel by its factor, in place."""
        self.blocks(weight).div_(factors.view(self.groups, -1, 1, 1))

    def multiply_inputs(self, weight: Tensor, factors: Tensor) -> None:
        """Multiply the weights that read each input channel by its factor, in place."""
        self.blocks(weight).mul_(factors.view(self.groups, 1, -1, 1))

    def applied_to(self, weight: Tensor, constants: Tensor) -> Tensor:
        """Return the output, (out,), for inputs that are constant in each channel, (in,)."""
        inputs = constants.view(self.groups, 1, -1)
        return (self.blocks(weight).sum(dim=3) * inputs).sum(dim=2).flatten()


@dataclass(slots=True, eq=False)
class ChannelValues:
    """What is known of each output channel of a layer, over all its answers, in float64.

    Attributes:
        calls: Answers.
        count: Values of each channel.
        lo: Smallest value of each channel, (channels,).
        total: Sum of each channel's values, (channels,).
        squares: Sum of their squares, (channels,).
    """

    calls: int = 0
    count: int = 0
    lo: Tensor = field(default_factory=lambda: torch.tensor(torch.inf).double())
    total: Tensor = field(default_factory=lambda: torch.zeros(()).double())
    squares: Tensor = field(default_factory=lambda: torch.zeros(()).double())

    def update(self, y: Tensor, axis: int) -> None:
        """Count an output with values, channels on `axis`."""
        rows = y.detach().double().movedim(axis, 0).flatten(1)
        self.calls += 1
        self.count += rows.shape[1]
        self.lo = torch.minimum(self.lo, rows.amin(dim=1))
        self.total = self.total + rows.sum(dim=1)
        self.squares = self.squares + rows.square().sum(dim=1)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, (channels,)."""
        return self.total / self.count

    @property
    def rms(self) -> float:
        """Root mean square of all values."""
        return float((self.squares.mean() / self.count).sqrt())

    def offset(self) -> Tensor:
        """Return what can be taken from each channel and added behind a ReLU, (channels,)."""
        if not self.count:
            return torch.zeros(())
        deviation = (self.squares / self.count - self.mean.square()).clamp(min=0).sqrt()
        return torch.minimum(self.lo, self.mean - 3 * deviation).clamp(min=0.0)


def spread(factors: Tensor, times: int) -> Tensor:
    """Return each factor `times` times in a row, for channels that were flattened into features."""
    return factors.repeat_interleave(times)


def gathered(reach: Tensor, times: int) -> Tensor:
    """Return the largest of every `times` neighbours: the inverse of `spread` for ranges."""
    return torch.amax(reach.view(-1, times), dim=1)


def layer_of(calls: LayerCalls, node: fx.Node) -> Layer:
    """Return the layer that an operation belongs to.

    Args:
        calls: Of the graph that the operation is in.
        node: A convolution or linear operation.

    Raises:
        NotFollowedError: If something else reads its weights too, or it is called several times.
    """
    name = module_path(node)
    module = calls.module(name)
    if module is None:
        raise NotFollowedError(f"{name!r} has no module of its own")
    if not calls.is_called_once(name):
        raise NotFollowedError(f"{name!r} is called several times")
    if not calls.is_plain(name):
        raise NotFollowedError(f"{name!r} has hooks or a forward of its own")
    if not calls.has_own_weight(name, node):
        raise NotFollowedError(f"the weight of {name!r} is computed or shared")
    return Layer(name, module, groups_of(node), node.target in TRANSPOSED)
