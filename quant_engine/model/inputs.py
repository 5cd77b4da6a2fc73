"""Inputs of its own for every forward pass, so that what a model changes in place stays there.

Many models normalise their input in place. Given the caller's tensors they would overwrite them,
and the next pass would start from what the one before left.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.model.batches import Batch
from quant_engine.model.nesting import map_nested, nested_tensors

_ALIGNMENT = 64


def copy_inputs(batch: Batch) -> Batch:
    """Copy all that a batch hands to the model.

    Tensors that overlap in memory overlap in the copy too: the model sees in one what it does to
    another, as it would without the engine. An argument that Python cannot copy, such as a lock, is
    handed on itself.

    Returns:
        A batch with the same values; its tensors begin at multiples of 64 bytes, whatever they are
        cut from, as the last bits of a sum may depend on that.
    """
    arguments = (batch.args, dict(batch.kwargs))
    with torch.inference_mode(False), torch.no_grad():
        copies = _copy_tensors(nested_tensors(arguments))
        try:
            args, kwargs = copy.deepcopy(arguments, dict[int, Any](copies))
        except Exception:
            args, kwargs = map_nested(arguments, lambda value: copies.get(id(value), value))
    return replace(batch, args=args, kwargs=kwargs)


def _copy_tensors(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Return id of a tensor -> its copy."""
    distinct = {id(tensor): tensor for tensor in tensors}
    plain = {key: tensor for key, tensor in distinct.items() if _is_plain(tensor)}
    result = {key: tensor.detach().clone() for key, tensor in distinct.items() if key not in plain}
    for group in _overlapping(plain.values()):
        result |= _copy_together(group)
    for key, tensor in distinct.items():
        result[key].requires_grad_(tensor.requires_grad)
    return result


def _is_plain(tensor: Tensor) -> bool:
    """Whether the bytes in memory, read as its type, are all there is to the tensor."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and tensor.data_ptr() % tensor.element_size() == 0
    )


def _overlapping(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Put tensors that overlap in memory, or are linked by others that do, into one group."""
    groups: list[list[Tensor]] = []
    device, end = None, 0
    for tensor in sorted(tensors, key=lambda t: (str(t.device), t.data_ptr())):
        if tensor.device == device and tensor.data_ptr() < end:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
            device, end = tensor.device, 0
        end = max(end, tensor.data_ptr() + _span_bytes(tensor))
    return groups


def _copy_together(group: list[Tensor]) -> dict[int, Tensor]:
    first = group[0]
    if len(group) == 1:
        return {id(first): first.detach().clone()}
    start = first.data_ptr() // _ALIGNMENT * _ALIGNMENT
    end = max(tensor.data_ptr() + _span_bytes(tensor) for tensor in group)
    memory = torch.empty(end - start, dtype=torch.uint8, device=first.device)
    result = {}
    for tensor in group:
        place, size = tensor.data_ptr() - start, tensor.element_size()
        offset, length = tensor.storage_offset() * size, _span_bytes(tensor)
        source = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        source.set_(tensor.untyped_storage(), offset, (length,), (1,))
        memory[place : place + length] = source
        target = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        result[id(tensor)] = target.set_(
            memory.untyped_storage(), place // size, tensor.shape, tensor.stride()
        )
    return result


def _span_bytes(tensor: Tensor) -> int:
    """Return the length of the memory from a tensor's first value to its last one."""
    if not tensor.numel():
        return 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
