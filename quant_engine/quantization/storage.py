"""Quantized models on disk: a safetensors file with the numbers, a JSON file with the structure.

The architecture itself is not stored; loading takes a float model of the same architecture, whose
weights do not matter. Nothing is ever unpickled, and no calibration data is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from quant_engine.errors import SchemeError, StorageError
from quant_engine.execution.lowering.lower import is_lowered
from quant_engine.layers import QuantizedLayer, get_quantized_type, is_quantizable
from quant_engine.layers.quantized_tensor import QuantizedTensor, StoredGrid
from quant_engine.model.copying import copy_model
from quant_engine.model.modules import add_bias, has_added_bias, replace_modules
from quant_engine.preparation.batchnorm import Folding
from quant_engine.preparation.prepared_model import fold, folded_batchnorms, prepare, standardized
from quant_engine.preparation.standard_layers import FUNCTIONAL, StandardLayer, standard_layers
from quant_engine.reading import parse_json, read_file, storage_errors
from quant_engine.report.serialization import decode, encode
from quant_engine.scheme import MAX_BITS, LayerScheme
from quant_engine.tensors.packing import pack_codes, unpack_codes

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
STRUCTURE_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """What is needed to rebuild one quantized layer, besides its tensors.

    Attributes:
        name: Dotted name in the model.
        kind: Name of the quantized layer's class.
        scheme: How weight and input are quantized.
        weight_shape: Shape of the codes; those of fewer than 8 bits are packed in the file.
        weight_dtype: Type of the float weight, such as "float32".
        arguments: What else decides what it computes, such as "stride=(2, 2)".
    """

    name: str
    kind: str
    scheme: LayerScheme
    weight_shape: tuple[int, ...]
    weight_dtype: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExtraState:
    """What a module's `get_extra_state` returned, if that is not a tensor.

    Attributes:
        name: Its name in the state dict.
        content: The same as JSON text.
    """

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The content of the JSON file.

    Attributes:
        format_version: Version of this layout.
        weights_sha256: Digest of the safetensors file that belongs to it.
        layers: The quantized layers.
        aliases: Tensors that are shared.
        folded: The BatchNorms that were folded into the layers before them.
        extra_states: Plain values that modules keep besides tensors.
        added_biases: Names of the layers that got a bias by a remedy.
        standard_layers: Layers of other classes for which plain ones stand.
    """

    format_version: int
    weights_sha256: str
    layers: tuple[StoredLayer, ...]
    aliases: tuple[TensorAlias, ...]
    folded: tuple[Folding, ...]
    extra_states: tuple[ExtraState, ...]
    added_biases: tuple[str, ...]
    standard_layers: tuple[StandardLayer, ...]


_START = 8  # bytes before the header, which hold its length; it is padded to a multiple of them


@dataclass(frozen=True, slots=True)
class TensorAlias:
    """A tensor that is stored under another name, because the two are one.

    Attributes:
        name: Name of the tensor in the model.
        stored: Name under which the file holds it.
    """

    name: str
    stored: str


