"""Bytes of a model, itemised and checked against the file it is saved to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer
from quant_engine.quantization.conversion import LayerPlan
from quant_engine.quantization.storage import serialized_bytes
from quant_engine.report import ConfigurationSize, LayerSize, SizeReport, StoredTensor

_MIB = 1024**2


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
    seen: set[int] = set()
    parameters = sum(_bytes(t) for t in _unique(model.parameters(), seen)) / _MIB
    buffers = sum(_bytes(t) for t in _unique(model.buffers(), seen)) / _MIB
    return {
        "parameters_mb": parameters,
        "buffers_mb": buffers,
        "total_mb": parameters + buffers,
    }


def total_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and persistent buffers; shared ones count once."""
    return sum(_bytes(tensor) for tensor in _unique(_stored_tensors(model), set()))


def mixed_bytes(
    model: nn.Module, layers: Mapping[str, QuantizedLayer], quantized: Collection[str]
) -> int:
    """Return the bytes of a model of which some layers are quantized; shared ones count once.

    Args:
        model: The float model.
        layers: Layer name -> its quantized form.
        quantized: Names of the layers that are quantized.
    """
    swapped = {id(model.get_submodule(name)): layers[name] for name in quantized}
    seen: set[int] = set()
    total = 0
    for module in model.modules():
        layer, own = swapped.get(id(module)), list(_own_stored_tensors(module))
        if layer is not None and layer.quantized_weight is not None:
            if not _is_seen(layer.quantized_weight, seen):
                total += packed_bytes(layer)
            # A bias stays float, and tied to what it was tied to.
            bias = module._parameters.get("bias")
            own = [t for t in _own_stored_tensors(layer) if t is not layer.bias]
            own += [] if bias is None else [bias]
        total += sum(_bytes(tensor) for tensor in _unique(own, seen))
    return total


def layer_size(module: nn.Module, quantized: nn.Module) -> LayerSize:
    """Return the bytes of one layer, before and after.

    Args:
        module: The float layer.
        quantized: What stands in its place; the same layer if it stays float.
    """
    float_bytes = sum(_bytes(t) for t in _unique(_own_tensors(module), set()))
    if not isinstance(quantized, QuantizedLayer) or quantized.quantized_weight is None:
        weight = module._parameters.get("weight")
        weight_bytes = 0 if weight is None else _bytes(weight)
        return LayerSize(float_bytes, weight_bytes, 0, 0, float_bytes - weight_bytes)
    scales = (quantized.weight_scale, quantized.input_scale)
    points = (quantized.weight_zero_point, quantized.input_zero_point)
    return LayerSize(
        float_bytes=float_bytes,
        weight_bytes=packed_bytes(quantized),
        scale_bytes=sum(_bytes(t) for t in scales if t is not None),
        zero_point_bytes=sum(_bytes(t) for t in points if t is not None),
        bias_bytes=0 if quantized.bias is None else _bytes(quantized.bias),
    )


