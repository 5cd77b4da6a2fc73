"""Reports to test pages and figures on: small, seeded, and consistent in themselves.

Every number is computed from arrays that are really quantized here, in numpy and independently of
the engine: counts add up, rounding and clipping errors sum to the whole, codes match scales. One
layer has 2,048 output channels, one is excluded, one cannot be quantized, one is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from dashboard.figures.kit.picture import Picture
from quant_engine.report import (
    EXCLUDED,
    QUANTIZED,
    UNSUPPORTED,
    ChannelRanges,
    CodeUsage,
    Coverage,
    CumulativePoint,
    Environment,
    ErrorHistogram,
    ErrorMetrics,
    ExecutionGap,
    LayerExecution,
    LayerReport,
    LayerSensitivity,
    LayerSize,
    LeftOut,
    ModelReport,
    OutputReport,
    RangeChoice,
    RelativeErrors,
    SensitivityReport,
    SizeReport,
    TensorReport,
    TimingEntry,
    TimingReport,
    ValueHistogram,
    WorkedExample,
)
from quant_engine.scheme import PRESETS, Recipe, TensorScheme

Array = npt.NDArray[np.float64]

VALUE_BINS = 96
LSB_BINS = 64
OBSERVER_CUTS = {"minmax": 0.0, "percentile": 0.001, "mse": 0.0004, "entropy": 0.002}
"""Share of values each observer cuts off here; roughly what the real rules do."""

ENVIRONMENT = Environment(
    cpu="Test CPU @ 2.0 GHz", threads=2, torch_version="2.13.0", platform="Linux x86_64"
)

# name, kind, weight shape, spread of the channels' ranges, tails of the inputs
_LAYERS: tuple[tuple[str, str, tuple[int, ...], float, float], ...] = (
    ("conv1", "Conv2d", (16, 3, 3, 3), 0.3, 0.0),
    ("layer1.0.conv1", "Conv2d", (16, 16, 3, 3), 0.2, 0.0),
    ("layer1.0.conv2", "Conv2d", (16, 16, 3, 3), 1.2, 0.2),
    ("layer2.0.conv1", "Conv2d", (32, 16, 3, 3), 0.4, 0.6),
    ("layer2.0.conv2", "Conv2d", (32, 32, 3, 3), 0.3, 0.0),
    ("layer2.0.downsample.0", "Conv2d", (32, 16, 1, 1), 0.3, 0.1),
    ("layer3.0.conv1", "Conv2d", (2048, 8, 1, 1), 0.8, 0.4),
    ("layer3.0.conv2", "Conv2d", (32, 64, 1, 1), 0.2, 0.0),
    ("layer3.0.identity", "Conv2d", (8, 8, 1, 1), 0.0, 0.0),
    ("recurrent", "LSTM", (), 0.0, 0.0),
    ("head.0", "Linear", (64, 32), 0.3, 0.1),
    ("fc", "Linear", (10, 64), 0.3, 0.1),
)
_LOUDNESS = (1.0, 0.7, 1.6, 0.9)
"""What the four batches of a dynamic input are multiplied by, so that their ranges differ."""

WIDE_LAYER = "layer3.0.conv1"
EXACT_LAYER = "layer3.0.identity"
EXCLUDED_LAYER = "fc"
UNSUPPORTED_LAYER = "recurrent"


def figure_of(picture: Callable[..., Picture]) -> Callable[..., go.Figure]:
    """What draws the figure of a picture, from the picture's arguments."""
    return lambda *args, **more: picture(*args, **more).figure


def is_empty_figure(figure: go.Figure) -> bool:
    """Whether a figure has nothing to draw."""
    return not figure.data


