"""What is wrong with a layer: one list of findings, each with its figure, its rule, its remedy.

Every rule is one function that reads what a report holds and returns a finding, or None. A finding
says by which threshold it was made, which remedies it points to, and which will not help. No
finding is certain: what a remedy does is known once it was run. `docs/remedies.md` has the rules in
one table, with their hits and misses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dashboard.facts.diagnosis.causes import (
    accumulated_relative,
    input_reach,
    local_relative,
    outlier_channels,
    zeros_of,
)
from dashboard.facts.diagnosis.culprit import OutputEffects
from dashboard.facts.diagnosis.thresholds import (
    CHANNEL_GAP_DB,
    CLIPPED_SHARE,
    DAMAGED,
    FEW_BITS,
    GOOD_DB,
    INHERITED_SHARE,
    LEANING_SHARE,
    LOST_INPUTS,
    LOST_SHARE,
    MATTERS,
    ONE_SIDED,
    OUTLIER,
    OUTLIER_CHANNELS,
    RANGE_GAIN_DB,
    SHIFT,
    SIGMAS,
)
from dashboard.facts.diagnosis.verdicts import (
    IDEAL_RMS,
    better_choice,
    clipping_share,
    is_exact,
    is_mostly_clipped,
    shares_coarse_scale,
)
from dashboard.facts.tensors import (
    best_choice,
    channel_sqnrs,
    grid_owner,
    observer_name,
    used_choice,
)
from dashboard.words.formatting import format_db, format_number, format_percent, plural
from quant_engine.report import LayerReport, ModelReport, RangeChoice, TensorReport

EQUALIZE, EQUALIZE_INPUT = "equalize", "equalize_input"
SMOOTH = "smooth"
PER_CHANNEL = "per_channel"
ASYMMETRIC = "asymmetric"
WEIGHT_RANGE, INPUT_RANGE = "weight_range", "input_range"
GPTQ = "gptq"
ADAROUND = "adaround"
BIAS = "bias"
MORE_BITS = "more_bits"
FLOAT_INPUT = "float_input"
FLOAT = "float"

TITLES = {
    "coarse_scale": "Channels share too coarse a scale",
    "input_channels": "Input channels take the range",
    "unequal_columns": "Weights of some inputs are lost",
    "weight_outliers": "Outlier values in the weights",
    "input_outliers": "Outlier values in the inputs",
    "weight_clipping": "Weights are clipped",
    "input_clipping": "Inputs are clipped",
    "one_sided": "One-sided inputs on a symmetric grid",
    "shift": "Systematic shift",
    "rounding": "Rounding alone",
    "leaning": "The answer leans on this layer",
    "inherited": "The error is inherited",
}
"""What to call each rule, in the order in which findings are listed."""

_OPENS = {"coarse_scale": "Weights", "unequal_columns": "Weights", "input_channels": "Inputs"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a layer.

    Attributes:
        rule: Key of the rule that found it, one of `TITLES`.
        figure: The numbers that it rests on.
        text: What they mean, and the threshold by which they count.
        remedies: Keys of the remedies that it points to, the most promising first; empty where
            nothing done to this layer repairs it.
        will_not_help: Which remedies will not, and why, as a sentence.
        origin: The layer that the error comes from, where it is inherited; else empty.
    """

    rule: str
    figure: str
    text: str
    remedies: tuple[str, ...] = ()
    will_not_help: str = ""
    origin: str = ""

    @property
    def title(self) -> str:
        """What to call it."""
        return TITLES[self.rule]

    @property
    def opens(self) -> str:
        """Whose channels show it, "Weights" or "Inputs"; empty where no channels do."""
        return _OPENS.get(self.rule, "")


def find_findings(
    layer: LayerReport,
    report: ModelReport,
    effects: OutputEffects | None = None,
    upstream: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Finding, ...]:
    """Return what is wrong with a layer, in the order of `TITLES`.

    Args:
        layer: A layer of the report.
        report: The run.
        effects: What each layer alone costs the output, where it is known.
        upstream: Layer name -> layers whose outputs reach it; where it is not known, all layers
            that run before it.
    """
    tensors = [
        (t, p) for t, p in ((layer.weight, "weight"), (layer.input, "input")) if t is not None
    ]
    found = [
        *(rule(layer) for rule in (coarse_scale, input_channels, unequal_columns)),
        *(rule(*one) for rule in (outlier_values, clipping) for one in tensors),
        *(rule(layer) for rule in (one_sided, shift, rounding)),
        leaning(layer, report, effects),
        inherited(layer, report, upstream),
    ]
    return tuple(finding for finding in found if finding is not None)


