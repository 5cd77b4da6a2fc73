"""Recipes, presets and times in words."""

from __future__ import annotations

from datetime import UTC, datetime

from dashboard.data.settings import preset_of
from dashboard.words.formatting import format_number, plural
from quant_engine.judging import NO_PATH
from quant_engine.report import LayerReport, ModelReport
from quant_engine.scheme import PRESETS, AdaRound, BiasCorrection, Recipe, TensorScheme

EXECUTION_NOTE = (
    "Errors and accuracy come from simulated int8: numbers are rounded to int8 and computed in "
    "float, which is slower than float, not faster. The same model on true integers gives the same "
    "numbers but for float32 rounding, and is timed beside it."
)

DYNAMIC_INPUT = "dynamic (per batch)"
"""Said of inputs that no calibration fixes the range of."""


PRESET_TITLES = {
    "int8_per_channel": "Int8 per channel",
    "int8_per_tensor": "Int8 per tensor",
    "int8_symmetric": "Int8 symmetric",
    "int8_mse": "Int8, smallest error",
    "int8_entropy": "Int8, entropy",
    "int8_dynamic": "Int8 dynamic",
    "int8_weights_only": "Int8 weights only",
    "int4_weights": "Int4 weights",
}
PRESET_ABOUTS = {
    "int8_per_channel": "The usual first choice: one scale for each output channel.",
    "int8_per_tensor": "One scale for a whole weight. Fails where channels differ a lot.",
    "int8_symmetric": "No zero points at all. Wastes half the codes after a ReLU.",
    "int8_mse": "Ranges that make rounding and clipping error smallest together.",
    "int8_entropy": "TensorRT's rule for inputs. Clips rare large values: helps or harms, by what "
    "they carry.",
    "int8_dynamic": "Dynamic input ranges, computed per batch: they always fit, at some time.",
    "int8_weights_only": "Layer inputs stay float: same size, hardly any error.",
    "int4_weights": "4-bit weights, 8-bit inputs: half the size again, visible error.",
}


REMEDY_NAMES = {
    "cross_layer_equalization": "Equalize layers",
    "smooth_quant": "Smooth inputs",
    "awq": "Scale and clip by AWQ",
    "output_mse": "Narrow ranges by output error",
    "gptq": "Round by GPTQ",
    "adaround": "Round by AdaRound",
    "bias_correction": "Correct biases",
}
"""What to call a remedy, by its kind."""


def preset_title(name: str) -> str:
    """Return a preset's name for people; a preset without a text is called by its name."""
    return PRESET_TITLES.get(name) or name.replace("_", " ")


def preset_about(name: str) -> str:
    """Return in one sentence what a preset is good for."""
    return PRESET_ABOUTS.get(name) or describe_schemes(PRESETS[name])


def describe_scheme(scheme: TensorScheme) -> str:
    """Return a scheme in a few words.

    Example:
        >>> describe_scheme(TensorScheme(bits=4, observer="percentile", percentile=99.5))
        '4-bit symmetric per tensor, 99.5 % percentile'
        >>> describe_scheme(TensorScheme(is_dynamic=True))
        '8-bit symmetric per tensor, dynamic (per batch)'
    """
    symmetry = "symmetric" if scheme.symmetric else "asymmetric"
    names = {"minmax": "min–max", "mse": "smallest error", "hqq": "HQQ"}
    observer = names.get(scheme.observer, scheme.observer)
    if scheme.observer == "percentile":
        observer = f"{format_number(scheme.percentile, 4)} % percentile"
    range_words = DYNAMIC_INPUT if scheme.is_dynamic else observer
    return f"{scheme.bits}-bit {symmetry} {scheme.granularity_name}, {range_words}"


def describe_input(layer: LayerReport) -> str:
    """Return how a layer's input is held, in a few words."""
    if layer.input_scheme is not None and layer.has_dynamic_input:
        return f"int{layer.input_scheme.bits}, {DYNAMIC_INPUT}"
    if layer.input is not None:
        return f"int{layer.input.scheme.bits}"
    return "float"


def describe_batches(report: ModelReport) -> str:
    """Return in which batches the errors were measured; dynamic ranges hold for such batches."""
    batches, size = report.evaluation_batches, report.evaluation_batch_size
    is_even = batches * size == report.evaluation_samples
    each = plural(size, "sample")
    return f"{plural(batches, 'batch', 'batches')} of {each if is_even else f'at most {each}'}"


def measured_in_batches(report: ModelReport) -> str:
    """Say for which batch size the errors of dynamic inputs hold; nothing where there are none."""
    if not any(layer.input is not None and layer.input.is_dynamic for layer in report.layers):
        return ""
    return (
        "Input ranges are dynamic, one per batch, so these errors hold for batches as they were "
        f"measured: {describe_batches(report)}."
    )


def describe_schemes(recipe: Recipe) -> str:
    """Return a recipe's two schemes in one line.

    Example:
        >>> describe_schemes(PRESETS["int8_weights_only"])
        'weights 8-bit symmetric per channel, min–max; inputs float'
    """
    inputs = "float" if recipe.activation is None else describe_scheme(recipe.activation)
    return f"weights {describe_scheme(recipe.weight)}; inputs {inputs}"


