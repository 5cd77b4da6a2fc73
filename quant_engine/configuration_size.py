"""Bytes of a model under any configuration, from a table made once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer
from quant_engine.model_size import packed_bytes
from quant_engine.report import ConfigurationSize, StoredTensor

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
    for name, tensor in _own_tensors(module):
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


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
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


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
