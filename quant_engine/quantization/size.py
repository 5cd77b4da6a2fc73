"""Bytes of a model, itemised: one table of what it stores, from which every size is summed up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain

from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer
from quant_engine.layers.quantized_tensor import QuantizedTensor, StoredGrid
from quant_engine.model.modules import named_parameters_of
from quant_engine.quantization.conversion import LayerPlan
from quant_engine.quantization.storage import serialized_bytes
from quant_engine.report import ConfigurationSize, LayerSize, SizeReport, StoredTensor

_MIB = 1024**2

WEIGHT, SCALE, ZERO_POINT, BIAS, FLOAT = "weight", "scale", "zero_point", "bias", "float"


class TensorKeys:
    """Gives tensors numbers; the same values in memory get the same number."""

    def __init__(self) -> None:
        """Start without any."""
        self._keys: dict[object, int] = {}
        self._kept: list[Tensor] = []

    def key(self, tensor: Tensor) -> int:
        """Return the number of a tensor."""
        has_memory = tensor.numel() > 0 and not tensor.is_meta
        identity = ("memory", tensor.data_ptr()) if has_memory else ("object", id(tensor))
        self._kept.append(tensor)  # so that no later tensor gets its place in memory
        return self._keys.setdefault(identity, len(self._keys))


def list_tensors(
    module: nn.Module,
    keys: TensorKeys,
    counted: Collection[nn.Module] = (),
    float_layer: nn.Module | None = None,
) -> Iterator[StoredTensor]:
    """List what a module itself stores: its parameters and persistent buffers, not its children's.

    Args:
        module: The module; of a quantized layer, codes and grids are its own.
        keys: Numbers the tensors.
        counted: Modules whose float weight counts in the mean bits.
        float_layer: What a quantized layer was made of: the bias is tied to what its bias is.
    """
    if isinstance(module, QuantizedLayer) and module.is_quantized:
        for stored in (module.stored_weight, module.input_grid):
            if stored is not None:
                yield from list_tensors(stored, keys)
        for name, tensor in _own_tensors(module):
            tied = None if float_layer is None else float_layer._parameters.get(name)
            yield StoredTensor(keys.key(tensor if tied is None else tied), BIAS, tensor.nbytes)
    elif isinstance(module, StoredGrid):
        is_weight = isinstance(module, QuantizedTensor)
        if isinstance(module, QuantizedTensor):
            size, bits = module.codes.numel(), module.scheme.bits
            key = keys.key(module.codes)
            yield StoredTensor(key, WEIGHT, -(-size * bits // 8), size * bits, size)
        for item, grid in ((SCALE, module.scale), (ZERO_POINT, module.zero_point)):
            if grid is not None:
                yield StoredTensor(keys.key(grid), item, grid.nbytes, 8 * grid.nbytes * is_weight)
    else:
        for name, tensor in _own_tensors(module):
            is_weight = name == "weight" and module in counted
            bits, size = (8 * tensor.nbytes, tensor.numel()) if is_weight else (0, 0)
            yield StoredTensor(keys.key(tensor), FLOAT, tensor.nbytes, bits, size)


def configuration_size(stored: Iterable[StoredTensor]) -> ConfigurationSize:
    """Sum up the tensors of a configuration; of those with the same key the last one counts.

    Example:
        >>> shared = StoredTensor(0, "weight", 10, 80, 10)
        >>> configuration_size([shared, shared]).model_bytes
        10
    """
    items = dict.fromkeys((WEIGHT, SCALE, ZERO_POINT, BIAS, FLOAT), 0)
    bits = code_bits = weights = 0
    for tensor in {entry.key: entry for entry in stored}.values():
        items[tensor.item] += tensor.stored_bytes
        bits += tensor.weight_bits
        code_bits += tensor.weight_bits if tensor.weights else 0
        weights += tensor.weights
    return ConfigurationSize(
        weight_bytes=items[WEIGHT],
        scale_bytes=items[SCALE],
        zero_point_bytes=items[ZERO_POINT],
        bias_bytes=items[BIAS],
        float_leftover_bytes=items[FLOAT],
        effective_bits=bits / weights if weights else 0.0,
        weight_bits=code_bits / weights if weights else 0.0,
    )


def mixed_size(
    model: nn.Module,
    layers: Mapping[str, QuantizedLayer] | None = None,
    counted: Collection[nn.Module] = (),
) -> ConfigurationSize:
    """Return the size of a model, of which some layers may stand in their quantized form.

    Args:
        model: The model, float or quantized.
        layers: Layer name -> its quantized form.
        counted: Modules whose float weight counts in the mean bits.
    """
    forms = {model.get_submodule(name): layer for name, layer in (layers or {}).items()}
    keys = TensorKeys()
    return configuration_size(
        chain.from_iterable(
            list_tensors(forms.get(module, module), keys, counted, module)
            for module in model.modules()
        )
    )


def total_bytes(model: nn.Module, layers: Mapping[str, QuantizedLayer] | None = None) -> int:
    """Return the bytes of a model, as `mixed_size` counts them."""
    return mixed_size(model, layers).model_bytes


def list_stored(
    model: nn.Module,
    forms: Mapping[str, Mapping[str, QuantizedLayer]],
    quantizable: Collection[str],
) -> tuple[dict[str, tuple[tuple[StoredTensor, ...], ...]], tuple[StoredTensor, ...]]:
    """List what the model stores under every choice.

    Args:
        model: The prepared float model.
        forms: Layer name -> option name -> quantized layer.
        quantizable: Names of all layers whose weights count for the mean bits.

    Returns:
        Layer name -> its tensors in float and then under each option; and the tensors outside these
        layers.
    """
    keys = TensorKeys()
    counted = {model.get_submodule(name) for name in quantizable}
    layers = {}
    for name, options in forms.items():
        module = model.get_submodule(name)
        layers[name] = tuple(
            tuple(list_tensors(form, keys, counted, module)) for form in (module, *options.values())
        )
    chosen = {model.get_submodule(name) for name in forms}
    others = (module for module in model.modules() if module not in chosen)
    leftovers = chain.from_iterable(list_tensors(module, keys, counted) for module in others)
    return layers, tuple(leftovers)


def layer_size(module: nn.Module, quantized: nn.Module) -> LayerSize:
    """Return the bytes of one layer, before and after.

    Args:
        module: The float layer.
        quantized: What stands in its place; the same layer if it stays float.
    """
    before, after = (
        configuration_size(list_tensors(layer, TensorKeys())) for layer in (module, quantized)
    )
    weight_bytes, rest = after.weight_bytes, after.bias_bytes + after.float_leftover_bytes
    if not weight_bytes and isinstance(weight := named_parameters_of(module).get("weight"), Tensor):
        weight_bytes = weight.nbytes
        rest -= weight_bytes
    return LayerSize(
        before.model_bytes, weight_bytes, after.scale_bytes, after.zero_point_bytes, rest
    )


def measure_size(
    float_model: nn.Module, quantized_model: nn.Module, plans: Sequence[LayerPlan]
) -> SizeReport:
    """Return the bytes of the whole model, before and after, itemised.

    Args:
        float_model: The caller's float model.
        quantized_model: Its quantized copy.
        plans: What was done with each layer.
    """
    names = [plan.layer.name for plan in plans if plan.layer.is_quantizable]
    size = mixed_size(
        quantized_model, counted={quantized_model.get_submodule(name) for name in names}
    )
    return SizeReport(
        float_bytes=total_bytes(float_model),
        float_file_bytes=serialized_bytes(float_model),
        quantized_file_bytes=serialized_bytes(quantized_model),
        **asdict(size),
    )


def calculate_model_size(model: nn.Module) -> dict[str, float]:
    """Return the memory of a model's parameters and buffers.

    Shared tensors count once. Codes of fewer than 8 bits count as the int8 they are held in;
    `analyze` gives their true width.

    Args:
        model: Any module, float or quantized.

    Returns:
        "parameters_mb", "buffers_mb" and "total_mb", in units of 1024² bytes.

    Example:
        >>> calculate_model_size(nn.Linear(1024, 256, bias=False))["total_mb"]
        1.0
    """
    keys = TensorKeys()
    parameters = {keys.key(tensor): tensor.nbytes for tensor in model.parameters()}
    buffers = {keys.key(tensor): tensor.nbytes for tensor in model.buffers()}
    buffers = {key: size for key, size in buffers.items() if key not in parameters}
    sizes = [sum(part.values()) / _MIB for part in (parameters, buffers)]
    return {"parameters_mb": sizes[0], "buffers_mb": sizes[1], "total_mb": sum(sizes)}


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and persistent buffers that the module itself holds."""
    yield from ((name, value) for name, value in module._parameters.items() if value is not None)
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, buffer
