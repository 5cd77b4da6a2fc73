"""A lowered graph as bare operations, for inputs of one shape: nothing is computed in between.

The steps of a lowered graph look at shapes, choose kernels and hold weights as those want them. For
given shapes all that comes out the same each time, so it is done once, and the operations that were
called are written down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._C._dynamo import eval_frame
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from quant_engine.execution.lowering.fewer import simplify
from quant_engine.graph.capture import Program
from quant_engine.layers import QuantizedLayer
from quant_engine.model.modules import has_hooks


def write_flat(
    program: Program, lowered: fx.GraphModule, tensors: Sequence[Tensor]
) -> fx.GraphModule | None:
    """Write down the operations of a lowered graph on integers.

    Args:
        program: What was lowered.
        lowered: The lowered graph.
        tensors: Inputs, which it may overwrite; the result stands for others of the same shapes and
            layouts.

    Returns:
        A module that takes and returns what `lowered` does; None where the operations depend on
        values, or a layer is watched.
    """
    values = [node.meta.get("val") for node in program.graph.nodes]
    if any(isinstance(v, Tensor | torch.SymInt) and free_unbacked_symbols(v) for v in values):
        return None
    if any(map(_is_more_than_operations, lowered.modules())):
        return None
    with torch.inference_mode(False), torch.no_grad():
        try:
            lowered(*tensors)  # chooses the kernels; trying them is not to be written down
            # Of every value a fake one is kept. Without a mode for all, torch makes one for each.
            with tracing(TracingContext(FakeTensorMode())):
                flat = make_fx(lowered, pre_dispatch=True)(*(t.detach() for t in tensors))
        except Exception:  # whatever it is, the steps run without this
            return None
    assert isinstance(flat, fx.GraphModule)
    simplify(flat, [*lowered.parameters(recurse=False), *lowered.buffers(recurse=False)])
    if any(getattr(n.target, "namespace", "") == "onednn" for n in flat.graph.nodes):
        leave_uncompiled(type(flat).forward)  # the compiler refuses weights that are packed already
    for name in list(flat._buffers):
        vars(flat)[name] = flat._buffers.pop(name)  # found at once, not by `Module.__getattr__`
    return flat


def leave_uncompiled(function: Callable[..., Any]) -> None:
    """Let `torch.compile` run a function as it is, and compile what that calls."""
    actions = eval_frame._FrameAction
    strategy = eval_frame._FrameExecStrategy(actions.SKIP, actions.DEFAULT)
    inner = [c for c in function.__code__.co_consts if isinstance(c, CodeType)]  # comprehensions
    for code in (function.__code__, *inner):
        eval_frame.set_code_exec_strategy(code, strategy)


def _is_more_than_operations(module: nn.Module) -> bool:
    """Whether a module does more than a list of operations shows."""
    is_branch = isinstance(module, fx.GraphModule) and type(module).__name__ != "LoweredGraph"
    return is_branch or has_hooks(module)


class Freshness:
    """Whether the numbers of a model's layers are those that something was built from.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = [
            part
            for layer in model.modules()
            if isinstance(layer, QuantizedLayer)
            for part in layer.modules()
        ]
        self._seen = [
            # torch counts changes in place, but not those of inference tensors
            (held, name, tensor, None if tensor.is_inference() else tensor._version)
            for part in parts
            for held in (part._parameters, part._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def holds(self) -> bool:
        """Check every tensor: a few microseconds for a small model."""
        for held, name, tensor, version in self._seen:
            if held.get(name) is not tensor:
                return False
            if version is not None and tensor._version != version:
                return False
        return True
