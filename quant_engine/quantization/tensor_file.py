"""The tensors of a model as a safetensors file holds them: shared ones once, codes packed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from quant_engine.layers.quantized_tensor import QuantizedTensor
from quant_engine.scheme import MAX_BITS
from quant_engine.tensors.packing import pack_codes

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