def grid(scheme: TensorScheme, lo: Array, hi: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Scale and zero point for ranges [lo, hi], one for each."""
    lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    if scheme.symmetric:
        scale = np.maximum(np.maximum(-lo, hi) / scheme.qmax, 1e-12)
        return scale, np.zeros(scale.shape, dtype=np.int64)
    scale = np.maximum((hi - lo) / (scheme.qmax - scheme.qmin), 1e-12)
    zero = np.clip(np.round(scheme.qmin - lo / scale), scheme.qmin, scheme.qmax)
    return scale, zero.astype(np.int64)


def make_error(
    x: Array, xhat: Array, scale: Array | float | None = None, outside: Any = None
) -> ErrorMetrics:
    """Metrics of two arrays; `scale` and `outside` add the split into rounding and clipping."""
    error = x - xhat
    energy, signal = float(np.sum(error**2)), float(np.sum(x**2))
    norm = math.sqrt(signal) * math.sqrt(float(np.sum(xhat**2)))
    base = ErrorMetrics(
        count=x.size,
        sqnr_db=math.inf if energy == 0 else 10 * math.log10(signal / energy),
        nmse=energy / signal if signal else 0.0,
        cosine=float(np.sum(x * xhat)) / norm if norm else 1.0,
        mse=energy / x.size,
        max_abs_error=float(np.abs(error).max()),
    )
    if scale is None:
        return base
    clipping = float(np.sum(np.where(outside, error**2, 0.0))) / x.size
    return replace(
        base,
        rmse_over_scale=math.sqrt(float(np.mean((error / scale) ** 2))),
        rounding_mse=base.mse - clipping,
        clipping_mse=clipping,
        clipped_fraction=float(np.mean(outside)),
    )


def make_tensor(
    values: Array, scheme: TensorScheme, *, is_weight: bool, cut: float | None = None
) -> TensorReport:
    """Quantize rows (channels) of values and report on it.

    Args:
        values: Shape (channels, values of a channel); an input counts as one channel.
        scheme: How to quantize.
        is_weight: Whether channels are reported.
        cut: Share of values to clip; the observer's usual share if None.
    """
    cut = OBSERVER_CUTS[scheme.observer] if cut is None else cut
    rows = values.reshape(1, -1) if scheme.has_one_scale else values
    lo, hi = _range(rows, cut, scheme.symmetric)
    scale, zero = grid(scheme, lo, hi)
    s, z = scale[:, None], zero[:, None]
    raw = np.round(rows / s) + z
    codes = np.clip(raw, scheme.qmin, scheme.qmax)
    xhat = (codes - z) * s
    outside = (rows < (scheme.qmin - z - 0.5) * s) | (rows > (scheme.qmax - z + 0.5) * s)
    error = make_error(rows, xhat, s, outside)
    per_channel = xhat.reshape(values.shape)
    flat = int(np.abs(rows).argmax())
    row, column = np.unravel_index(flat, rows.shape)
    return TensorReport(
        scheme=scheme,
        shape=values.shape,
        lo=float(values.min()),
        hi=float(values.max()),
        scale=tuple(float(v) for v in scale),
        zero_point=tuple(int(v) for v in zero),
        error=error,
        values=_value_histogram(rows, xhat),
        lsb_error=_lsb_histogram((xhat - rows) / s),
        codes=CodeUsage(
            scheme.qmin,
            tuple(
                int(c)
                for c in np.bincount(
                    (codes - scheme.qmin).astype(np.int64).ravel(),
                    minlength=scheme.qmax - scheme.qmin + 1,
                )
            ),
        ),
        channels=_channels(values, per_channel) if is_weight else None,
        range_choices=() if rows.shape[0] > 1 else _range_choices(rows, scheme),
        example=WorkedExample(
            index=tuple(int(i) for i in np.unravel_index(flat, values.shape)),
            value=float(rows[row, column]),
            scale=float(scale[row]),
            zero_point=int(zero[row]),
            code=int(codes[row, column]),
            dequantized=float(xhat[row, column]),
        ),
        per_channel_sqnr_db=None,
        examples=(),
    )


def make_dynamic_tensor(batches: Sequence[Array], scheme: TensorScheme) -> TensorReport:
    """Quantize each batch on the grid of its own range, and report on all of them.

    Args:
        batches: Values, each of shape (1, values).
        scheme: How to quantize; a dynamic scheme.
    """
    scales, zeros, all_codes, all_xhat = [], [], [], []
    for x in batches:
        scale, zero = grid(scheme, x.min(axis=1), x.max(axis=1))
        codes = np.clip(np.round(x / scale) + zero, scheme.qmin, scheme.qmax)
        scales.append(float(scale[0]))
        zeros.append(int(zero[0]))
        all_codes.append((codes - scheme.qmin).astype(np.int64).ravel())
        all_xhat.append((codes - zero) * scale)
    x, xhat = np.concatenate(batches, axis=1), np.concatenate(all_xhat, axis=1)
    steps = np.repeat(scales, [batch.size for batch in batches])
    place = int(np.abs(batches[0]).argmax())
    return TensorReport(
        scheme=scheme,
        shape=batches[0].shape,
        lo=float(x.min()),
        hi=float(x.max()),
        scale=(min(scales), max(scales)),
        zero_point=(min(zeros), max(zeros)),
        error=make_error(x, xhat, steps, np.zeros(x.shape, dtype=bool)),
        values=_value_histogram(x, xhat),
        lsb_error=_lsb_histogram((xhat - x) / steps),
        codes=CodeUsage(
            scheme.qmin,
            tuple(
                int(c)
                for c in np.bincount(
                    np.concatenate(all_codes), minlength=scheme.qmax - scheme.qmin + 1
                )
            ),
        ),
        channels=None,
        range_choices=(),
        example=WorkedExample(
            index=(0, place),
            value=float(batches[0][0, place]),
            scale=scales[0],
            zero_point=zeros[0],
            code=int(all_codes[0][place]) + scheme.qmin,
            dequantized=float(all_xhat[0][0, place]),
        ),
        per_channel_sqnr_db=None,
        examples=(),
    )


def _range(rows: Array, cut: float, symmetric: bool) -> tuple[Array, Array]:
    if symmetric:
        edge = np.quantile(np.abs(rows), 1 - cut, axis=1)
        return -edge, edge
    return np.quantile(rows, cut / 2, axis=1), np.quantile(rows, 1 - cut / 2, axis=1)


def _value_histogram(x: Array, xhat: Array) -> ValueHistogram:
    lo, hi = (float(v) for v in np.quantile(x, (0.0005, 0.9995)))
    if lo == hi:
        lo, hi = lo - 0.5, hi + 0.5
    edges = np.linspace(lo, hi, VALUE_BINS + 1)
    return ValueHistogram(
        lo=lo,
        hi=hi,
        float_counts=tuple(int(c) for c in np.histogram(x, edges)[0]),
        quantized_counts=tuple(int(c) for c in np.histogram(xhat, edges)[0]),
        float_below=int(np.sum(x < lo)),
        float_above=int(np.sum(x > hi)),
        quantized_below=int(np.sum(xhat < lo)),
        quantized_above=int(np.sum(xhat > hi)),
    )


def _lsb_histogram(error: Array) -> ErrorHistogram:
    counts, _ = np.histogram(error, np.linspace(-1.0, 1.0, LSB_BINS + 1))
    return ErrorHistogram(
        lo=-1.0,
        hi=1.0,
        counts=tuple(int(c) for c in counts),
        below=int(np.sum(error < -1.0)),
        above=int(np.sum(error > 1.0)),
    )


def _channels(x: Array, xhat: Array) -> ChannelRanges:
    signal, noise = np.sum(x**2, axis=1), np.sum((x - xhat) ** 2, axis=1)
    sqnr = [
        math.inf if n == 0 else (-math.inf if s == 0 else 10 * math.log10(s / n))
        for s, n in zip(signal, noise, strict=True)
    ]
    return ChannelRanges(
        axis=0,
        lo=tuple(float(v) for v in x.min(axis=1)),
        hi=tuple(float(v) for v in x.max(axis=1)),
        sqnr_db=tuple(sqnr),
        became_zero=tuple(int(n) for n in np.sum((x != 0) & (xhat == 0), axis=1)),
        channel_size=x.shape[1],
    )


def make_channels(
    lo: Sequence[float], hi: Sequence[float], sqnr_db: Sequence[float]
) -> ChannelRanges:
    """Channels along the first axis with these ranges and errors, none of whose values became 0."""
    return ChannelRanges(0, tuple(lo), tuple(hi), tuple(sqnr_db), (0,) * len(lo), 100)


def _range_choices(rows: Array, scheme: TensorScheme) -> tuple[RangeChoice, ...]:
    choices = []
    for observer, cut in OBSERVER_CUTS.items():
        lo, hi = _range(rows, cut, scheme.symmetric)
        scale, zero = grid(scheme, lo, hi)
        codes = np.clip(np.round(rows / scale) + zero, scheme.qmin, scheme.qmax)
        xhat = (codes - zero) * scale
        outside = np.abs(rows - xhat) > scale * 0.5000001
        choices.append(
            RangeChoice(
                observer=observer,
                lo=float(lo[0]),
                hi=float(hi[0]),
                scale=float(scale[0]),
                zero_point=int(zero[0]),
                sqnr_db=make_error(rows, xhat).sqnr_db,
                clipped_fraction=float(np.mean(outside)),
            )
        )
    return tuple(choices)


def make_layer(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    recipe: Recipe,
    *,
    channel_spread: float = 0.3,
    tail: float = 0.0,
    seed: int = 0,
) -> LayerReport:
    """One layer under a recipe; what the recipe excludes, or has no weight, stays float."""
    rng = np.random.default_rng(seed)
    parameters = math.prod(shape) + shape[0] if shape else 4096
    accumulated = _output_error(rng, 0.01 + 0.004 * seed)
    base = LayerReport(
        name=name,
        kind=kind,
        status=QUANTIZED,
        reason="",
        parameters=parameters,
        weight_shape=shape,
        calls=1,
        input_shape=(64, shape[1] if len(shape) > 1 else 8, *([8, 8] if len(shape) == 4 else [])),
        output_shape=(64, shape[0] if shape else 8, *([8, 8] if len(shape) == 4 else [])),
        size=LayerSize(4 * parameters, 4 * parameters, 0, 0, 0),
        weight=None,
        input=None,
        local_error=None,
        accumulated_error=accumulated,
        input_scheme=None,
        input_channels=None,
        local_relative=None,
        accumulated_relative=make_relative(accumulated),
    )
    scheme = recipe.layer_scheme(name)
    if not shape:
        return replace(
            base,
            status=UNSUPPORTED,
            reason=f"{kind} layers cannot be quantized yet; this one stays in float.",
        )
    if scheme is None:
        reason = f"excluded by the recipe's entry '{recipe.excluding_pattern(name)}'"
        return replace(base, status=EXCLUDED, reason=reason)
    weight = make_tensor(_weights(rng, name, shape, channel_spread), scheme.weight, is_weight=True)
    weight = replace(weight, shape=shape, example=replace(weight.example, index=(0,) * len(shape)))
    inputs = None
    if scheme.activation is not None:
        values = np.maximum(rng.normal(0.2, 1.0, size=(1, 6000)), 0.0)
        values += tail * rng.standard_t(2.5, size=values.shape) * (values > 0)
        if scheme.activation.is_dynamic:
            parts = [
                f * part for f, part in zip(_LOUDNESS, np.split(values, 4, axis=1), strict=True)
            ]
            # Not all behind a ReLU, so that zero points differ too.
            parts = [part - 0.2 * (seed % 2) for part in parts]
            inputs = make_dynamic_tensor(parts, scheme.activation)
            base = replace(base, input_scheme=scheme.activation)
        else:
            inputs = make_tensor(values, scheme.activation, is_weight=False)
        inputs = replace(inputs, shape=base.input_shape)
    scales = len(weight.scale) + (0 if inputs is None else 1)
    zeros = 0 if scheme.weight.symmetric else len(weight.scale)
    zeros += 0 if inputs is None or scheme.activation is None else int(not inputs.scheme.symmetric)
    size = LayerSize(
        float_bytes=4 * parameters,
        weight_bytes=math.ceil(math.prod(shape) * scheme.weight.bits / 8),
        scale_bytes=4 * scales,
        zero_point_bytes=zeros,
        bias_bytes=4 * shape[0],
    )
    is_exact = weight.error.sqnr_db == math.inf and inputs is None
    local = make_error(np.ones(4), np.ones(4)) if is_exact else _output_error(rng, 0.012)
    return replace(
        base,
        size=size,
        weight=weight,
        input=inputs,
        local_error=local,
        local_relative=make_relative(local),
    )


def make_relative(error: ErrorMetrics) -> RelativeErrors:
    """The same error channel by channel, for one channel: all values in the bin of its RMS."""
    rms = math.sqrt(error.nmse)
    octave = math.floor(math.log2(rms)) if rms else -1
    counts, exact = ((512,), 0) if rms else ((0,), 512)
    return RelativeErrors(octave, counts, 0, 0, exact, 1, 0, rms, int(rms**2 >= 0.5), 0.0)


def _weights(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], channel_spread: float
) -> Array:
    """Normal weights with channels of different width; the exact layer's are 0, 1 and -1."""
    rest = math.prod(shape[1:])
    if name == EXACT_LAYER:
        return np.asarray(rng.integers(-1, 2, size=(shape[0], rest)), dtype=np.float64)
    widths = np.exp(rng.normal(0.0, channel_spread, size=(shape[0], 1)))
    return np.asarray(0.05 * widths * rng.standard_normal((shape[0], rest)))


def _output_error(rng: np.random.Generator, noise: float) -> ErrorMetrics:
    x = rng.standard_normal(512)
    return make_error(x, x + noise * rng.standard_normal(512))


@cache
def make_report(
    preset: str = "int8_per_channel", exclude: tuple[str, ...] = ("fc",)
) -> ModelReport:
    """A finished analysis of a ResNet-like model."""
    recipe = PRESETS[preset].with_excluded(*exclude)
    layers = tuple(
        make_layer(name, kind, shape, recipe, channel_spread=spread, tail=tail, seed=index)
        for index, (name, kind, shape, spread, tail) in enumerate(_LAYERS)
    )
    output = OutputReport(
        samples=360,
        error=_output_error(np.random.default_rng(99), 0.02),
        name="the output",
        kind="logits",
        metric="kl_divergence",
        value=1.3e-6,
        interval=(1.1e-6, 1.6e-6),
        classes=10,
        kl_divergence=1.3e-6,
        top1_agreement=1.0,
        labelled_samples=360,
        accuracy_float=0.9861,
        accuracy_quantized=0.9833,
        kl_interval=(1.1e-6, 1.6e-6),
    )
    return ModelReport(
        model_name="resnet",
        recipe=recipe,
        layers=layers,
        output=output,
        size=_size(layers),
        timing=make_timing(layers),
        environment=ENVIRONMENT,
        calibration_samples=256,
        evaluation_samples=360,
        evaluated_on_calibration_data=False,
        is_partial=False,
        notes=("BatchNorm folded into 8 convolutions.",),
        evaluation_batches=1,
        evaluation_batch_size=360,
        judged="judged: the output as logits by KL divergence",
        outputs=(output,),
        coverage=_coverage(layers),
        treatments=(),
    )


def _coverage(layers: tuple[LayerReport, ...]) -> Coverage:
    weights = {layer.name: math.prod(layer.weight_shape) for layer in layers if layer.weight_shape}
    left = [layer for layer in layers if layer.name in weights and not layer.is_quantized]
    out = tuple(LeftOut(layer.reason, weights[layer.name], (layer.name,)) for layer in left)
    total = sum(weights.values())
    return Coverage(total, total - sum(entry.weights for entry in out), out)


def _size(layers: tuple[LayerReport, ...]) -> SizeReport:
    quantized = [layer.size for layer in layers if layer.is_quantized]
    leftover = sum(layer.size.float_bytes for layer in layers if not layer.is_quantized)
    float_bytes = sum(layer.size.float_bytes for layer in layers)
    items = {
        "weight_bytes": sum(size.weight_bytes for size in quantized),
        "scale_bytes": sum(size.scale_bytes for size in quantized),
        "zero_point_bytes": sum(size.zero_point_bytes for size in quantized),
        "bias_bytes": sum(size.bias_bytes for size in quantized),
        "float_leftover_bytes": leftover,
    }
    return SizeReport(
        float_bytes=float_bytes,
        **items,
        float_file_bytes=float_bytes + 1800,
        quantized_file_bytes=sum(items.values()) + 3100,
        effective_bits=9.4,
        weight_bits=9.1,
    )


def make_timing(layers: tuple[LayerReport, ...]) -> TimingReport:
    """Times of the whole model at two batch sizes and of each layer, without integer ones.

    Runs from before integer execution was timed look like this.
    """

    return TimingReport(
        environment=ENVIRONMENT,
        warmup_runs=3,
        models=(
            _timed("float", 1, 1.9),
            _timed("float", 64, 22.0),
            _timed("float_channels_last", 64, 19.5),
            _timed("simulated", 1, 4.1),
            _timed("simulated", 64, 51.0),
        ),
        layers=tuple(
            _timed(execution, 64, factor * (0.6 + 0.2 * index), layer.name)
            for index, layer in enumerate(layers)
            for execution, factor in (("float", 1.0), ("simulated", 2.4))
        ),
    )


SMALL_LAYERS = ("head.0", "layer3.0.identity")
"""Layers that lose time on integers in `with_integer_times`."""
UNCLEAR_LAYER = "conv1"
LOOKED_UP_LAYER = "layer2.0.conv2"


def with_integer_times(report: ModelReport, *, is_lowered: bool = True) -> ModelReport:
    """The same report with integers timed: faster at batch size 64, slower at batch size 1."""
    timing = report.timing
    assert timing is not None
    models = [("integer", 1, 3.8), ("integer", 64, 18.9)]
    models += [("integer_lowered", 1, 3.0), ("integer_lowered", 64, 7.8)] if is_lowered else []
    factors = dict.fromkeys(SMALL_LAYERS, 2.0) | {UNCLEAR_LAYER: 1.01}
    names = [layer.name for layer in report.quantized_layers]
    floats = {e.layer: e.median_ms for e in timing.layers if e.execution == "float"}
    layers = tuple(
        _timed(kind, 64, factor * floats[name], name)
        for name in names
        for kind, factor in (("float_channels_last", 0.9), ("integer", factors.get(name, 0.4)))
    )
    executions = tuple(
        LayerExecution(name, "lookup", reason="Rows are looked up; there are no products.")
        if name == LOOKED_UP_LAYER
        else LayerExecution(name, "integer", "onednn", "", is_lowered, is_lowered)
        for name in names
    )
    notes = () if is_lowered else ("Activations are float32 between layers. A branch is traced.",)
    return replace(
        report,
        timing=replace(
            timing,
            models=(*timing.models, *(_timed(*model) for model in models)),
            layers=(*timing.layers, *layers),
            executions=executions,
            notes=notes,
            gaps=tuple(
                ExecutionGap(kind, "the output", 64, 0.25 * share, 0.25, 4.0)
                for kind, share in (("integer", 0.024), ("integer_lowered", 0.12))
                if is_lowered or kind == "integer"
            ),
        ),
    )


def _timed(execution: str, batch: int, median: float, layer: str = "") -> TimingEntry:
    return TimingEntry(execution, batch, median, 0.95 * median, 1.08 * median, 30, layer)


@cache
def make_dynamic_report() -> ModelReport:
    """An analysis whose inputs have a range per batch, over four batches of 360 samples."""
    report = make_report("int8_dynamic")
    return replace(report, evaluation_batches=4, evaluation_batch_size=100)


@cache
def make_partial_report(done: int = 3) -> ModelReport:
    """An analysis that was stopped: some layers done, the model's own figures not known yet."""
    report = make_report()
    layers = tuple(
        layer
        if index < done
        else replace(
            layer,
            input=None,
            local_error=None,
            accumulated_error=None,
            local_relative=None,
            accumulated_relative=None,
        )
        for index, layer in enumerate(report.layers[: done + 2])
    )
    return replace(
        report,
        layers=layers,
        output=None,
        size=None,
        timing=None,
        evaluation_samples=0,
        is_partial=True,
    )


def replace_layer(report: ModelReport, name: str, **changes: Any) -> ModelReport:
    """The same report with other fields in one layer."""
    layers = (replace(x, **changes) if x.name == name else x for x in report.layers)
    return replace(report, layers=tuple(layers))


@cache
def make_sensitivity(
    direction: str = "one_at_a_time", *, has_logits: bool = True, has_labels: bool = True
) -> SensitivityReport:
    """A measured sensitivity of the same model; two layers are tied, one is exact."""
    report = make_report()
    rng = np.random.default_rng(7)
    layers = []
    for layer in report.quantized_layers:
        is_exact = layer.name == EXACT_LAYER
        kl = 0.0 if is_exact else float(10 ** rng.uniform(-8, -4))
        nmse = 0.0 if is_exact else 40 * kl
        main = kl if has_logits else nmse
        layers.append(
            LayerSensitivity(
                name=layer.name,
                option="int8 weights + int8 input",
                kl_divergence=kl if has_logits else None,
                interval=(0.7 * main, 1.5 * main),
                sqnr_db=math.inf if is_exact else -10 * math.log10(nmse),
                nmse=nmse,
                top1_agreement=1.0 - float(rng.integers(0, 4)) / 360 if has_logits else None,
                accuracy_drop=float(rng.integers(-1, 4)) / 360 if has_labels else None,
                float_bytes=layer.size.float_bytes,
                quantized_bytes=layer.size.quantized_bytes,
                parameters=layer.parameters,
                value=main,
            )
        )
    return SensitivityReport(
        model_name=report.model_name,
        recipe=report.recipe,
        direction=direction,
        layers=tuple(layers),
        reference=replace(layers[0], name="", kl_divergence=2e-4 if has_logits else None),
        cumulative=_cumulative(layers, report, has_logits, has_labels),
        samples=360,
        accuracy_float=0.9861 if has_labels else None,
        seed=0,
        is_partial=False,
        notes=(),
        metric="kl_divergence" if has_logits else "nmse",
        parts="both",
        references=(),
        rankings=(),
        judged=report.judged,
        schemes=(),
    )


def _cumulative(
    layers: list[LayerSensitivity], report: ModelReport, has_logits: bool, has_labels: bool
) -> tuple[CumulativePoint, ...]:
    size = 0 if report.size is None else report.size.float_bytes
    points = [
        CumulativePoint(
            count=0,
            layer="",
            kl_divergence=0.0 if has_logits else None,
            sqnr_db=math.inf,
            accuracy=0.9861 if has_labels else None,
            model_bytes=size,
            top1_agreement=None,
            value=0.0,
            added=(),
        )
    ]
    total = 0.0
    for count, layer in enumerate(sorted(layers, key=lambda x: x.nmse), start=1):
        total += layer.nmse
        size -= layer.float_bytes - layer.quantized_bytes
        points.append(
            CumulativePoint(
                count=count,
                layer=layer.name,
                kl_divergence=total / 40 if has_logits else None,
                sqnr_db=math.inf if total == 0 else -10 * math.log10(total),
                accuracy=0.9861 - count * 0.0003 if has_labels else None,
                model_bytes=size,
                top1_agreement=None,
                value=total / 40 if has_logits else total,
                added=(layer.name,),
            )
        )
    return tuple(points)
