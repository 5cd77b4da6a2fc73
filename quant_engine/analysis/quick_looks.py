"""Quick looks at a tensor, a quantizer or a pair of models, and quantizers stored as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_engine.errors import DataError, NotCalibratedError, SchemeError, StorageError, suggest
from quant_engine.execution.clock import benchmark_inference
from quant_engine.judging.describe import choose_outputs
from quant_engine.judging.judged import Judged, JudgedOutput
from quant_engine.metrics.functions import calculate_quantization_error, top1_agreement
from quant_engine.model.batches import Batch
from quant_engine.model.forward import eval_mode, run_model
from quant_engine.quantization.size import calculate_model_size
from quant_engine.reading import parse_json, read_file, storage_errors
from quant_engine.tensors.quantizer import Int8Quantizer

_CONFIG_KEYS = ("scale", "zero_point", "symmetric", "per_channel", "channel_axis", "is_calibrated")
_TOP_K = (1, 3, 5)


def analyze_tensor_distribution(tensor: Tensor) -> dict[str, Any]:
    """Describe the values of a tensor.

    Args:
        tensor: Real numbers of any shape and dtype.

    Returns:
        "mean", "std" (n - 1 in the denominator; 0.0 for a single value), "min", "max", "median",
        "q25", "q75" (interpolated linearly), all computed in float64; "shape" (list), "dtype"
        (text) and "num_elements".

    Raises:
        DataError: If the tensor is empty or holds NaN or Inf.

    Example:
        >>> found = analyze_tensor_distribution(torch.tensor([1.0, 2.0, 3.0, 6.0]))
        >>> found["mean"], found["median"], found["q75"]
        (3.0, 2.5, 3.75)
    """
    if tensor.numel() == 0:
        raise DataError(f"The tensor has shape {tuple(tensor.shape)} and no values.")
    values = tensor.detach().double().cpu().numpy().ravel()
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"The tensor holds {bad} NaN or Inf among {values.size}. Remove them.")
    q25, median, q75 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if values.size > 1 else 0.0,
        "min": float(values.min()),
        "max": float(values.max()),
        "median": median,
        "q25": q25,
        "q75": q75,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "num_elements": tensor.numel(),
    }


def compare_models(
    original_model: nn.Module,
    quantized_model: nn.Module,
    test_input: Tensor,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Compare two models on one input: size, time and the first output about samples.

    The times are those of the models as they run. A model in simulated execution dequantizes
    before it computes, so its "speedup_ratio" is usually below 1.

    Args:
        original_model: The float model.
        quantized_model: Its quantized copy. Both are timed and run in eval mode, and get their
            own mode back.
        test_input: One batch.
        num_classes: Number of classes, for the comparison of predictions; None leaves it out.

    Returns:
        "original_size" and "quantized_size" (`calculate_model_size`), "size_reduction_ratio"
        (original over quantized); "original_timing" and "quantized_timing"
        (`benchmark_inference`), "speedup_ratio" (original over quantized mean);
        "output_error" (`calculate_quantization_error`). With `num_classes` and outputs of shape
        (samples, classes) also "prediction_agreement" (share of samples with the same largest
        logit) and "top1_overlap", "top3_overlap", "top5_overlap" (mean share of the k largest
        classes that both have; only k up to `num_classes`).

    Raises:
        DataError: If the outputs have different shapes, hold NaN or Inf, or fewer columns than
            `num_classes`.
        ModelForwardError: If a model raises.
    """
    batch = Batch((test_input,), where="test_input", samples=len(test_input))
    with eval_mode(original_model), eval_mode(quantized_model):
        chosen = choose_outputs(run_model(original_model, batch), batch.samples)
        judged = Judged((JudgedOutput("the output", chosen[0].select if chosen else 0),))
        (original,) = judged.answer(original_model, batch)
        (quantized,) = judged.answer(quantized_model, batch)
    sizes = [calculate_model_size(model) for model in (original_model, quantized_model)]
    times = [benchmark_inference(model, test_input) for model in (original_model, quantized_model)]
    results: dict[str, Any] = {
        "original_size": sizes[0],
        "quantized_size": sizes[1],
        "size_reduction_ratio": _ratio(sizes[0]["total_mb"], sizes[1]["total_mb"]),
        "original_timing": times[0],
        "quantized_timing": times[1],
        "speedup_ratio": _ratio(times[0]["mean_ms"], times[1]["mean_ms"]),
        "output_error": calculate_quantization_error(original, None, quantized),
    }
    if num_classes is not None and original.dim() == 2:
        results |= _compare_predictions(original, quantized, num_classes)
    return results


def _compare_predictions(original: Tensor, quantized: Tensor, num_classes: int) -> dict[str, float]:
    if not 1 <= num_classes <= original.shape[1]:
        raise DataError(
            f"num_classes is {num_classes}, but the outputs have {original.shape[1]} columns. "
            "Give the number of classes, or None for outputs that are not logits."
        )
    results = {"prediction_agreement": top1_agreement(original, quantized)}
    for k in _TOP_K:
        if k <= num_classes:
            best, best_quantized = (t.topk(k, dim=1).indices for t in (original, quantized))
            shared = (best[:, :, None] == best_quantized[:, None, :]).any(dim=2)
            results[f"top{k}_overlap"] = float(shared.double().mean())
    return results


