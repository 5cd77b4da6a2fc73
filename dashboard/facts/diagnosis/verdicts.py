"""What the numbers of a layer mean, in plain sentences with the numbers they rest on.

Every rule is one function that returns a verdict, or None where it has nothing to say. A new rule
is one function in `TENSOR_RULES` or `LAYER_RULES`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from dashboard.facts.diagnosis.causes import accumulated_relative, local_relative, zeros_of
from dashboard.facts.diagnosis.thresholds import (
    BAD_DB,
    CHANNEL_GAP_DB,
    CLIPPED_SHARE,
    DESTROYED,
    DOMINATES,
    FEW_CODES,
    GOOD_DB,
    HIDDEN_DB,
    MANY_ZEROS,
    MOST_VALUES,
    NARROW,
    OWN_SHARE,
    RANGE_GAIN_DB,
    WORST_LAYERS,
    WORTH_DB,
)
from dashboard.facts.tensors import (
    best_choice,
    channel_sqnrs,
    channels_of,
    median_sqnr,
    observer_name,
    used_choice,
    worst_channels,
)
from dashboard.words.formatting import (
    format_bytes,
    format_db,
    format_number,
    format_percent,
    format_relative,
    format_span,
    plural,
)
from dashboard.words.recipes import describe_batches, describe_input
from quant_engine.report import ErrorMetrics, LayerReport, ModelReport, RangeChoice, TensorReport

GOOD = "good"
WATCH = "watch"
BAD = "bad"
INFO = "info"

IDEAL_RMS = 1 / math.sqrt(12)
"""RMS error of ideal rounding, in LSB."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One statement about a layer.

    Attributes:
        tone: "good", "watch", "bad" or "info".
        subject: What it is about, such as "Weights: rounding or clipping?".
        text: The statement, with the numbers it rests on.
        opens: Whose channels show it, "Weights" or "Inputs"; empty for a statement about no
            channels.
    """

    tone: str
    subject: str
    text: str
    opens: str = ""


_ALIKE = "each channel counted alike"


def is_destroyed(layer: LayerReport) -> bool:
    """Whether quantization destroys the layer: channels became 0, or too much of it is wrong."""
    zeros, local = zeros_of(layer.weight), local_relative(layer)
    has_lost_channels = zeros is not None and zeros.silent > 0
    return has_lost_channels or (local is not None and local >= DESTROYED)


def without_tick(verdict: Verdict | None, layer: LayerReport) -> Verdict | None:
    """Return a verdict on a tensor; what is fine in itself gets no tick in a destroyed layer."""
    if verdict is None or verdict.tone != GOOD or not is_destroyed(layer):
        return verdict
    return replace(verdict, tone=INFO)


def tone_of_sqnr(sqnr_db: float) -> str:
    """Return how an SQNR is to be taken.

    Example:
        >>> tone_of_sqnr(45.0), tone_of_sqnr(25.0), tone_of_sqnr(10.0)
        ('good', 'watch', 'bad')
    """
    return GOOD if sqnr_db >= GOOD_DB else WATCH if sqnr_db >= BAD_DB else BAD


def clipping_share(error: ErrorMetrics) -> float | None:
    """Return which share of the squared error comes from clipping, 0 to 1; None if unknown."""
    if error.clipping_mse is None or error.mse == 0:
        return None
    return error.clipping_mse / error.mse


def is_mostly_clipped(error: ErrorMetrics) -> bool:
    """Whether clipping makes most of the squared error, and not rounding."""
    share = clipping_share(error)
    return share is not None and share >= CLIPPED_SHARE


def better_choice(tensor: TensorReport) -> tuple[RangeChoice, RangeChoice, float] | None:
    """Return the best range, the one in use, and what the best promises more, in dB, at least 0."""
    best, used = best_choice(tensor.range_choices), used_choice(tensor)
    if best is None or used is None:
        return None
    return best, used, 0.0 if best.sqnr_db == used.sqnr_db else best.sqnr_db - used.sqnr_db


def shares_coarse_scale(tensor: TensorReport) -> bool:
    """Whether a scale per channel promises far more than the one scale in use."""
    by_channel = channel_sqnrs(tensor)
    return by_channel is not None and by_channel[1] - by_channel[0] >= CHANNEL_GAP_DB


def is_exact(error: ErrorMetrics) -> bool:
    """Whether there is no error at all."""
    return error.sqnr_db == math.inf or error.mse == 0


def cause(tensor: TensorReport, subject: str) -> Verdict | None:
    """Say whether rounding or clipping makes the error."""
    error, title = tensor.error, f"{subject}: rounding or clipping?"
    if is_exact(error):
        return Verdict(GOOD, title, "Neither: every value lies on the grid, there is no error.")
    share = clipping_share(error)
    if share is None:
        return None
    tone = tone_of_sqnr(error.sqnr_db)
    sqnr = f"Pooled SQNR {format_db(error.sqnr_db)}"
    clipped = f"{format_percent(error.clipped_fraction)} of the values lie beyond the grid"
    if is_mostly_clipped(error):
        text = f"Clipping makes {format_percent(share)} of the error energy: {clipped}. {sqnr}."
        return Verdict(tone, title, text)
    rms = ""
    if error.rmse_over_scale is not None:
        ideal = format_number(IDEAL_RMS)
        rms = f" RMS {format_number(error.rmse_over_scale)} LSB; ideal rounding gives {ideal}"
        rms += ", and less where many values are exactly 0." if _has_many_zeros(tensor) else "."
    if share > 0:
        text = f"Mostly rounding, {format_percent(1 - share)} of the error energy; clipping makes "
        return Verdict(tone, title, f"{text}{format_percent(share)} ({clipped}). {sqnr}.")
    why = ", as the range is that of each batch" if tensor.is_dynamic else ""
    clips = f"nothing is clipped{why}"
    return Verdict(tone, title, f"Rounding alone, {clips}. {sqnr}.{rms}")


def _has_many_zeros(tensor: TensorReport) -> bool:
    """Whether many of the values have the code of 0.0, as after a ReLU."""
    counts, zero = tensor.codes.counts, tensor.zero_point[0] - tensor.codes.qmin
    is_shared = len(set(tensor.zero_point)) == 1 and 0 <= zero < len(counts)
    return is_shared and counts[zero] >= MANY_ZEROS * sum(counts)


def codes_for_most(tensor: TensorReport) -> int:
    """Return how many codes, the most frequent first, hold `MOST_VALUES` of the values."""
    held = list(accumulate(sorted(tensor.codes.counts, reverse=True)))
    return bisect_left(held, MOST_VALUES * held[-1]) + 1


def code_use(tensor: TensorReport, subject: str) -> Verdict | None:
    """Say whether the integer codes are put to use."""
    used, codes = tensor.codes.codes_used, len(tensor.codes.counts)
    if not used or sum(tensor.codes.counts) < codes:  # 10 values cannot use 256 codes
        return None
    most, title = codes_for_most(tensor), f"{subject}: codes"
    text = f"{used} of {codes} codes occur; {format_percent(MOST_VALUES)} of the values share "
    text += f"{plural(most, 'code')}."
    if is_exact(tensor.error):
        return Verdict(GOOD, title, f"{text} The values take no others.")
    if most >= FEW_CODES * codes:
        return Verdict(GOOD, title, text)
    if tensor.lo >= 0 and tensor.scheme.symmetric:
        text += " No value is negative: an asymmetric scheme would use the idle half of the codes."
    else:
        text += " A few large values stretch the range, the rest share what is left."
    return Verdict(WATCH, title, text)


def better_range(tensor: TensorReport, subject: str) -> Verdict | None:
    """Say whether another range estimator would do better on the calibration data."""
    per_channel = _per_channel(tensor, subject)
    if per_channel is not None:
        return per_channel
    if (found := better_choice(tensor)) is None:
        return None
    best, used, gain = found
    title, name = f"{subject}: range", observer_name(used.observer)
    if not gain > WORTH_DB:
        text = f"No other range estimator beats {name} by more than {WORTH_DB:g} dB on the "
        return Verdict(GOOD, title, f"{text}calibration data.")
    text = (
        f"The range estimator {observer_name(best.observer)} promises {format_db(best.sqnr_db)} "
        f"against {format_db(used.sqnr_db)} with {name}: it uses {_range_text(best)} instead of "
        f"{_range_text(used)}, and clips {format_percent(best.clipped_fraction)}."
    )
    return Verdict(WATCH if gain >= RANGE_GAIN_DB else INFO, title, text)


def _per_channel(tensor: TensorReport, subject: str) -> Verdict | None:
    """Say what a scale for each channel promises, where it beats every range for all of them."""
    by_channel = channel_sqnrs(tensor)
    if by_channel is None or not shares_coarse_scale(tensor):
        return None
    own, promised = by_channel
    text = (
        f"No range for all channels together helps: one scale per channel promises "
        f"{format_db(promised)}, the one scale in use gives {format_db(own)} (each channel counted "
        "alike)."
    )
    return Verdict(BAD if own < BAD_DB else WATCH, f"{subject}: range", text, opens=subject)


def _range_text(choice: RangeChoice) -> str:
    return f"{format_number(choice.lo)} to {format_number(choice.hi)}"


def weak_channel(tensor: TensorReport, subject: str) -> Verdict | None:
    """Say which output channel suffers, and why."""
    worst, middle = worst_channels(tensor, 1), median_sqnr(tensor)
    if tensor.channels is None or middle is None:
        return None
    title = f"{subject}: which channel?"
    if not worst:
        return Verdict(GOOD, title, "None: every channel is exact.")
    channel, channels = worst[0], channels_of(tensor)
    gap, lost = middle - channel.sqnr_db, sum(1 for c in channels if c.sqnr_db < BAD_DB)
    text = (
        f"Channel {channel.index} is the weakest of {len(channels):,}: "
        f"{format_db(channel.sqnr_db)}, the median is {format_db(middle)}."
    )
    if gap < CHANNEL_GAP_DB and not lost:
        return Verdict(tone_of_sqnr(channel.sqnr_db), title, f"None stands out. {text}")
    if lost > 1:
        text += f" {plural(lost, 'channel')} are below {BAD_DB:g} dB."
    widest = max(channels, key=lambda c: c.reach)
    if 0 < channel.reach < NARROW * widest.reach and tensor.scheme.has_one_scale:
        text += (
            f" Its range is {format_number(widest.reach / channel.reach, 2)} times smaller than "
            f"that of channel {widest.index}, and both share one scale. Scales per channel help."
        )
    return Verdict(BAD if lost else WATCH, title, text, opens=subject)


TensorRule = Callable[[TensorReport, str], Verdict | None]

TENSOR_RULES: tuple[TensorRule, ...] = (cause, weak_channel, code_use, better_range)
"""What is said about a weight or an input, in this order."""


def weight_or_input(layer: LayerReport, report: ModelReport) -> Verdict | None:
    """Say whether the weight or the input costs the layer more."""
    if layer.weight is None or layer.input is None:
        return None
    weight, entry = layer.weight.error, layer.input.error
    title = "Weights or inputs?"
    if is_exact(weight) and is_exact(entry):
        return Verdict(GOOD, title, "Neither: both are exact.")
    numbers = f"weights {format_db(weight.sqnr_db)}, inputs {format_db(entry.sqnr_db)}"
    local = layer.local_error
    if local is not None and local.sqnr_db < min(weight.sqnr_db, entry.sqnr_db) - HIDDEN_DB:
        text = (
            f"Neither as a whole: {numbers}, yet the output has only {format_db(local.sqnr_db)}. "
            "A number over a whole tensor hides channels that are lost: look at the channels."
        )
        return Verdict(WATCH, title, text, opens="Weights")
    if weight.nmse > DOMINATES * entry.nmse:
        return Verdict(INFO, title, f"The weights cost more ({numbers}).")
    if entry.nmse > DOMINATES * weight.nmse:
        return Verdict(INFO, title, f"The inputs cost more ({numbers}).")
    return Verdict(INFO, title, f"Both cost about the same ({numbers}).")


def dynamic_input(layer: LayerReport, report: ModelReport) -> Verdict | None:
    """Say that an input has a range per batch, and for which batches its numbers hold."""
    if not layer.has_dynamic_input or layer.input is None:
        return None
    held, title = describe_input(layer).capitalize(), "Inputs: range"
    calls = f", and for each of its {layer.calls} calls" if layer.calls > 1 else ""
    span = format_span(layer.input.scale)
    steps = f"between {span.replace(' to ', ' and ')}" if " to " in span else span
    text = (
        f"{held}{calls}. Over {describe_batches(report)} one step was {steps}. Batches of another "
        "size have other ranges, so other errors."
    )
    return Verdict(INFO, title, text)


def _tone_of_wrong(share: float) -> str:
    return tone_of_sqnr(math.inf if share == 0 else -20 * math.log10(share))


def _wrong(relative: float | None, error: ErrorMetrics | None) -> float | None:
    """Return which share of an output is wrong; infinite where only 0 was right."""
    return math.inf if error is not None and error.nmse == math.inf else relative


def own_or_inherited(layer: LayerReport, report: ModelReport) -> Verdict | None:
    """Say whether the error at the output is the layer's own or came with its input."""
    total = layer.accumulated_error
    title = "Own error or inherited?"
    if total is not None and is_exact(total):
        return Verdict(GOOD, title, "No error has reached this layer's output.")
    arriving = _wrong(accumulated_relative(layer), total)
    if total is None or arriving is None:
        return None
    tone, own = _tone_of_wrong(arriving), _wrong(local_relative(layer), layer.local_error)
    if own is None:
        text = (
            f"Inherited: the layer itself is float. {format_relative(arriving)} of its output is "
            f"wrong in the quantized model ({_ALIKE})."
        )
        return Verdict(tone, title, text)
    numbers = (
        f"{format_relative(own)} of its output is wrong when quantized alone, "
        f"{format_relative(arriving)} in the quantized model, {_ALIKE}"
    )
    share = (own / arriving) ** 2 if 0 < arriving < math.inf else math.nan
    if not share <= 1.0:  # also where the share is not a number
        text = f"Its own: {numbers}. Errors of earlier layers partly cancel here."
        return Verdict(tone, title, text)
    if share >= OWN_SHARE:
        text = f"Mostly its own, {format_percent(share)} of the error energy: {numbers}."
        return Verdict(tone, title, text)
    text = (
        f"Mostly inherited: this layer alone would make {format_percent(share)} of the error "
        f"energy at its output ({numbers}). What it alone costs the model's answer is another "
        "question: see the column Output above."
    )
    return Verdict(tone, title, text)


