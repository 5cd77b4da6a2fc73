"""Error metrics as pure functions of two tensors, and a dictionary of the usual ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.energies import ErrorStats, to_sqnr_db


def _require_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise DataError(
            f"The tensors have shapes {tuple(a.shape)} and {tuple(b.shape)}. "
            "Compare tensors of the same shape."
        )


def _energies(x: Tensor, x_hat: Tensor) -> tuple[float, float]:
    _require_same_shape(x, x_hat)
    x, x_hat = x.detach().double(), x_hat.detach().double()
    return float(x.square().sum()), float((x - x_hat).square().sum())


def sqnr_db(x: Tensor, x_hat: Tensor) -> float:
    """Return the signal to quantization noise ratio 10·log10(Σx² / Σ(x-x̂)²), in dB.

    Args:
        x: The float tensor, any shape: always the signal.
        x_hat: Its stand-in, same shape.

    Returns:
        dB; inf where the two are equal, -inf where x is zero and x̂ is not.

    Raises:
        DataError: If the shapes differ.

    Example:
        >>> sqnr_db(torch.tensor([10.0, 0.0]), torch.tensor([9.0, 0.0]))
        20.0
    """
    return to_sqnr_db(*_energies(x, x_hat))


def cosine(x: Tensor, x_hat: Tensor) -> float:
    """Return the mean over samples (first axis) of the cosine between x and x̂.

    Blind to a wrong scale: x and 2x have cosine 1. Never read it alone.

    Raises:
        DataError: If the shapes differ.
    """
    _require_same_shape(x, x_hat)
    stats = ErrorStats()
    stats.update(x, x_hat)
    return stats.cosine_sum / stats.samples if stats.samples else 1.0


def kl_divergences(logits: Tensor, changed: Tensor) -> Tensor:
    """Return KL(softmax(logits) || softmax(changed)) of every sample, in nats.

    Computed in float64 from the logits up: for int8 models it is often below 1e-7, where float32
    gives noise of either sign.

    Args:
        logits: Float model, shape (..., classes).
        changed: Changed model, same shape.

    Returns:
        float64, shape (...,), never negative.

    Raises:
        DataError: If the shapes differ.
    """
    _require_same_shape(logits, changed)
    log_p = torch.log_softmax(logits.detach().double(), dim=-1)
    log_q = torch.log_softmax(changed.detach().double(), dim=-1)
    # Σp(log p - log q) loses the digits that cancel. With d = log q - log p, Σp(exp(d) - 1 - d) is
    # the same sum, as Σp·exp(d) = Σq = 1, and none of its terms is negative. Where d is not small,
    # p·exp(d) is written as q, which cannot overflow.
    p, q, difference = log_p.exp(), log_q.exp(), log_q - log_p
    near = p * (torch.expm1(difference) - difference)
    far = q - p - torch.where(p > 0.0, p * difference, 0.0)
    return torch.where(difference.abs() < 1.0, near, far).sum(dim=-1).clamp_min(0.0)


def kl_divergence(logits: Tensor, changed: Tensor) -> float:
    """Return the mean over samples of KL(float || changed), in nats; see `kl_divergences`.

    Example:
        >>> kl_divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
        0.0
    """
    divergences = kl_divergences(logits, changed)
    return float(divergences.mean()) if divergences.numel() else 0.0


def top1_agreement(logits: Tensor, changed: Tensor) -> float:
    """Return the share of samples whose largest logit is the same class, 0 to 1.

    Raises:
        DataError: If the shapes differ.
    """
    _require_same_shape(logits, changed)
    if logits.numel() == 0:
        return 1.0
    return float((logits.argmax(dim=-1) == changed.argmax(dim=-1)).double().mean())


def calculate_quantization_error(
    original_tensor: Tensor, quantized_tensor: Tensor | None, dequantized_tensor: Tensor
) -> dict[str, float]:
    """Return error metrics of one tensor in a dictionary.

    Args:
        original_tensor: The float tensor.
        quantized_tensor: Its codes; not needed for any of the figures.
        dequantized_tensor: What the codes stand for, shape of `original_tensor`.

    Returns:
        "mse", "mae"; "snr_db" (signal energy over noise energy) and "psnr_db" (largest |x|²
        over mse) in dB, inf where exact; "cosine_similarity" over the whole tensor;
        "relative_error" (mean |x-x̂| over mean |x|).

    Raises:
        DataError: If shapes differ or the tensors are empty.
    """
    _require_same_shape(original_tensor, dequantized_tensor)
    if original_tensor.numel() == 0:
        raise DataError("The tensors are empty. Give at least one value.")
    x, x_hat = original_tensor.detach().double(), dequantized_tensor.detach().double()
    error = (x - x_hat).abs()
    mse, mae = float(error.square().mean()), float(error.mean())
    magnitude = float(x.abs().mean())
    return {
        "mse": mse,
        "mae": mae,
        "snr_db": sqnr_db(x, x_hat),
        "psnr_db": to_sqnr_db(float(x.abs().max()) ** 2, mse),
        "cosine_similarity": cosine(x.reshape(1, -1), x_hat.reshape(1, -1)),
        "relative_error": 0.0 if mae == 0.0 else (mae / magnitude if magnitude else math.inf),
    }
