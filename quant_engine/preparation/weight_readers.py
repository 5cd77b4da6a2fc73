"""Weights that are read without a call of their layer, such as `F.linear(x, self.q.weight)`.

They are found by watching. `torch.bmm(x, self.experts)` and recurrent layers are covered alike: see
`quant_engine.layers.functional_weight`. A parameter that is added, such as a table of positions,
or normalized first is left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode, resolve_name

from quant_engine.errors import QuantizationError
from quant_engine.layers import QuantizedLayer, is_quantizable
from quant_engine.layers.functional_weight import can_hold, is_stack
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_parameters
from quant_engine.model.forward import run_model
from quant_engine.model.modules import count_parameter_uses, has_own_forward, named_parameters_of
from quant_engine.model.nesting import nested_tensors
from quant_engine.preparation.prepared_model import PreparedModel, reads_children_directly
from quant_engine.preparation.standard_layers import FUNCTIONAL, StandardLayer


def find_readers(
    prepared: PreparedModel, batch: Batch | None, names: Collection[str]
) -> dict[str, str]:
    """Run a model once, and see which functions of torch read the parameters of some layers.

    What compiled code reads (TorchScript, operators of C++) is not seen.

    Args:
        prepared: The float model, in its initial state.
        batch: What to run it on.
        names: Layers that do not run.

    Returns:
        Layer name -> words such as "its weight is read by `F.linear` in `layers.0.attn`"; layers
        that nothing was seen to read are left out.
    """
    readers = watch_readers(prepared, batch, names)
    words = {}
    for name in names:
        found = dict(prepared.model.get_submodule(name).named_parameters(remove_duplicate=False))
        read = [(key, readers[id(p)]) for key, p in found.items() if id(p) in readers]
        for key, (function, place) in sorted(read, key=lambda item: item[0] != "weight")[:1]:
            where = f"`{place}`" if place else "the model's own forward"
            words[name] = f"its {key} is read by `{function}` in {where}"
    return words


def watch_readers(
    prepared: PreparedModel, batch: Batch | None, names: Collection[str]
) -> Mapping[int, tuple[str, str]]:
    """Run a model once, and see which functions of torch read the parameters of some modules.

    Args:
        prepared: The float model, in its initial state.
        batch: What to run it on; None sees nothing.
        names: The modules.

    Returns:
        id of a parameter -> the function that first computes something from it, and the module in
        whose forward; nothing if the model raises.
    """
    model = prepared.model
    if batch is None or not names:
        return {}
    parameters = [p for name in names for p in model.get_submodule(name).parameters()]
    running: list[str] = []
    watch = _ReadWatch(running, parameters)
    try:
        with prepared.state.leaving_no_trace(model), _running_modules(model, running), watch:
            run_model(model, batch)
    except QuantizationError:
        return {}
    return watch.readers


class _ReadWatch(TorchFunctionMode):
    """Notes which function first computes something from each parameter, and in which module.

    Transposed and reshaped parameters count as themselves. Reading a shape computes nothing.

    Attributes:
        readers: id of a parameter -> (name of the function, name of the module).
    """

    def __init__(self, running: list[str], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.readers: dict[int, tuple[str, str]] = {}
        self._running = running
        self._views: dict[int, tuple[Tensor, int]] = {id(p): (p, id(p)) for p in parameters}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = list(nested_tensors(result))
        for tensor in nested_tensors([args, kwargs]) if made else ():
            if id(tensor) not in self._views:
                continue
            parameter = self._views[id(tensor)][1]
            views = [other for other in made if _shares_memory(other, tensor)]
            self._views |= {id(view): (view, parameter) for view in views}  # kept: ids stay unique
            if len(views) < len(made):
                place = self._running[-1] if self._running else ""
                self.readers.setdefault(parameter, (_name_of(func), place))
        return result


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one is other
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _name_of(function: Any) -> str:
    """Return the name under which people call a function of torch."""
    name = str(resolve_name(function) or getattr(function, "__name__", function))
    return name.replace("torch.nn.functional.", "F.").replace("torch.functional.", "torch.")


@contextmanager
def _running_modules(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running in a list, the innermost one last."""

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        running.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                running.append(name)

            hooks.enter_context(module.register_forward_pre_hook(enter, prepend=True))
            hooks.enter_context(module.register_forward_hook(leave, always_call=True))
        yield


_PRODUCTS = (
    "linear bilinear matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm einsum tensordot "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d grouped_mm "
    "_grouped_mm lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
)
_TAKING_MATRICES = frozenset(("__getitem__", "index_select"))
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def find_functional_weights(
    prepared: PreparedModel, batch: Batch | None
) -> tuple[StandardLayer, ...]:
    """Find the parameters that modules multiply with themselves; the model is not changed.

    Args:
        prepared: The model, its layers of other classes standardized.
        batch: What to run it on; None finds recurrent layers only.
    """
    model = prepared.model
    uses = count_parameter_uses(model)
    candidates = {
        name: found
        for name, module in model.named_modules()
        if (found := _candidates(module, uses))
    }
    kinds = {name: type(model.get_submodule(name)) for name in candidates}
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for name, found in candidates.items():
        if kinds[name] in _RECURRENT:
            wanted[name] = list(found)
    if unknown := [name for name in candidates if name not in wanted]:
        copy = replace(prepared, model=share_parameters(model))
        readers = watch_readers(copy, batch, unknown)
        for name in unknown:
            for key, parameter in candidates[name].items():
                function = readers.get(id(parameter), ("", ""))[0].rpartition(".")[2]
                is_taken = function in _TAKING_MATRICES and is_stack(parameter)
                if function in _PRODUCTS.split() or is_taken:
                    wanted[name].append(key)
    return tuple(StandardLayer(name, FUNCTIONAL, tuple(keys)) for name, keys in wanted.items())


def _candidates(module: nn.Module, uses: Mapping[int, int]) -> dict[str, nn.Parameter]:
    if (
        is_quantizable(module)
        or isinstance(module, QuantizedLayer | torch.jit.ScriptModule)
        or reads_children_directly(module)
        or has_own_forward(module)
    ):
        return {}
    return {
        key: parameter
        for key, parameter in named_parameters_of(module).items()
        if not isinstance(parameter, UninitializedParameter)
        and type(parameter.data) is torch.Tensor
        and parameter.layout is torch.strided
        and parameter.is_floating_point()
        and not parameter.is_meta
        and parameter.numel()
        and parameter.dim() >= 2
        and (parameter.dim() == 2 or uses[id(parameter)] == 1)  # the other would keep its own
        and can_hold(module, key)
    }