def not_judged(layer: LayerReport, effects: OutputEffects | None) -> tuple[str, ...]:
    """Say which rules could not be applied to a quantized layer for want of data."""
    missing = []
    if layer.input is not None and not input_reach(layer):
        missing.append("input channels: this kind of layer has none")
    if layer.weight is not None and not layer.weight.range_choices:
        owner = grid_owner(layer.weight)
        missing.append(f"outliers in the weights: every {owner} has a range of its own")
    if layer.input is not None and layer.input.is_dynamic:
        missing.append("outliers in the inputs: their range is that of each batch")
    if effects is None or layer.name not in effects.values:
        missing.append(
            "whether the answer leans on it: its effect on the output is neither measured nor "
            "predicted"
        )
    return tuple(missing)


def coarse_scale(layer: LayerReport) -> Finding | None:
    """Find channels of a weight that share a scale which is too coarse for some of them."""
    zeros, tensor = zeros_of(layer.weight), layer.weight
    if zeros is None or tensor is None or not tensor.scheme.has_one_scale:
        return None
    is_lost = zeros.silent > 0 or (tensor.scheme.bits > FEW_BITS and zeros.is_cause)
    if not (is_lost or shares_coarse_scale(tensor)):
        return None
    figure = zeros.sentence
    if (by_channel := channel_sqnrs(tensor)) is not None:
        own, promised = by_channel
        figure += f"; channels alike: one scale {format_db(own)}, "
        figure += f"a scale each {format_db(promised)}"
    return Finding(
        "coarse_scale",
        figure,
        "One scale holds all channels, and its step is too coarse for the small ones (rule: a "
        f"channel that is all 0; or {format_percent(LOST_SHARE)} of the weights lost, at more than "
        f"{FEW_BITS} bits; or "
        f"{CHANNEL_GAP_DB:g} dB better with a scale per channel, each channel counted alike).",
        (EQUALIZE, PER_CHANNEL),
        "Another range estimator, GPTQ and bias correction keep the one scale: what is below half "
        "a step stays lost.",
    )


def input_channels(layer: LayerReport) -> Finding | None:
    """Find input channels that take the range from the others, where the input is quantized."""
    outliers = outlier_channels(layer)
    if outliers is None or layer.input is None:
        return None
    return Finding(
        "input_channels",
        f"{outliers.sentence[:1].upper()}{outliers.sentence[1:]}",
        "All input channels share one scale, which is as coarse as the largest needs (rule: "
        f"{OUTLIER:g} times the median channel's largest value, in at most "
        f"{_share_words(OUTLIER_CHANNELS)} of the channels).",
        (SMOOTH, EQUALIZE_INPUT, FLOAT_INPUT),
        "A scale per channel of the weights, GPTQ and bias correction leave the inputs as they "
        "are; another range estimator cuts the large channels off.",
    )


def unequal_columns(layer: LayerReport) -> Finding | None:
    """Find input channels whose weights are lost beside larger ones of the same output channel."""
    tensor = layer.weight
    if tensor is None or tensor.channels is None or coarse_scale(layer) is not None:
        return None
    lost, columns = tensor.channels.lost_inputs, layer.weight_shape[1 - tensor.channels.axis]
    if lost is None or lost < max(1, LOST_INPUTS * columns):
        return None
    return Finding(
        "unequal_columns",
        f"Of {lost} of {plural(columns, 'input channel')} at least half of the weights' energy is "
        "lost",
        "An output channel has one scale for all its inputs, and the weights of some are far "
        f"smaller than those of others (rule: {format_percent(LOST_INPUTS)} of the channels).",
        (EQUALIZE_INPUT, SMOOTH, MORE_BITS),
        "A scale per channel is one for each output channel, and so no finer; GPTQ and bias "
        "correction repair a part.",
    )


