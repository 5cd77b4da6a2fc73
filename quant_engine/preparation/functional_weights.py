"""Parameters that a module multiplies with in its own forward: which are they, found by watching.

`F.linear(x, self.weight)`, `torch.bmm(x, self.experts)` and recurrent layers are covered alike: see
`quant_engine.layers.functional_weight`. A parameter that is added, such as a table of positions,
or normalized first is left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from quant_engine.layers import QuantizedLayer, is_quantizable
from quant_engine.layers.functional_weight import can_hold, is_stack
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_parameters
from quant_engine.model.modules import count_parameter_uses, has_own_forward, named_parameters_of
from quant_engine.preparation.prepared_model import PreparedModel, reads_children_directly
from quant_engine.preparation.standard_layers import FUNCTIONAL, StandardLayer
from quant_engine.preparation.weight_readers import watch_readers

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