def standing(layer: LayerReport, report: ModelReport) -> Verdict | None:
    """Say where the layer stands among all layers, and what it saves."""
    errors = {x.name: _wrong(local_relative(x), x.local_error) for x in report.layers}
    local = {name: error for name, error in errors.items() if error is not None}
    if layer.name not in local or len(local) < 2:
        return None
    mine = local[layer.name]
    rank = 1 + sum(1 for value in local.values() if value > mine)
    before, saved = layer.size.float_bytes, layer.size.float_bytes - layer.size.quantized_bytes
    text = (
        f"Rank {rank} of {len(local)} by its own error (1 is worst): {format_relative(mine)} of "
        f"its output, {_ALIKE}. Quantizing it saves {format_bytes(saved)}, "
        f"{format_percent(saved / before if before else 0.0)} of its size."
    )
    is_among_worst = rank <= max(1, WORST_LAYERS * len(local)) and _tone_of_wrong(mine) != GOOD
    return Verdict(WATCH if is_among_worst else INFO, "Among all layers", text)


LayerRule = Callable[[LayerReport, ModelReport], Verdict | None]

LAYER_RULES: tuple[LayerRule, ...] = (own_or_inherited, weight_or_input, dynamic_input, standing)
"""What is said about a layer as a whole, in this order."""


def tensor_verdicts(
    tensor: TensorReport, subject: str, layer: LayerReport | None = None
) -> tuple[Verdict, ...]:
    """Return what can be said about a weight or an input.

    Args:
        tensor: What quantization did to it.
        subject: "Weights" or "Inputs".
        layer: Its layer; in one that is destroyed, nothing gets a tick.
    """
    verdicts = (rule(tensor, subject) for rule in TENSOR_RULES)
    if layer is not None:
        verdicts = (without_tick(verdict, layer) for verdict in verdicts)
    return tuple(verdict for verdict in verdicts if verdict is not None)


def layer_verdicts(layer: LayerReport, report: ModelReport) -> tuple[Verdict, ...]:
    """Return what can be said about a layer as a whole."""
    verdicts = (rule(layer, report) for rule in LAYER_RULES)
    return tuple(verdict for verdict in verdicts if verdict is not None)