def outlier_values(tensor: TensorReport, part: str) -> Finding | None:
    """Find single values that stretch a range, where another range estimator cuts them off."""
    if (found := better_choice(tensor)) is None:
        return None
    best, used, gain = found
    if best.clipped_fraction <= used.clipped_fraction or gain < RANGE_GAIN_DB:
        return None
    beyond, reach = beyond_sigmas(tensor)
    return Finding(
        f"{part}_outliers",
        f"{format_percent(beyond)} of the values lie beyond {SIGMAS:g} σ, the largest at "
        f"{format_number(reach, 2)} σ; {observer_name(best.observer)} promises "
        f"{format_db(best.sqnr_db)}, the range in use {format_db(used.sqnr_db)}",
        "A few large values stretch the range, and the rest share what is left (rule: "
        f"{RANGE_GAIN_DB:g} dB better with a range that cuts more off, on the calibration data).",
        (WEIGHT_RANGE if part == "weight" else INPUT_RANGE,),
        "Bias correction and equalization move means and whole channels, not single values.",
    )


def clipping(tensor: TensorReport, part: str) -> Finding | None:
    """Find a range that cuts off so much that clipping makes most of the error."""
    if not is_mostly_clipped(tensor.error) or tensor.error.sqnr_db >= GOOD_DB:
        return None
    wider = wider_choice(tensor)
    text = (
        f"The range ends before the values do (rule: clipping makes {format_percent(CLIPPED_SHARE)}"
        f" of the squared error, below {GOOD_DB:g} dB)."
    )
    if wider is None and used_choice(tensor) is not None:
        text += " No range estimator reaches further: the calibration data did not hold such values"
        text += "." if part == "weight" else "; draw more calibration samples."
    return Finding(
        f"{part}_clipping",
        f"{format_percent(tensor.error.clipped_fraction)} of the values lie beyond the grid and "
        f"make {format_percent(clipping_share(tensor.error))} of the squared error; pooled SQNR "
        f"{format_db(tensor.error.sqnr_db)}",
        text,
        () if wider is None else (WEIGHT_RANGE if part == "weight" else INPUT_RANGE,),
        "GPTQ and better rounding choose codes inside the range; what lies beyond stays cut off.",
    )


def one_sided(layer: LayerReport) -> Finding | None:
    """Find inputs of one sign, or nearly, on a grid with as many codes for the other sign."""
    tensor = layer.input
    if tensor is None or not tensor.scheme.symmetric:
        return None
    long, short = max(-tensor.lo, tensor.hi), min(-tensor.lo, tensor.hi)
    if long <= 0 or short > ONE_SIDED * long:
        return None
    return Finding(
        "one_sided",
        f"Inputs run from {format_number(tensor.lo)} to {format_number(tensor.hi)}; "
        f"{tensor.codes.codes_used} of {len(tensor.codes.counts)} codes occur",
        "A symmetric grid has as many codes for the side that is not used (rule: the shorter side "
        f"reaches at most {format_percent(ONE_SIDED)} of the longer one).",
        (ASYMMETRIC,),
        "Smoothing, equalization and GPTQ leave the sign of the inputs as it is.",
    )


def shift(layer: LayerReport) -> Finding | None:
    """Find errors that have a mean: channels of the output are moved as a whole."""
    seen, local = layer.local_relative, layer.local_error
    if seen is None or local is None or not layer.is_quantized:
        return None
    if seen.shift < SHIFT or local.sqnr_db >= GOOD_DB:
        return None
    return Finding(
        "shift",
        f"A constant for each channel makes {format_percent(seen.shift)} of the error of the "
        f"output; its pooled SQNR {format_db(local.sqnr_db)}",
        f"Rounding moves the means of channels (rule: {format_percent(SHIFT)} of the error, mean "
        f"over channels, below {GOOD_DB:g} dB).",
        (BIAS,),
        "Another range estimator rounds otherwise, and moves the means otherwise.",
    )


def rounding(layer: LayerReport) -> Finding | None:
    """Find weights of few bits whose error is that of rounding, and nothing else."""
    tensor, local = layer.weight, layer.local_error
    if tensor is None or local is None or tensor.scheme.bits > FEW_BITS or is_exact(tensor.error):
        return None
    is_other = coarse_scale(layer) is not None or is_mostly_clipped(tensor.error)
    if is_other or local.sqnr_db >= GOOD_DB:
        return None
    rms = tensor.error.rmse_over_scale
    steps = "" if rms is None else f"RMS {format_number(rms)} LSB (ideal {IDEAL_RMS:.3f}); "
    return Finding(
        "rounding",
        f"{steps}weights of {tensor.scheme.bits} bits; pooled SQNR of the output "
        f"{format_db(local.sqnr_db)}",
        f"The grid fits, it has few values (rule: at most {FEW_BITS} bits, an output below "
        f"{GOOD_DB:g} dB, and neither too coarse a scale nor clipping).",
        (GPTQ, ADAROUND, BIAS, MORE_BITS),
        "Smoothing moves more into the weights, which are the coarse part; equalization has "
        "nothing to even out where channels are equal.",
    )