def stored_tensors(model: nn.Module) -> tuple[dict[str, Tensor], tuple[TensorAlias, ...]]:
    """Return name -> what goes into the file, and which tensors are left out as shared."""
    bits = {
        tensor_name(name, "codes"): stored.scheme.bits
        for name, stored in model.named_modules(remove_duplicate=False)
        if isinstance(stored, QuantizedTensor)
    }
    stored: dict[str, Tensor] = {}
    aliases = []
    first_names: dict[object, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        first = first_names.setdefault(_identity(tensor), name)
        if first != name:
            aliases.append(TensorAlias(name, first))
            continue
        width = bits.get(name, MAX_BITS)
        plain = tensor.detach().cpu()
        stored[name] = pack_codes(plain, width) if width < MAX_BITS else plain
    return _separated(stored), tuple(aliases)


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the length of the safetensors file of some tensors without building it.

    Eight bytes, a header of JSON padded to a multiple of eight, and the tensors' bytes. The header
    names each tensor's place among these, so the order counts: a file of single numbers of the same
    names and types has it.
    """
    small = {name: torch.zeros(1, dtype=tensor.dtype) for name, tensor in tensors.items()}
    content = safetensors.torch.save(small)
    header = json.loads(content[_START : _START + int.from_bytes(content[:_START], "little")])
    end = 0
    for name, entry in header.items():
        start, end = end, end + tensors[name].nbytes
        entry |= {"shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    return _START + -(-len(text.encode()) // _START) * _START + end


def tensor_name(module: str, tensor: str) -> str:
    """Return the name of a module's tensor in the state dict of the model."""
    return f"{module}.{tensor}" if module else tensor


def _identity(tensor: Tensor) -> object:
    """Return a key that two tensors share if they are the same numbers in the same memory."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _separated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors with memory of their own, which the file format asks for."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        is_alone = memory.data_ptr() not in seen and memory.nbytes() == tensor.nbytes
        seen.add(memory.data_ptr())
        result[name] = tensor.contiguous() if is_alone else tensor.clone().contiguous()
    return result


def save_quantized_model(model: nn.Module, directory: str | Path) -> None:
    """Save a quantized model as `model.safetensors` and `model.json`.

    Codes of 2 to 7 bits are packed to their true width; tensors that are shared are stored once.

    Args:
        model: The model, as `quantize_model` returns it.
        directory: Where to; it is created if it does not exist, files in it are overwritten.

    Raises:
        StorageError: If the model is lowered, holds something that is not a tensor, or the
            directory cannot be written.
    """
    if is_lowered(model):
        raise StorageError(
            "The model is lowered: layers and what follows them were joined. Save the model it was "
            "made from, and lower it again after loading: convert_execution(model, lowered=True)."
        )
    tensors, aliases = stored_tensors(model)
    content = safetensors.torch.save(tensors)
    structure = StoredModel(
        FORMAT_VERSION,
        hashlib.sha256(content).hexdigest(),
        _stored_layers(model),
        aliases,
        folded_batchnorms(model),
        _extra_states(model),
        tuple(name for name, module in model.named_modules() if has_added_bias(module)),
        standard_layers(model),
    )
    text = json.dumps(encode(structure), indent=1, allow_nan=False) + "\n"
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS_FILE, content)
        _write(folder / STRUCTURE_FILE, text.encode("utf-8"))
    except OSError as error:
        raise StorageError(f"Cannot write to {folder}: {error}. Choose another place.") from error


def load_quantized_model(float_model: nn.Module, directory: str | Path) -> nn.Module:
    """Load what `save_quantized_model` saved; its outputs are the same, bit for bit.

    Args:
        float_model: A model of the architecture that was quantized, with any weights. It is not
            changed.
        directory: Where the two files are.

    Returns:
        The quantized model, in eval mode.

    Raises:
        StorageError: If a file is missing, damaged or of another version, or does not fit the
            architecture; the message says what does not fit.
        UnsupportedLayerError: If `float_model` cannot be copied.
    """
    folder = Path(directory)
    structure = _read_structure(folder / STRUCTURE_FILE)
    tensors = _read_tensors(folder / WEIGHTS_FILE, structure)
    try:
        plain = [x for x in structure.standard_layers if x.form != FUNCTIONAL]
        functional = [x for x in structure.standard_layers if x.form == FUNCTIONAL]
        prepared = standardized(prepare(float_model), plain)
        prepared = fold(prepared, structure.folded, is_checked=False)
        model = _skeleton(standardized(prepared, functional).model, structure, tensors)
    except (StorageError, SchemeError) as error:
        try:  # a model whose layers were quantized by hand
            model = _skeleton(copy_model(float_model)[0], structure, tensors)
        except StorageError:
            raise error from None
    _fill(model, structure, tensors)
    model.eval()
    return model


def serialized_bytes(model: nn.Module) -> int:
    """Return the length of the safetensors file that the model is saved to, float or quantized."""
    return file_bytes(stored_tensors(model)[0])


def _write(path: Path, content: bytes) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    os.replace(draft, path)


def _stored_layers(model: nn.Module) -> tuple[StoredLayer, ...]:
    return tuple(
        StoredLayer(
            name,
            type(layer).__name__,
            layer.scheme,
            tuple(layer.quantized_weight.shape),
            str(layer.weight_dtype).removeprefix("torch."),
            _arguments(layer),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer) and layer.quantized_weight is not None
    )


def _extra_states(model: nn.Module) -> tuple[ExtraState, ...]:
    """Return the plain values in the state dict; raises StorageError where JSON changes them."""
    found = []
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            continue
        try:
            content = json.dumps(value, allow_nan=False)
            is_exact = json.loads(content) == value
        except (TypeError, ValueError, RecursionError):
            is_exact = False
        if not is_exact or not _is_extra(name):
            raise StorageError(
                f"{name!r} is neither a tensor nor a plain value that JSON holds, so it cannot be "
                "stored. Let get_extra_state return numbers, text, lists or dicts with text keys."
            )
        found.append(ExtraState(name, content))
    return tuple(found)


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == "_extra_state"


def _read_structure(path: Path) -> StoredModel:
    content = read_file(path)
    with storage_errors(str(path)):
        data = parse_json(content)
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise StorageError(
                f"{path} has format version {version!r}; this version reads {FORMAT_VERSION}. "
                "Save the model again."
            )
        return decode(StoredModel, data)


def _read_tensors(path: Path, structure: StoredModel) -> dict[str, Tensor]:
    """Read the tensors and unpack the codes."""
    content = read_file(path)
    if hashlib.sha256(content).hexdigest() != structure.weights_sha256:
        raise StorageError(
            f"{path} is damaged, or from another save than the {STRUCTURE_FILE} beside it. "
            "Save the model again."
        )
    with storage_errors(str(path)):
        tensors = safetensors.torch.load(content)
        for layer in structure.layers:
            name, bits = tensor_name(layer.name, "stored_weight.codes"), layer.scheme.weight.bits
            if name in tensors and bits < MAX_BITS:
                if min(layer.weight_shape, default=0) < 0:
                    raise StorageError(f"{name} has the shape {layer.weight_shape}.")
                with storage_errors(name):
                    tensors[name] = unpack_codes(tensors[name], bits, layer.weight_shape)
        aliases = {alias.name: alias.stored for alias in structure.aliases}
        for layer in structure.layers:
            _check_grid(layer, tensors, aliases)
    return tensors


def _check_grid(
    layer: StoredLayer, tensors: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> None:
    """Raise StorageError unless the layer's scales are positive, and its codes codes."""
    stored = (("stored_weight", layer.scheme.weight), ("input_grid", layer.scheme.activation))
    for part, scheme in stored:
        for tensor in ("scale", "zero_point", "codes"):
            name = tensor_name(layer.name, f"{part}.{tensor}")
            values = tensors.get(aliases.get(name, name))
            if values is None or scheme is None or not values.numel():
                continue
            if tensor == "scale":
                if not (torch.isfinite(values) & (values > 0)).all():
                    raise StorageError(f"{name} holds scales that are not above 0 and finite.")
            else:
                lowest, highest = int(values.min()), int(values.max())
                if lowest < scheme.qmin or highest > scheme.qmax:
                    raise StorageError(
                        f"{name} holds {lowest} to {highest}; codes of {scheme.bits} bits lie in "
                        f"[{scheme.qmin}, {scheme.qmax}]."
                    )
                if tensor == "zero_point" and scheme.symmetric and (lowest, highest) != (0, 0):
                    raise StorageError(f"{name} is not 0, and the scheme is symmetric.")


def _misfit(what: str) -> StorageError:
    return StorageError(f"{what} Give a model of the architecture that was saved.")


def _skeleton(model: nn.Module, structure: StoredModel, tensors: dict[str, Tensor]) -> nn.Module:
    """Put empty quantized layers where the stored model has them, and check that all names fit."""
    aliases = {alias.name: alias.stored for alias in structure.aliases}
    for stored in structure.layers:
        try:
            module = model.get_submodule(stored.name)
        except AttributeError:
            raise _misfit(
                f"The stored layer {stored.name!r} is not in this {type(model).__name__}."
            ) from None
        layer = _empty_layer(module, stored)
        key = tensor_name(stored.name, "input_grid.scale")
        layer.expect_codes(has_input_grid=aliases.get(key, key) in tensors)
        model = replace_modules(model, {stored.name: layer})
    _add_biases(model, structure, tensors)
    expected = {aliases.get(name, name) for name in model.state_dict()}
    stored_names = tensors.keys() | {extra.name for extra in structure.extra_states}
    for what, names in (
        ("lacks", expected - stored_names),
        ("holds, beyond what the model has,", stored_names - expected),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise _misfit(f"The stored model {what} {len(names)} tensors ({some}).")
    return model


def _add_biases(model: nn.Module, structure: StoredModel, tensors: Mapping[str, Tensor]) -> None:
    """Give a bias to the layers that a remedy gave one."""
    modules = dict(model.named_modules())
    for name in structure.added_biases:
        module, bias = modules.get(name), tensors.get(tensor_name(name, "bias"))
        width = getattr(module, "out_features", getattr(module, "out_channels", None))
        has_none = module is not None and module._parameters.get("bias", bias) is None
        if not has_none or bias is None or bias.shape != (width,) or not bias.is_floating_point():
            raise _misfit(
                f"The stored model adds a bias to {name!r}, which does not fit the model."
            )
        add_bias(modules[name], torch.zeros_like(bias))


def _empty_layer(module: nn.Module, stored: StoredLayer) -> QuantizedLayer:
    """Return a layer of the stored kind and scheme in place of a float module."""
    if isinstance(module, QuantizedLayer):
        layer = module
        layer.scheme = stored.scheme
    elif is_quantizable(module):
        layer = get_quantized_type(module).like(module, stored.scheme)
    else:
        raise _misfit(
            f"The stored layer {stored.name!r} is a {stored.kind}, the model has a "
            f"{type(module).__name__} there."
        )
    dtype = str(layer.weight_dtype).removeprefix("torch.")
    have = (type(layer).__name__, tuple(layer.weight.shape), dtype)
    want = (stored.kind, stored.weight_shape, stored.weight_dtype)
    if have != want:
        raise _misfit(
            f"The stored layer {stored.name!r} is a {want[0]} with weight {want[1]} {want[2]}, "
            f"the model's a {have[0]} with {have[1]} {have[2]}."
        )
    if _arguments(layer) != stored.arguments:
        raise _misfit(
            f"The stored layer {stored.name!r} has {', '.join(stored.arguments)}; the model's has "
            f"{', '.join(_arguments(layer))}."
        )
    return layer


def _arguments(layer: QuantizedLayer) -> tuple[str, ...]:
    return tuple(f"{name}={getattr(layer, name)}" for name in layer.float_arguments)


def _fill(model: nn.Module, structure: StoredModel, tensors: dict[str, Tensor]) -> None:
    """Copy the stored tensors into the model, and tie the codes that are shared."""
    aliases = {alias.name: alias.stored for alias in structure.aliases}
    filled: dict[int, str] = {}
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    extra = {entry.name: entry.content for entry in structure.extra_states}
    for name, target in state.items():
        source = aliases.get(name, name)
        if _is_extra(name):
            module = model.get_submodule(name.rpartition(".")[0])
            with storage_errors(f"The stored {name!r}"):
                module.set_extra_state(
                    parse_json(extra[name]) if name in extra else tensors[source]
                )
            continue
        value = tensors[source]
        if (value.shape, value.dtype) != (target.shape, target.dtype):
            raise StorageError(
                f"The stored tensor {name!r} is {value.dtype} {tuple(value.shape)}, the model's is "
                f"{target.dtype} {tuple(target.shape)}."
            )
        if filled.setdefault(id(target), source) != source:
            raise _misfit(f"The model ties {name!r} to another tensor, the stored model does not.")
        with torch.no_grad():
            target.copy_(value)
    for name, source in aliases.items():
        owner, _, tensor = name.rpartition(".")
        origin, _, original = source.rpartition(".")
        if isinstance(stored := model.get_submodule(owner), StoredGrid):
            setattr(stored, tensor, getattr(model.get_submodule(origin), original))