def packed_bytes(layer: QuantizedLayer) -> int:
    """Return the bytes of a layer's codes at their true width, rounded up."""
    assert layer.quantized_weight is not None
    return -(-layer.quantized_weight.numel() * layer.scheme.weight.bits // 8)


def measure_size(
    float_model: nn.Module, quantized_model: nn.Module, plans: Sequence[LayerPlan]
) -> SizeReport:
    """Return the bytes of the whole model, before and after, itemised.

    Args:
        float_model: The caller's float model.
        quantized_model: Its quantized copy.
        plans: What was done with each layer.
    """
    items = {"weight": 0, "scale": 0, "zero_point": 0, "bias": 0}
    seen: set[int] = set()
    for layer in quantized_model.modules():
        if not isinstance(layer, QuantizedLayer) or layer.quantized_weight is None:
            continue
        if not _is_seen(layer.quantized_weight, seen):
            items["weight"] += packed_bytes(layer)
        for item, tensor in (
            ("scale", layer.weight_scale),
            ("scale", layer.input_scale),
            ("zero_point", layer.weight_zero_point),
            ("zero_point", layer.input_zero_point),
            ("bias", layer.bias),
        ):
            if tensor is not None and not _is_seen(tensor, seen):
                items[item] += _bytes(tensor)
    leftovers = sum(_bytes(t) for t in _unique(_stored_tensors(quantized_model), seen))
    return SizeReport(
        float_bytes=total_bytes(float_model),
        weight_bytes=items["weight"],
        scale_bytes=items["scale"],
        zero_point_bytes=items["zero_point"],
        bias_bytes=items["bias"],
        float_leftover_bytes=leftovers,
        float_file_bytes=serialized_bytes(float_model),
        quantized_file_bytes=serialized_bytes(quantized_model),
        effective_bits=_effective_bits(quantized_model, plans),
    )


def _effective_bits(quantized_model: nn.Module, plans: Sequence[LayerPlan]) -> float:
    bits = weights = 0
    seen: set[int] = set()
    for plan in plans:
        if not plan.layer.is_quantizable:
            continue
        layer = quantized_model.get_submodule(plan.layer.name)
        codes = layer.quantized_weight if isinstance(layer, QuantizedLayer) else None
        stored = layer.weight if codes is None else codes
        assert isinstance(stored, Tensor)
        if _is_seen(stored, seen):
            continue
        weights += stored.numel()
        if isinstance(layer, QuantizedLayer) and codes is not None:
            grid = (layer.weight_scale, layer.weight_zero_point)
            bits += codes.numel() * layer.scheme.weight.bits
            bits += sum(8 * _bytes(t) for t in grid if t is not None)
        else:
            bits += 8 * _bytes(stored)
    return bits / weights if weights else 0.0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    for stored in (module._parameters, module._buffers):
        yield from (tensor for tensor in stored.values() if tensor is not None)


def _stored_tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        yield from _own_stored_tensors(module)


def _own_stored_tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from (t for t in module._parameters.values() if t is not None)
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield buffer


def _is_seen(tensor: Tensor, seen: set[int]) -> bool:
    """Whether these very values were counted before; marks them as seen."""
    key = tensor.data_ptr() if tensor.numel() and not tensor.is_meta else id(tensor)
    if key in seen:
        return True
    seen.add(key)
    return False


def _unique(tensors: Iterable[Tensor], seen: set[int]) -> Iterator[Tensor]:
    return (tensor for tensor in tensors if not _is_seen(tensor, seen))


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
    layers = {}
    for name, options in forms.items():
        module = model.get_submodule(name)
        choices = [tuple(_float_tensors(module, keys, has_weight=True))]
        choices += [tuple(_quantized_tensors(layer, keys)) for layer in options.values()]
        layers[name] = tuple(choices)
    chosen = {id(model.get_submodule(name)) for name in forms}
    counted = {id(model.get_submodule(name)) for name in quantizable}
    leftovers = [
        tensor
        for module in model.modules()
        if id(module) not in chosen
        for tensor in _float_tensors(module, keys, has_weight=id(module) in counted)
    ]
    return layers, tuple(leftovers)


def configuration_size(stored: Iterable[StoredTensor]) -> ConfigurationSize:
    """Sum up the tensors of a configuration; of those with the same key the last one counts.

    Example:
        >>> shared = StoredTensor(0, "weight", 10, 80, 10)
        >>> configuration_size([shared, shared]).model_bytes
        10
    """
    items = dict.fromkeys((WEIGHT, SCALE, ZERO_POINT, BIAS, FLOAT), 0)
    bits = weights = 0
    for tensor in {entry.key: entry for entry in stored}.values():
        items[tensor.item] += tensor.stored_bytes
        bits += tensor.weight_bits
        weights += tensor.weights
    return ConfigurationSize(
        weight_bytes=items[WEIGHT],
        scale_bytes=items[SCALE],
        zero_point_bytes=items[ZERO_POINT],
        bias_bytes=items[BIAS],
        float_leftover_bytes=items[FLOAT],
        effective_bits=bits / weights if weights else 0.0,
    )


def _float_tensors(module: nn.Module, keys: TensorKeys, has_weight: bool) -> list[StoredTensor]:
    stored = []
    for name, tensor in _named_tensors(module):
        is_weight = has_weight and name == "weight"
        stored.append(
            StoredTensor(
                keys.key(tensor),
                FLOAT,
                _bytes(tensor),
                8 * _bytes(tensor) if is_weight else 0,
                tensor.numel() if is_weight else 0,
            )
        )
    return stored


def _quantized_tensors(layer: QuantizedLayer, keys: TensorKeys) -> list[StoredTensor]:
    codes = layer.quantized_weight
    assert codes is not None
    bits = layer.scheme.weight.bits
    stored = [
        StoredTensor(
            keys.key(codes), WEIGHT, packed_bytes(layer), codes.numel() * bits, codes.numel()
        )
    ]
    grids: Sequence[tuple[str, Tensor | None, bool]] = (
        (SCALE, layer.weight_scale, True),
        (SCALE, layer.input_scale, False),
        (ZERO_POINT, layer.weight_zero_point, True),
        (ZERO_POINT, layer.input_zero_point, False),
        (BIAS, layer.bias, False),
    )
    for item, tensor, is_weight in grids:
        if tensor is not None:
            size = _bytes(tensor)
            stored.append(StoredTensor(keys.key(tensor), item, size, 8 * size * is_weight))
    return stored


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and persistent buffers that the module itself holds."""
    found: list[tuple[str, Tensor]] = [
        (name, value) for name, value in module._parameters.items() if value is not None
    ]
    found += [
        (name, value)
        for name, value in module._buffers.items()
        if value is not None and name not in module._non_persistent_buffers_set
    ]
    return found
