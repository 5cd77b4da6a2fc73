"""Attention taken apart in a graph, so that its projections share one rounding of their input."""

from __future__ import annotations

import operator

import torch.nn.functional as F
from torch import Tensor, fx, nn

from quant_engine.execution.lowering.patterns import module_of
from quant_engine.layers.attention import SplitMultiheadAttention
from quant_engine.model.modules import has_hooks


class AttentionCore(nn.Module):
    """What an attention without masks does between its projections.

    Args:
        attention: The module whose heads and layout it takes on.
    """

    def __init__(self, attention: SplitMultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.batch_first = attention.batch_first

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mix values; projected tensors in, the input of the output projection out."""
        is_batched = query.dim() == 3
        q, k, v = (self._heads(x, is_batched) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if not is_batched:
            return mixed.squeeze(0)
        return mixed if self.batch_first else mixed.transpose(0, 1)

    def _heads(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


def take_attention_apart(traced: fx.GraphModule) -> None:
    """Replace every attention step that uses no masks or weights by its parts, in place."""
    for node in list(traced.graph.nodes):
        module = module_of(node)
        if isinstance(module, SplitMultiheadAttention) and _is_simple(node, module):
            _expand(traced, node, module)
    traced.recompile()


def _is_simple(node: fx.Node, module: SplitMultiheadAttention) -> bool:
    extras = {key: value for key, value in node.kwargs.items() if key != "need_weights"}
    return (
        not has_hooks(module)
        and len(node.args) == 3
        and all(isinstance(argument, fx.Node) for argument in node.args)
        and node.kwargs.get("need_weights", True) is False
        and not any(extras.values())
        and module.bias_k is None
        and not module.add_zero_attn
        and all(_takes_output(user) for user in node.users)
    )


def _takes_output(user: fx.Node) -> bool:
    """Whether a node takes the output out of the result; the weights may be unpacked but unused."""
    return user.target is operator.getitem and bool(user.args[1] == 0 or not user.users)


def _expand(traced: fx.GraphModule, node: fx.Node, module: SplitMultiheadAttention) -> None:
    name = str(node.target)
    traced.add_submodule(f"{name}.core", AttentionCore(module))
    with traced.graph.inserting_before(node):
        projected = [
            traced.graph.call_module(f"{name}.{part}_proj", (argument,))
            for part, argument in zip("qkv", node.args, strict=True)
        ]
        mixed = traced.graph.call_module(f"{name}.core", tuple(projected))
        output = traced.graph.call_module(f"{name}.out_proj", (mixed,))
    for user in list(node.users):
        if user.args[1] == 0:
            user.replace_all_uses_with(output)
        traced.graph.erase_node(user)
    traced.graph.erase_node(node)
