"""What a caller may rely on to find again in a model after the engine has worked on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Types, modes, attributes, hooks and every bit of every tensor, by name."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = (
            type(module).__name__,
            module.training,
            sorted(module.__dict__),
            [len(module.__dict__[hook]) for hook in _HOOKS],
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else _bits(tensor.grad)
        found[f"tensor {name}"] = (
            id(tensor),
            tensor.requires_grad,
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            _bits(tensor),
            grad,
        )
    return found


def _bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
