"""A lowered graph as bare operations, for inputs of one shape: nothing is computed in between.

The steps of a lowered graph look at shapes, choose kernels and hold weights as those want them. For
given shapes all that comes out the same each time, so it is done once, and the operations that were
called are written down. Small models spend more time on calling operations than in them, so what
the list computes in vain is taken out: it shows what each kernel did by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._C._dynamo import eval_frame
from torch._guards import TracingContext, tracing
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from quant_engine.execution.kernels.codes import ROUNDER
from quant_engine.execution.lowering.patterns import aten, input_of
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


_CALLS: dict[object, Callable[..., Tensor]] = {
    aten.conv2d.default: torch.conv2d,
    aten.linear.default: torch.nn.functional.linear,
    aten.layer_norm.default: torch.layer_norm,
    aten.relu.default: torch.relu,
    aten.gelu.default: torch.nn.functional.gelu,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
}
_METHODS = {
    aten.add_.Tensor: "add_",
    aten.sub_.Tensor: "sub_",
    aten.mul_.Tensor: "mul_",
    aten.div_.Tensor: "div_",
    aten.clamp_.default: "clamp_",
    aten.round_.default: "round_",
    aten.reshape.default: "reshape",
    aten.view.default: "view",
    aten.permute.default: "permute",
}
_TAKING = (aten.sub_.Tensor, aten.sub.Tensor)
_SHAPING = (aten.view.default, aten.reshape.default)
_MOVING = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int),
        *(aten.unsqueeze.default, aten.slice.Tensor, aten.select.int, aten.expand.default),
    }
)


def simplify(flat: fx.GraphModule, shared: Iterable[Tensor]) -> None:
    """Take out of a list of operations what changes no number.

    Args:
        flat: A module that runs the list; it is changed.
        shared: Tensors that may change while the list stands; nothing is computed from them.
    """
    _drop_copies(flat.graph)
    _compute_constants(flat, shared)
    for node in flat.graph.find_nodes(op="call_function", target=aten.to.dtype):
        _keep_in_float(node)
    for node in list(flat.graph.nodes):
        source = input_of(node)
        if node.target in _SHAPING and source is not None and _form(source) == _form(node):
            node.replace_all_uses_with(source)
            flat.graph.erase_node(node)
        elif node.target in _CALLS:  # by the way that takes Python least time
            node.target = _CALLS[node.target]
        elif node.target in _METHODS:
            node.op, node.target = "call_method", _METHODS[node.target]
    flat.graph.eliminate_dead_code()
    flat.recompile()


def _drop_copies(graph: fx.Graph) -> None:
    """Let an operation that writes over a copy write over the value itself, if it is its last."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in graph.find_nodes(op="call_function", target=aten.clone.default):
        source = node.args[0]
        is_last = all(order[user] <= order[node] and _is_new(user) for user in source.users)
        if _is_new(source) and is_last and _layout(source) == _layout(node):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    for node in graph.find_nodes(op="call_function", target=aten.to.dtype):
        if node.args[0].meta["val"].dtype == node.args[1] and len(node.args) == 2:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _is_new(node: fx.Node) -> bool:
    """Whether a node's result shares no memory with what it reads."""
    return getattr(node.target, "namespace", "") == "onednn" or node.target is aten.clone.default


def _form(node: fx.Node) -> tuple[torch.Size, tuple[int, ...]]:
    return node.meta["val"].shape, _layout(node)


def _layout(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].stride())