def leaning(
    layer: LayerReport, report: ModelReport, effects: OutputEffects | None
) -> Finding | None:
    """Find a layer whose small error costs the answer much."""
    own = local_relative(layer)
    if effects is None or own is None or not layer.is_quantized:
        return None
    known = {name: value for name, value in effects.values.items() if not math.isnan(value)}
    total, mine = sum(known.values()), known.get(layer.name)
    errors = [e for e in map(local_relative, report.quantized_layers) if e is not None]
    if mine is None or mine < max(MATTERS, LEANING_SHARE * total) or own > median(errors):
        return None
    return Finding(
        "leaning",
        f"{effects.text(layer.name)} ({effects.basis}), {format_percent(mine / total)} of all "
        f"layers' effects; its own error is {format_percent(own)} of its output, the median "
        f"layer's {format_percent(median(errors))}",
        f"A small error here costs the answer much (rule: {_share_words(LEANING_SHARE)} of the sum "
        f"of all layers' effects on the output, at least {MATTERS:g}, at an error of at most the "
        "median layer's).",
        (MORE_BITS, FLOAT),
        "Remedies gain little, for there is little error to repair.",
    )


def inherited(
    layer: LayerReport, report: ModelReport, upstream: Mapping[str, Sequence[str]] | None = None
) -> Finding | None:
    """Find an error that came with the input, and the layer that makes most of it."""
    total, own = accumulated_relative(layer), local_relative(layer)
    if total is None or total <= DAMAGED:
        return None
    share = 0.0 if own is None else (own / total) ** 2
    names = [other.name for other in report.layers]
    before = names[: names.index(layer.name)] if upstream is None else upstream.get(layer.name, ())
    sources = {
        name: error
        for name in before
        if name in names and (error := local_relative(report.layer(name))) is not None
    }
    if not sources or share > INHERITED_SHARE:
        return None
    origin = max(sources, key=lambda name: sources[name])
    which = "reach it" if upstream is not None else "run before it"
    return Finding(
        "inherited",
        f"{format_percent(total)} of its output is wrong, and {format_percent(share)} of that "
        f"error's energy is its own; {origin} makes the largest error of the layers that {which}, "
        f"{format_percent(sources[origin])} of its output",
        f"The error came with the input (rule: at most {format_percent(INHERITED_SHARE)} of its "
        f"energy is the layer's own, and more than {format_percent(DAMAGED)} of the output is "
        "wrong).",
        (),
        "Nothing done to this layer removes it.",
        origin,
    )


def _share_words(share: float) -> str:
    return "a quarter" if share == 0.25 else format_percent(share)


def wider_choice(tensor: TensorReport) -> RangeChoice | None:
    """Return the best range that cuts off less than the one in use; None where there is none."""
    used = used_choice(tensor)
    if used is None:
        return None
    return best_choice(
        [c for c in tensor.range_choices if c.clipped_fraction < used.clipped_fraction]
    )


def beyond_sigmas(tensor: TensorReport) -> tuple[float, float]:
    """Return the share of values beyond `SIGMAS` standard deviations, and the largest, in σ.

    Mean and deviation are those of the histogram's bin centers; what lies outside its bins counts
    as beyond.
    """
    values = tensor.values
    width = (values.hi - values.lo) / len(values.float_counts)
    centers = [values.lo + (i + 0.5) * width for i in range(len(values.float_counts))]
    pairs = list(zip(centers, values.float_counts, strict=True))
    inside = sum(values.float_counts)
    outside = values.float_below + values.float_above
    if not inside:
        return 0.0, 0.0
    mean = sum(x * n for x, n in pairs) / inside
    deviation = math.sqrt(sum(n * (x - mean) ** 2 for x, n in pairs) / inside)
    if deviation == 0:
        return 0.0, 0.0
    beyond = outside + sum(n for x, n in pairs if abs(x - mean) > SIGMAS * deviation)
    reach = max(tensor.hi - mean, mean - tensor.lo) / deviation
    return beyond / (inside + outside), reach
