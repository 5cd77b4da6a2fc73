"""Layers of classes of their own that compute a plain operation, found by trying.

Libraries write layers of their own: a Linear that casts, a convolution that pads by the size of its
input or standardizes its weight, a Linear whose weight lies transposed. What such a layer computes
is not read from its name or its code. It runs on random inputs of several shapes and sizes beside
plain layers around its parameters, and the first one that gives the same takes its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode

from quant_engine.layers import QuantizedLayer, is_quantizable, list_quantizable_types
from quant_engine.layers.convolution import SameConv2d
from quant_engine.layers.embedding import ScaledEmbedding
from quant_engine.layers.functional_weight import can_hold, hold_weights
from quant_engine.model.copying import share_parameters
from quant_engine.model.modules import (
    copy_hooks,
    count_parameter_uses,
    has_own_forward,
    named_parameters_of,
    replace_modules,
)

FUNCTIONAL = "functional weights"
_STANDARDIZED = "standard_layers"
_OPERATIONS = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d)
_MAGNITUDES = (1.0, 30.0)
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class StandardLayer:
    """A layer for which a plain one stands, or a module whose parameters became layers.

    Attributes:
        name: Name of the layer.
        form: Key of the plain form; see `_FORMS`. `FUNCTIONAL` where parameters become layers.
        weights: Names of these parameters.
    """

    name: str
    form: str
    weights: tuple[str, ...] = ()


def find_standard_layers(model: nn.Module) -> tuple[StandardLayer, ...]:
    """Find the layers of other classes that compute a plain operation; the model is not changed."""
    uses = count_parameter_uses(model)
    forms = {name: _find_form(module, uses) for name, module in model.named_modules()}
    return tuple(StandardLayer(name, form) for name, form in forms.items() if form)


def standardize(
    model: nn.Module, found: Sequence[StandardLayer]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Replace layers by plain ones, in place.

    Args:
        model: A private copy.
        found: What to replace.

    Returns:
        The model, and notes on what was replaced.

    Raises:
        AttributeError: If the model has no layer of such a name.
        TypeError: If a layer has not what its plain form needs.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in found:
        module = model.get_submodule(entry.name)
        if entry.form == FUNCTIONAL:
            _require(all(can_hold(module, key) for key in entry.weights))
            hold_weights(module, entry.weights)
            groups[type(module).__name__, FUNCTIONAL].append(entry.name or "the model")
            continue
        layer = _FORMS[entry.form](module)
        copy_hooks(module, layer)
        model = replace_modules(model, {entry.name: layer.train(module.training)})
        groups[type(module).__name__, type(layer).__name__].append(entry.name or "the model")
    vars(model)[_STANDARDIZED] = (*standard_layers(model), *found)
    notes = []
    for (kind, plain), names in groups.items():
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        if plain == FUNCTIONAL:
            owns = "multiplies" if len(names) == 1 else "multiply"
            notes.append(
                f"{', '.join(names[:_MOST_NAMES])}{more} ({kind}) {owns} with parameters of its own"
                ": they can be quantized weight-only, while what they multiply, and what comes "
                "out, stays float."
            )
            continue
        computes = "computes" if len(names) == 1 else "compute"
        notes.append(
            f"{', '.join(names[:_MOST_NAMES])}{more} ({kind}) {computes} what {plain} does, and "
            "can be quantized as such."
        )
    return model, tuple(notes)


def standard_layers(model: nn.Module) -> tuple[StandardLayer, ...]:
    """Return what was replaced in a model, or in the model that it is a copy of."""
    found: tuple[StandardLayer, ...] = vars(model).get(_STANDARDIZED, ())
    return found


def _find_form(module: nn.Module, uses: Mapping[int, int]) -> str:
    """Return the first plain form that computes what a module does; "" if there is none."""
    own = named_parameters_of(module)
    weight = own.get("weight")
    if (
        weight is None
        or isinstance(weight, UninitializedParameter)
        or not weight.is_floating_point()
        or weight.is_meta
        or not weight.numel()
        or module._modules
        or is_quantizable(module)
        or isinstance(module, QuantizedLayer | torch.jit.ScriptModule)
        or has_own_forward(module)
        or type(module).__module__.startswith("torch.nn.")
    ):
        return ""
    with torch.no_grad():
        for name, build in _FORMS.items():
            makes_own = name.startswith(("computed", "transposed"))
            if makes_own and any(uses[id(parameter)] > 1 for parameter in own.values()):
                continue  # the others that hold it would keep the old one
            try:
                layer = build(module)
                probes = [*_probes(layer)]
                trial = share_parameters(module)
                if all(_is_near(layer(x), trial.forward(x)) for x in probes):
                    return name
            except Exception:  # whatever the class does, it is not this
                continue
    return ""


def _plain(module: nn.Module) -> nn.Module:
    """Return a layer of the module's base class around the same parameters."""
    return _like(module, _base(module), module.weight, module._parameters.get("bias"))


