"""A stateful quantizer for single tensors: calibrate, then quantize and dequantize."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from quant_engine.errors import DataError, NotCalibratedError, SchemeError
from quant_engine.scheme import TensorScheme
from quant_engine.tensors import affine
from quant_engine.tensors.affine import QParams, choose_qparams
from quant_engine.tensors.histogram import Histogram, stack_binned
from quant_engine.tensors.observers import choose_range, weight_rows

_TENSOR_BINS = 4096
_CHANNEL_BINS = 1024
_FLOAT32 = torch.finfo(torch.float32)


class Int8Quantizer:
    """Maps float tensors to int8 codes and back, on a grid measured from calibration data.

    Calling `calibrate` again widens what was measured: the grid fits all tensors seen, as if they
    had come as one. `reset` forgets them. Memory does not grow with the number of tensors.

    Args:
        symmetric: True: zero point 0, codes [-127, 127]. False: the range is shifted by a zero
            point, codes [-128, 127].
        per_channel: Whether every channel has its own scale.
        channel_axis: Axis the channels lie on; may be negative. Read with `per_channel` only.
        bits: Width of the codes, 2 to 8; they are stored as int8.
        observer: Range rule: "minmax", "percentile", "mse" or "entropy".
        percentile: Share of values kept in the range, in percent, for "percentile".

    Raises:
        SchemeError: If an argument is not of the kind described above.

    Example:
        >>> quantizer = Int8Quantizer(symmetric=True, per_channel=False)
        >>> quantizer.calibrate(torch.tensor([-1.0, 0.5, 127.0]))
        >>> quantizer.quantize(torch.tensor([-1.0, 2.4, 500.0])).tolist()
        [-1, 2, 127]
        >>> quantizer.dequantize(torch.tensor([-1, 2, 127])).tolist()
        [-1.0, 2.0, 127.0]
    """

    def __init__(
        self,
        symmetric: bool = True,
        per_channel: bool = False,
        channel_axis: int = 0,
        *,
        bits: int = 8,
        observer: str = "minmax",
        percentile: float = 99.9,
    ) -> None:
        if not isinstance(per_channel, bool):
            raise SchemeError(f"per_channel is {per_channel!r}. It must be True or False.")
        if isinstance(channel_axis, bool) or not isinstance(channel_axis, int):
            raise SchemeError(f"channel_axis is {channel_axis!r}. It must be an integer.")
        granularity = "per_channel" if per_channel else "per_tensor"
        self._scheme = TensorScheme(bits, symmetric, granularity, observer, percentile)
        self._channel_axis = channel_axis
        self.reset()

    @property
    def scheme(self) -> TensorScheme:
        """Bits, symmetry, granularity and range rule."""
        return self._scheme

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self._scheme.symmetric

    @property
    def per_channel(self) -> bool:
        """Whether every channel has its own scale."""
        return not self._scheme.has_one_scale

    @property
    def channel_axis(self) -> int:
        """Axis the channels lie on."""
        return self._channel_axis

    @property
    def is_calibrated(self) -> bool:
        """Whether there is a grid to quantize to."""
        return self._qparams is not None

    @property
    def scale(self) -> float | Tensor | None:
        """Step between codes: a number, or float32 (channels,); None before calibration."""
        if self._qparams is None:
            return None
        return self._qparams.scale.clone() if self.per_channel else self._qparams.scale.item()

    @property
    def zero_point(self) -> int | Tensor | None:
        """Code of 0.0: a number, or int8 (channels,); None before calibration."""
        if self._qparams is None:
            return None
        points = self._qparams.zero_point
        return points.to(torch.int8) if self.per_channel else int(points)

    def reset(self) -> None:
        """Forget all calibration data and the grid."""
        self._qparams: QParams | None = None
        self._lo: Tensor | None = None
        self._hi: Tensor | None = None
        self._histograms: list[Histogram] = []

    def calibrate(self, tensor: Tensor) -> None:
        """Take a tensor into account and choose the grid that fits everything seen since `reset`.

        Args:
            tensor: Values like those to be quantized, of any shape.

        Raises:
            DataError: If the tensor is empty, holds NaN or Inf, or has another number of channels
                than the tensors before it; what was measured before is kept.
        """
        _require_values(tensor)
        axis = self._axis(tensor)
        rows = weight_rows(tensor, axis)
        if self._lo is not None and len(rows) != len(self._lo):
            raise DataError(
                f"The tensor has {len(rows)} channels on axis {self.channel_axis}, those before it "
                f"had {len(self._lo)}. Use tensors of one kind, or reset() first."
            )
        lo, hi = self._observe(rows)
        if axis is None:
            lo, hi = lo.squeeze(0), hi.squeeze(0)
        self._qparams = choose_qparams(lo, hi, self._scheme, axis).to(tensor.device)

    def quantize(self, tensor: Tensor) -> Tensor:
        """Return the codes of a tensor; values outside the calibrated range are clipped.

        A quantizer that was never calibrated warns and calibrates with this tensor.

        Args:
            tensor: Float tensor; with `per_channel`, of as many channels as the calibration data.

        Returns:
            int8, shape of `tensor`.

        Raises:
            DataError: If the tensor is empty, holds NaN or Inf, or its channels do not fit.
        """
        if self._qparams is None:
            warnings.warn(
                "This quantizer was never calibrated; it takes its range from the tensor it is "
                "asked to quantize. Call calibrate() first to choose the range yourself.",
                stacklevel=2,
            )
            self.calibrate(tensor)
        assert self._qparams is not None
        _require_values(tensor)
        return affine.quantize(tensor.detach(), self._qparams.to(tensor.device))

    def dequantize(self, quantized_tensor: Tensor) -> Tensor:
        """Return the float values that codes stand for.

        Args:
            quantized_tensor: Codes, as from `quantize`.

        Returns:
            (code - zero_point) · scale, float32, shape of `quantized_tensor`.

        Raises:
            NotCalibratedError: If there is no grid yet.
            DataError: If the channels do not fit.
        """
        if self._qparams is None:
            raise NotCalibratedError(
                "This quantizer has no scale yet. Call calibrate() or set_quantization_params()."
            )
        _require_tensor(quantized_tensor)
        return affine.dequantize(quantized_tensor, self._qparams.to(quantized_tensor.device))

    def get_quantization_params(self) -> dict[str, Any]:
        """Return the grid and the settings.

        Returns:
            "scale", "zero_point" (numbers, or tensors of shape (channels,); None before
            calibration), "symmetric", "per_channel", "channel_axis" and "is_calibrated"; and
            "bits" where they are not 8.
        """
        params = {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "symmetric": self.symmetric,
            "per_channel": self.per_channel,
            "channel_axis": self.channel_axis,
            "is_calibrated": self.is_calibrated,
        }
        return params if self._scheme.bits == 8 else {**params, "bits": self._scheme.bits}

    def set_quantization_params(self, scale: float | Tensor, zero_point: int | Tensor) -> None:
        """Set the grid by hand; calibration data seen so far is forgotten.

        Args:
            scale: Step between codes; with `per_channel` of shape (channels,).
            zero_point: Code of 0.0; a number, or the shape of `scale`. Must be 0 if symmetric.

        Raises:
            SchemeError: If the scale is not positive and finite, the zero point is not a code of
                this scheme, or the shapes do not fit.
        """
        try:
            steps, points = torch.as_tensor(scale), torch.as_tensor(zero_point)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SchemeError(
                f"scale is {scale!r} and zero_point {zero_point!r}. Give numbers or tensors."
            ) from error
        qparams = self._grid_by_hand(steps, points)
        self.reset()
        self._qparams = qparams

    def __repr__(self) -> str:
        state = "calibrated" if self.is_calibrated else "not calibrated"
        return (
            f"Int8Quantizer(symmetric={self.symmetric}, per_channel={self.per_channel}, "
            f"channel_axis={self.channel_axis}): {state}"
        )

    def _axis(self, tensor: Tensor) -> int | None:
        """Return the axis of channels, or None where there is one scale for all."""
        if not self.per_channel:
            return None
        if not -tensor.dim() <= self.channel_axis < tensor.dim():
            raise DataError(
                f"channel_axis is {self.channel_axis}, but the tensor has shape "
                f"{tuple(tensor.shape)}. Use one of its axes."
            )
        return self.channel_axis

    def _observe(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Add values, float32 (channels, values of a channel); return the range of all so far."""
        lo, hi = rows.amin(dim=1).cpu(), rows.amax(dim=1).cpu()
        if self._lo is not None and self._hi is not None:
            lo, hi = torch.minimum(lo, self._lo), torch.maximum(hi, self._hi)
        self._lo, self._hi = lo, hi
        if self._scheme.observer == "minmax":
            return lo, hi
        if not self._histograms:
            bins = _CHANNEL_BINS if self.per_channel else _TENSOR_BINS
            self._histograms = [Histogram(bins) for _ in rows]
        for histogram, row in zip(self._histograms, rows, strict=True):
            histogram.update(row)
        chosen = choose_range(stack_binned(h.binned() for h in self._histograms), self._scheme)
        return torch.from_numpy(chosen[0]), torch.from_numpy(chosen[1])

    def _grid_by_hand(self, scale: Tensor, zero_point: Tensor) -> QParams:
        """Check a grid that was given as numbers."""
        scheme = self._scheme
        steps, points = scale.detach().double(), zero_point.detach().double()
        if not self.per_channel and steps.numel() == 1:
            steps = steps.reshape(())
        if points.numel() == 1:
            points = points.reshape(()).expand(steps.shape)
        if steps.dim() != int(self.per_channel) or points.shape != steps.shape:
            wanted = "one entry per channel" if self.per_channel else "one number each"
            raise SchemeError(
                f"scale has shape {tuple(scale.shape)} and zero_point {tuple(zero_point.shape)}. "
                f"With per_channel={self.per_channel} give {wanted}."
            )
        if not ((steps >= _FLOAT32.tiny) & (steps <= _FLOAT32.max)).all():
            raise SchemeError(f"scale is {scale.tolist()!r}. It must be positive and finite.")
        lowest, highest = (0, 0) if scheme.symmetric else (scheme.qmin, scheme.qmax)
        is_code = (points >= lowest) & (points <= highest) & (points == points.round())
        if not is_code.all():
            wanted = "0 with symmetric=True" if scheme.symmetric else f"{lowest} to {highest}"
            raise SchemeError(
                f"zero_point is {zero_point.tolist()!r}. It must be an integer: {wanted}."
            )
        axis = self.channel_axis if self.per_channel else None
        return QParams(steps.float(), points.to(torch.int32), scheme.qmin, scheme.qmax, axis)


def _require_tensor(tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise DataError(f"Expected a torch tensor, got {type(tensor).__name__}.")


def _require_values(tensor: Tensor) -> None:
    _require_tensor(tensor)
    if tensor.numel() == 0:
        raise DataError(f"The tensor has shape {tuple(tensor.shape)} and no values.")
    if tensor.is_complex():
        raise DataError(f"The tensor has dtype {tensor.dtype}. Give real numbers.")
    bad = int((~torch.isfinite(tensor.detach().float())).sum())
    if bad:
        raise DataError(
            f"The tensor holds {bad} NaN, Inf or values beyond float32 among {tensor.numel()}. "
            "Remove them."
        )