def _compute_constants(flat: fx.GraphModule, shared: Iterable[Tensor]) -> None:
    """Compute once what depends on nothing but numbers of the quantized layers."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in shared}
    written = _written_nodes(flat.graph)
    values: dict[fx.Node, Tensor] = {}
    for node in list(flat.graph.nodes):
        if node in written:
            continue
        if node.op == "get_attr":
            value = getattr(flat, str(node.target))
            is_plain = isinstance(value, Tensor) and not value.is_mkldnn
            if is_plain and value.untyped_storage().data_ptr() not in memory:
                values[node] = value
        elif _is_computed_from(node, values):
            value = node.target(
                *fx.map_arg(node.args, values.__getitem__),
                **fx.map_arg(node.kwargs, values.__getitem__),
            )
            if isinstance(value, Tensor):
                values[node] = value
    for number, (node, value) in enumerate(values.items()):
        if node.op == "call_function" and any(user not in values for user in node.users):
            name = f"_computed_{number}"
            flat.register_buffer(name, value)
            with flat.graph.inserting_before(node):
                constant = flat.graph.get_attr(name)
            constant.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(constant)
            flat.graph.erase_node(node)


def _is_computed_from(node: fx.Node, values: dict[fx.Node, Tensor]) -> bool:
    sources = node.all_input_nodes
    if not sources or not all(source in values for source in sources):
        return False
    target = node.target
    is_pure = isinstance(target, OpOverload) and (
        target is aten.detach_.default or not target._schema.is_mutable
    )
    return is_pure and torch.Tag.nondeterministic_seeded not in target.tags  # type: ignore[union-attr]


def _written_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose memory some operation writes to, under whatever name."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        # What oneDNN's operations write over is not declared; `out` is a keyword.
        if getattr(node.target, "namespace", "") == "onednn" or "out" in node.kwargs:
            found.update(node.all_input_nodes)
        source = input_of(node)
        if source is not None and (_is_in_place(node) or (node in found and _is_alias(node))):
            found.add(source)
    return found


def _is_in_place(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload) or target is aten.detach_.default:
        return False
    return bool(target._schema.is_mutable)


def _is_alias(node: fx.Node) -> bool:
    """Whether a node's result may be its input in another form."""
    target = node.target
    if not isinstance(target, OpOverload):
        return True
    return any(returned.alias_info is not None for returned in target._schema.returns)


def _keep_in_float(codes: fx.Node) -> None:
    """Leave codes float where all that reads them makes distances from the zero point of them.

    Then adding a large number, taking the lowest byte, and all the way back comes down to rounding.

    Args:
        codes: A node; nothing happens if it is not the end of a rounding to bytes.
    """
    view = input_of(codes)
    if view is None or view.target is not aten.view.dtype or codes.args[1] != torch.uint8:
        return
    moved = input_of(view)
    values = None if moved is None else input_of(moved)
    if moved is None or values is None or moved.target is not aten.add_.Tensor:
        return
    if any(len(node.users) > 1 for node in (values, moved, view)):
        return
    end, zero_point = codes, int(cast(float, moved.args[1]) - ROUNDER)
    if [(user.target, user.args[1:]) for user in codes.users] == [(aten.add_.Tensor, (1,))]:
        (end,), zero_point = codes.users, zero_point + 1
    readers = _distances(end, zero_point)
    if readers is None:
        return
    graph = codes.graph
    with graph.inserting_before(moved):
        rounded = graph.call_function(aten.round_.default, (values,))
    rounded.meta["val"] = values.meta["val"]
    end.replace_all_uses_with(rounded)
    for reader, made in readers:
        source = cast(fx.Node, input_of(reader))
        if _layout(source) != _layout(reader):
            layout = reader.kwargs.get("memory_format") or torch.preserve_format
            laid_out: dict[str, Any] = {"memory_format": layout}
            with graph.inserting_before(reader):
                source = graph.call_function(aten.clone.default, (source,), laid_out)
            source.meta["val"] = made.meta["val"]
        for user in made.users:
            if user.target is aten.mul_.Tensor:
                user.target = aten.mul.Tensor
        made.replace_all_uses_with(source)
        for unused in dict.fromkeys((made, reader)):
            graph.erase_node(unused)
    for unused in dict.fromkeys((end, codes, view, moved)):
        graph.erase_node(unused)


def _distances(codes: fx.Node, zero_point: int) -> list[tuple[fx.Node, fx.Node]] | None:
    """Return what makes floats of codes, each with the node of the distances from the zero point.

    Returns:
        None if something else reads the codes, or writes over what it reads.
    """
    found: list[tuple[fx.Node, fx.Node]] = []
    for user in codes.users:
        if user.target in _MOVING and input_of(user) is codes:
            further = _distances(user, zero_point)
            if further is None:
                return None
            found += further
        elif user.target is aten.to.dtype and user.args[1] == torch.float32:
            taken = [u for u in user.users if u.target in _TAKING and u.args[1] == zero_point]
            made = taken if taken or zero_point else [user]
            if len(made) != 1 or (taken and len(user.users) > 1):
                return None
            if any(_is_in_place(u) and u.target is not aten.mul_.Tensor for u in made[0].users):
                return None
            found.append((user, made[0]))
        else:
            return None
    return found