def _same_padding(module: nn.Module) -> nn.Module:
    _require(isinstance(module, nn.Conv2d))
    return _like(module, SameConv2d, module.weight, module._parameters.get("bias"))


def _computed(module: nn.Module) -> nn.Module:
    return _like(module, _base(module), *_operands(module))


def _computed_same_padding(module: nn.Module) -> nn.Module:
    _require(isinstance(module, nn.Conv2d))
    return _like(module, SameConv2d, *_operands(module))


def _scaled_embedding(module: nn.Module) -> nn.Module:
    _require(isinstance(module, nn.Embedding))
    weight = named_parameters_of(module)["weight"]
    layer = _like(module, ScaledEmbedding, weight, None)
    trial = share_parameters(module)
    trial.weight = nn.Parameter(torch.ones_like(weight), requires_grad=False)
    with torch.no_grad():  # on a table of ones the constant itself is looked up
        vars(layer)["scale"] = float(trial.forward(next(_probes(layer))).flatten()[0])
    return layer


def _linear(module: nn.Module) -> nn.Module:
    """Return a Linear around the parameters of a module that has no more than weight and bias."""
    return _as_linear(module, named_parameters_of(module)["weight"])


def _transposed_linear(module: nn.Module) -> nn.Module:
    weight = named_parameters_of(module)["weight"]
    transposed = nn.Parameter(weight.detach().t().contiguous(), weight.requires_grad)
    return _as_linear(module, transposed)


_FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": _plain,
    "same padding": _same_padding,
    "computed weight": _computed,
    "computed weight, same padding": _computed_same_padding,
    "scaled embedding": _scaled_embedding,
    "linear": _linear,
    "transposed linear": _transposed_linear,
}
"""Name of a form -> builds it from a module, or raises where the module has not what it needs."""


def _require(is_met: bool) -> None:
    if not is_met:
        raise TypeError


def _base(module: nn.Module) -> type[nn.Module]:
    return next(kind for kind in list_quantizable_types() if isinstance(module, kind))


def _like(module: nn.Module, kind: type[nn.Module], weight: Any, bias: Any) -> nn.Module:
    """Return a layer of a class with all that the module holds besides tensors."""
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    own = {key: value for key, value in vars(module).items() if key not in vars(layer)}
    vars(layer).update(own)
    layer.register_parameter("weight", weight)
    layer.register_parameter("bias", bias)
    return layer


def _as_linear(module: nn.Module, weight: nn.Parameter) -> nn.Module:
    _require(module._parameters.keys() <= {"weight", "bias"} and weight.dim() == 2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", module._parameters.get("bias"))
    return layer


def _operands(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Return weight and bias that the module hands to its one operation."""
    mode = _Recorder()
    trial = share_parameters(module)
    with mode:
        trial.forward(next(_probes(_plain(module))))
    ((weight, bias),) = mode.operands
    own = named_parameters_of(module)
    if bias is not None and bias is not own.get("bias"):
        bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    is_trained = own["weight"].requires_grad
    return nn.Parameter(weight.detach().clone(), requires_grad=is_trained), bias


class _Recorder(TorchFunctionMode):
    """Notes the weight and bias of every linear operation."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[Tensor, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _OPERATIONS:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.operands.append((named["weight"], named.get("bias")))
        return func(*args, **kwargs)


def _probes(layer: Any) -> Iterator[Tensor]:
    """Yield random inputs for a plain layer, of several shapes and magnitudes."""
    generator = torch.Generator().manual_seed(0)
    weight = layer.weight
    if isinstance(layer, nn.Embedding):
        ids = torch.randint(layer.num_embeddings, (3, 17), generator=generator)
        ids[0, 0], ids[0, 1] = 0, layer.num_embeddings - 1
        yield from (ids.to(weight.device), ids[0, :1].to(weight.device))
        return
    if isinstance(layer, nn.Linear):
        shapes = [(3, layer.in_features), (2, 4, layer.in_features)]
    else:
        axes = range(weight.dim() - 2)
        reach = [layer.dilation[i] * (layer.kernel_size[i] - 1) + 1 for i in axes]
        shapes = [
            (2, layer.in_channels, *(reach[i] + 2 * layer.stride[i] + extra + i for i in axes))
            for extra in (0, 1)
        ]
    for shape in shapes:
        for magnitude in _MAGNITUDES:
            x = magnitude * (torch.randn(shape, generator=generator) + 0.25)
            yield x.to(weight.device, weight.dtype)


def _is_near(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs differ by no more than sums in another order do."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    largest = float(expected.abs().max())
    bound = min(64 * torch.finfo(found.dtype).eps, 0.02) * largest
    return float((found.double() - expected.double()).abs().max()) <= bound