def describe_recipe(recipe: Recipe) -> str:
    """Return a recipe in a few words: its preset or schemes, and what differs.

    Example:
        >>> describe_recipe(Recipe.default().with_excluded("head").with_layer_bits("stem", 4))
        'Int8 per channel, 1 layer in float, own bits for 1 layer'
    """
    preset = preset_of(recipe)
    parts = [preset_title(preset) if preset is not None else f"Custom: {describe_schemes(recipe)}"]
    if recipe.exclude_layers:
        names = recipe.exclude_layers
        has_wildcard = any(char in name for name in names for char in "*?[")
        noun = "layer pattern" if has_wildcard else "layer"
        parts.append(f"{plural(len(names), noun)} in float")
    if recipe.overrides:
        parts.append(f"own bits for {plural(len(recipe.overrides), 'layer')}")
    if recipe.remedies:
        parts.append(describe_remedies(recipe))
    return ", ".join(parts)


def describe_remedies(recipe: Recipe) -> str:
    """Return a recipe's remedies in a few words; empty without any.

    Example:
        >>> from quant_engine.scheme import SmoothQuant
        >>> describe_remedies(Recipe.default().with_remedy(SmoothQuant(layers=("a", "b"))))
        'smooth inputs (2 entries)'
        >>> describe_remedies(Recipe.default().with_remedy(AdaRound(is_sequential=False)))
        'round by AdaRound (each layer by itself)'
    """
    parts = []
    for remedy in recipe.remedies:
        name = REMEDY_NAMES[remedy.kind]
        name = f"{name[:1].lower()}{name[1:]}"
        more = []
        if remedy.is_local and isinstance(remedy, BiasCorrection | AdaRound):
            more.append("each layer by itself")
        if remedy.layers != ("*",):
            more.append(plural(len(remedy.layers), "entry", "entries"))
        parts.append(f"{name} ({', '.join(more)})" if more else name)
    return ", ".join(parts)


CODE_BITS = "Bits per weight, codes"
CODE_BITS_ABOUT = (
    "Mean bits of the codes alone, without scales and zero points, over all weights of layers that "
    "could be quantized; weights that stay float count in full."
)
SCALED_BITS = "Bits per weight, with scales"
SCALED_BITS_ABOUT = (
    "Mean bits over all weights of layers that could be quantized, their scales and zero points "
    "included; weights that stay float count in full."
)


def no_effect_words(reaches_output: bool, error: float | None, samples: int) -> str:
    """Return what an error of 0 at the output means; "" if there is an error.

    Example:
        >>> no_effect_words(False, 0.0, 32), no_effect_words(True, 0.0, 32)
        ('does not reach the judged output', 'no effect on these 32 samples')
    """
    if not reaches_output:
        return NO_PATH
    return f"no effect on these {plural(samples, 'sample')}" if error == 0.0 else ""


def describe_age(created: str, now: datetime | None = None) -> str:
    """Return how long ago something was, in words.

    Example:
        >>> describe_age("2026-01-01T12:00:00+00:00", datetime(2026, 1, 1, 12, 5, tzinfo=UTC))
        '5 minutes ago'
    """
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return "at an unknown time"
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    if seconds < 45:
        return "just now"
    for unit, size, limit in (("minute", 60, 3600), ("hour", 3600, 86400), ("day", 86400, 5184000)):
        if seconds < limit:
            return f"{plural(max(1, round(seconds / size)), unit)} ago"
    return f"on {then.date().isoformat()}"


def describe_estimate(seconds: float) -> str:
    """Return an estimated duration in words.

    Example:
        >>> describe_estimate(0.4), describe_estimate(7.3)
        ('under 1 s', 'about 7 s')
    """
    return describe_seconds(seconds) if seconds < 1 else f"about {describe_seconds(seconds)}"


def describe_seconds(seconds: float | None) -> str:
    """Return a duration in words that suits it.

    Example:
        >>> describe_seconds(0.4), describe_seconds(7.3), describe_seconds(95)
        ('under 1 s', '7 s', '1 min 35 s')
    """
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return "under 1 s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


GLOSSES = {
    "scale": "**Scale**: the step between two neighbouring values that can be stored",
    "channel": "**Channel**: one of the parallel signals that a layer takes in or gives out; a "
    "**depthwise** layer filters each of them by itself",
    "SQNR": "**SQNR**: signal over noise, pooled over all values, where large channels hide small "
    "ones; 20 dB is an error of 10 %, 40 dB of 1 %",
    "KL": "**KL**: how far the answer's probabilities move from the float model's, in **nats** "
    "(the unit "
    "of natural logarithms); 0 is not at all",
    "LSB": "**LSB**: one step of the integer grid",
}
"""Terms of the field in a few words (Markdown)."""


def gloss(*terms: str) -> str:
    """Return what terms mean, for the place where they first stand on a page.

    Example:
        >>> gloss("LSB")
        '**LSB**: one step of the integer grid.'
    """
    return ". ".join(GLOSSES[term] for term in terms) + "."