def _ratio(before: float, after: float) -> float:
    if after == 0.0:
        return 1.0 if before == 0.0 else math.inf
    return before / after


def print_quantization_summary(quantizer: Int8Quantizer, tensor: Tensor) -> None:
    """Print the grid of a quantizer and what it does to a tensor.

    Args:
        quantizer: A calibrated quantizer.
        tensor: The tensor to quantize with it.

    Raises:
        NotCalibratedError: If the quantizer has no grid yet.
        DataError: If the tensor is empty, holds NaN or Inf, or has another number of channels.
    """
    params = quantizer.get_quantization_params()
    if not params["is_calibrated"]:
        raise NotCalibratedError("This quantizer has no grid to show. Call calibrate() first.")
    codes = quantizer.quantize(tensor)
    values = quantizer.dequantize(codes)
    error = calculate_quantization_error(tensor, codes, values)
    scale, point = params["scale"], params["zero_point"]
    kind = "symmetric" if params["symmetric"] else "asymmetric"
    lines = [f"int{quantizer.scheme.bits} quantization, {kind}"]
    if params["per_channel"]:
        lines += [
            f"  channels          {len(scale)} on axis {params['channel_axis']}",
            f"  scale             {float(scale.min()):.6g} to {float(scale.max()):.6g}",
            f"  zero point        {int(point.min())} to {int(point.max())}",
        ]
    else:
        lines += [f"  scale             {scale:.6g}", f"  zero point        {point}"]
    lines += [
        f"  tensor shape      {list(tensor.shape)}",
        f"  float range       {float(tensor.min()):.6g} to {float(tensor.max()):.6g}",
        f"  codes             {int(codes.min())} to {int(codes.max())}",
        f"  dequantized range {float(values.min()):.6g} to {float(values.max()):.6g}",
        f"  MSE               {error['mse']:.6g}",
        f"  MAE               {error['mae']:.6g}",
        f"  SNR               {error['snr_db']:.2f} dB",
        f"  PSNR              {error['psnr_db']:.2f} dB",
        f"  cosine similarity {error['cosine_similarity']:.6f}",
        f"  relative error    {error['relative_error']:.6g}",
    ]
    print("\n".join(lines))  # noqa: T201


def save_quantization_config(quantizer: Int8Quantizer, filepath: str | Path) -> None:
    """Write a quantizer's grid and settings to a JSON file.

    Args:
        quantizer: The quantizer; what `get_quantization_params` says of it is stored.
        filepath: Where to write; an existing file is replaced.

    Raises:
        StorageError: If the file cannot be written.
    """
    params = quantizer.get_quantization_params()
    plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in params.items()}
    try:
        Path(filepath).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Cannot write {str(filepath)!r}: {error.strerror}.") from error


def load_quantization_config(filepath: str | Path) -> dict[str, Any]:
    """Read what `save_quantization_config` wrote.

    To rebuild the quantizer:
    `Int8Quantizer(c["symmetric"], c["per_channel"], c["channel_axis"], bits=c.get("bits", 8))`,
    then `set_quantization_params(c["scale"], c["zero_point"])`.

    Args:
        filepath: The file.

    Returns:
        What `get_quantization_params` returned, tensors as tensors.

    Raises:
        StorageError: If the file cannot be read or does not hold a quantizer's settings.
    """
    where = repr(str(filepath))
    content = read_file(filepath)
    with storage_errors(str(filepath)):
        config = parse_json(content)
    if not isinstance(config, Mapping):
        raise StorageError(f"{where} holds a {type(config).__name__}, not an object with settings.")
    allowed = (*_CONFIG_KEYS, "bits")
    for key in config:
        if key not in allowed:
            raise StorageError(f"{where} has the unknown key {key!r}. {suggest(key, allowed)}")
    missing = [key for key in _CONFIG_KEYS if key not in config]
    if missing:
        raise StorageError(f"{where} lacks {', '.join(missing)}.")
    return _checked_config(config, where)


def _checked_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Rebuild the quantizer, so that whatever it rejects is rejected here."""
    try:
        quantizer = Int8Quantizer(
            config["symmetric"],
            config["per_channel"],
            config["channel_axis"],
            bits=config.get("bits", 8),
        )
        if config["is_calibrated"] is True:
            scale = torch.tensor(config["scale"], dtype=torch.float64)
            zero_point = torch.tensor(config["zero_point"], dtype=torch.float64)
            quantizer.set_quantization_params(scale, zero_point)
        elif config["is_calibrated"] is not False:
            raise SchemeError(f"is_calibrated is {config['is_calibrated']!r}. Use true or false.")
        elif config["scale"] is not None or config["zero_point"] is not None:
            raise SchemeError("scale and zero_point must be null where is_calibrated is false.")
    except Exception as error:  # what torch raises on numbers of any kind and size
        raise StorageError(f"{where} holds no quantizer's settings: {error}") from error
    return quantizer.get_quantization_params()
