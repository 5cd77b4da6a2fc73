"""The form of the Experiment page: model, schemes, calibration samples, single layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import streamlit as st

from dashboard.data.link_words import LayerBits, own_bits
from dashboard.data.settings import MAX_SEED, MIN_CALIBRATION_SAMPLES, Settings, preset_of
from dashboard.facts.accuracy import share_text
from dashboard.session.draft import (
    MODEL_WIDGET,
    draft_start,
    set_draft,
    versioned,
    with_layer_bits,
)
from dashboard.session.state import session
from dashboard.words.formatting import format_bytes, format_count, plural
from dashboard.words.recipes import REMEDY_NAMES, preset_about, preset_title
from dashboard.work import service
from quant_engine.scheme import (
    BATCH_NORM,
    CALIBRATION,
    MAX_BITS,
    MIN_BITS,
    PRESETS,
    REMEDIES,
    AdaRound,
    BiasCorrection,
    Recipe,
    Remedy,
    TensorScheme,
    observers_for,
)

OBSERVER_TITLES = {
    "minmax": "Min–max: the whole range seen",
    "percentile": "Percentile: cut the outliers",
    "mse": "Smallest squared error",
    "entropy": "Entropy (KL), as in TensorRT",
    "hqq": "HQQ: few large errors, many small ones",
}
HQQ_HELP = (
    " HQQ fits scale and zero point to the weights, so it can be chosen where the range is not "
    "symmetric around zero."
)
ROUNDED_BEHIND = {True: "Behind rounded layers", False: "Each layer by itself"}
MEANS_TITLES = {CALIBRATION: "Measured on the samples", BATCH_NORM: "Computed from BatchNorm"}
RANGE_TITLES = ("Fixed by calibration", "Dynamic, per batch")
GRANULARITY_TITLES = {
    "per_tensor": "Per tensor",
    "per_channel": "Per channel",
    "per_group": "Per group",
}
GROUP_SIZES = (32, 64, 128)
BITS = tuple(range(MAX_BITS, MIN_BITS - 1, -1))

T = TypeVar("T")


def show_recipe_form() -> Settings:
    """Draw the form and return the settings that it says now."""
    draft = draft_start()
    presets = st.container()
    with st.grid(3, min_column_width=260, gap="small", key="recipe_form"):
        with st.container(border=True, height="stretch"):
            st.markdown("**1 · Model and data**")
            model_name, samples, seed = _show_model(draft)
        with st.container(border=True, height="stretch"):
            st.markdown("**2 · Weights**")
            weight = _show_weight(draft.recipe.weight)
        with st.container(border=True, height="stretch"):
            st.markdown("**3 · Layer inputs (activations)**")
            activation = _show_activation(draft.recipe.activation)
    base = draft.recipe if model_name == draft.model_name else Recipe(weight, activation)
    excluded, rows = _show_layers(model_name, base, has_inputs=activation is not None)
    remedies = _show_remedies(base)
    recipe = Recipe(weight, activation, exclude_layers=tuple(excluded), remedies=remedies)
    bits = _bits_of_rows(rows, weight.bits)
    settings = Settings(model_name, with_layer_bits(recipe, bits, base), samples, seed)
    with presets:
        _show_presets(settings)
    session().draft = settings
    return settings


def _show_presets(settings: Settings) -> None:
    """One button for each preset; the one that the form says now stands out."""
    chosen = preset_of(settings.recipe)
    with st.container(horizontal=True, gap="small", key="presets"):
        for name in PRESETS:
            st.button(
                preset_title(name),
                key=f"preset_{name}",
                type="primary" if name == chosen else "secondary",
                help=preset_about(name),
                on_click=_apply_preset,
                args=(settings, name),
            )


def _apply_preset(settings: Settings, name: str) -> None:
    """Take the preset's schemes; layers in float stay so, bits of single layers are kept."""
    old = settings.recipe
    bits = {
        layer: pair
        for layer, scheme in old.overrides.items()
        if (pair := own_bits(scheme, old)) is not None
    }
    recipe = replace(PRESETS[name], exclude_layers=old.exclude_layers, remedies=old.remedies)
    set_draft(replace(settings, recipe=with_layer_bits(recipe, bits, old)))


def _show_model(draft: Settings) -> tuple[str, int, int]:
    names = service.model_names()
    model_name = st.selectbox(
        "Model",
        names,
        index=names.index(draft.model_name) if draft.model_name in names else 0,
        format_func=lambda name: service.model_info(name).title,
        key=versioned(MODEL_WIDGET),
    )
    info = service.model_info(model_name)
    st.caption(
        f"{info.family} · {format_count(info.parameters)} parameters · "
        f"{format_bytes(info.float_bytes)} in float, as given · "
        f"{share_text(info.accuracy, info.test_samples)} accurate"
    )
    available = service.calibration_available(model_name)
    samples = st.slider(
        "Calibration samples",
        MIN_CALIBRATION_SAMPLES,
        available,
        min(draft.calibration_samples, available),
        key=versioned("samples"),
        help="Real inputs that the value ranges are measured on. Errors and accuracy are measured "
        "on other data, which the calibration never sees.",
    )
    seed = st.number_input(
        "Seed",
        0,
        MAX_SEED,
        draft.seed,
        key=versioned("seed"),
        disabled=samples >= available,
        help="Decides which calibration samples are drawn. With all samples it changes nothing.",
    )
    return model_name, int(samples), int(seed)


def _show_weight(scheme: TensorScheme) -> TensorScheme:
    bits = _bits_slider("Weight bits", scheme.bits, "weight_bits")
    granularity = _radio(
        "Scales",
        GRANULARITY_TITLES,
        scheme.granularity,
        "weight_granularity",
        "Per tensor: one scale for a whole weight. Per channel: one for each output channel. "
        "Per group: one for each 32, 64 or 128 consecutive weights of a channel, so a large weight "
        "costs only its neighbours resolution.",
    )
    group_size = _group_size(scheme.group_size) if granularity == "per_group" else None
    symmetric = _symmetric_toggle(scheme.symmetric, "weight_symmetric")
    if group_size is not None:
        extra = (32 if symmetric else 40) / group_size
        st.caption(
            f"Scales{'' if symmetric else ' and zero points'} add {extra:g} bits to a weight in a "
            "full group. Layers in groups run simulated: their products cannot be summed as one "
            "integer."
        )
    observer, percentile = _observer(scheme, "weight", symmetric)
    return TensorScheme(bits, symmetric, granularity, observer, percentile, group_size=group_size)


def _group_size(size: int | None) -> int:
    sizes = sorted({*GROUP_SIZES, *(() if size is None else (size,))})
    return st.selectbox(
        "Weights in a group",
        sizes,
        index=sizes.index(GROUP_SIZES[0] if size is None else size),
        key=versioned("weight_group_size"),
        help="Counted along the inputs of an output channel; the last group may be shorter.",
    )


def _show_activation(scheme: TensorScheme | None) -> TensorScheme | None:
    is_on = st.toggle(
        "Quantize layer inputs",
        scheme is not None,
        key=versioned("input_on"),
        help="Off: only weights are quantized, and layer inputs stay float.",
    )
    shown = scheme or TensorScheme(symmetric=False)
    if not is_on:
        st.caption("Inputs stay float: the model shrinks just as much, but cannot run in int8.")
        return None
    bits = _bits_slider("Input bits", shown.bits, "input_bits")
    symmetric = _symmetric_toggle(shown.symmetric, "input_symmetric")
    chosen = st.radio(
        "Range of the inputs",
        RANGE_TITLES,
        index=int(shown.is_dynamic),
        key=versioned("input_range"),
        help="Fixed: the range comes from the calibration samples and stays; values beyond it are "
        "clipped. Dynamic: each batch has its own range, found while the layer runs, which costs "
        "time in every layer and keeps values from staying int8 between layers.",
    )
    if chosen == RANGE_TITLES[1]:
        st.caption(
            "From the smallest to the largest value of each batch; nothing is clipped. Errors are "
            f"measured in batches of up to {service.BATCH_SIZE} samples."
        )
        return TensorScheme(bits, symmetric, is_dynamic=True)
    observer, percentile = _observer(shown, "input", symmetric)
    return TensorScheme(bits, symmetric, "per_tensor", observer, percentile)


def _radio(label: str, titles: Mapping[T, str], value: T, key: str, help: str) -> T:
    """Draw a choice of one of a few values by their titles."""
    values = list(titles)
    return st.radio(
        label,
        values,
        index=values.index(value),
        format_func=titles.__getitem__,
        horizontal=True,
        key=versioned(key),
        help=help,
    )


def _bits_slider(label: str, bits: int, key: str) -> int:
    about = "8 bits give 256 codes, 4 bits 16, 2 bits 4."
    return st.slider(label, MIN_BITS, MAX_BITS, bits, key=versioned(key), help=about)


def _symmetric_toggle(symmetric: bool, key: str) -> bool:
    return st.toggle(
        "Symmetric around zero",
        symmetric,
        key=versioned(key),
        help="On: 0.0 has code 0, no zero point. Off: a zero point shifts the range, which suits "
        "values that are never negative, such as those after a ReLU.",
    )


def _observer(scheme: TensorScheme, part: str, symmetric: bool) -> tuple[str, float]:
    is_weight = part == "weight"
    choices = observers_for(symmetric=symmetric, is_weight=is_weight)
    observer = st.selectbox(
        "Range estimator",
        choices,
        index=choices.index(scheme.observer) if scheme.observer in choices else 0,
        format_func=lambda name: OBSERVER_TITLES.get(name, name),
        key=versioned(f"{part}_observer"),
        help="How the values seen become a range. A narrower range rounds finer and clips more."
        + HQQ_HELP * is_weight,
    )
    if observer != "percentile":
        return observer, TensorScheme().percentile
    percentile = st.number_input(
        "Share of values inside the range, in percent",
        50.1,
        100.0,
        float(max(scheme.percentile, 50.1)),
        step=0.1,
        format="%.3f",
        key=versioned(f"{part}_percentile"),
    )
    return observer, float(percentile)


def _show_layers(
    model_name: str, base: Recipe, *, has_inputs: bool
) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Layers to keep in float, and layers with bits of their own."""
    options = service.layer_options(model_name)
    names = [option.name for option in options]
    patterns = [name for name in base.exclude_layers if name not in names]
    count = len(base.exclude_layers) + len(base.overrides)
    changed = f": {plural(count, 'entry', 'entries')}" if count else ""
    with st.expander(
        f"4 · Single layers{changed}",
        icon=":material/layers:",
        expanded=count > 0,
        key=versioned("single_layers"),
    ):
        excluded = st.multiselect(
            "Keep in float",
            [*names, *patterns],
            default=list(base.exclude_layers),
            accept_new_options=True,
            placeholder="Choose layers, or type a pattern such as blocks.*",
            key=versioned(f"exclude_{model_name}"),
        )
        for pattern in excluded:
            if not any(fnmatchcase(name, pattern) or name == pattern for name in names):
                st.warning(f"No layer of this model is called “{pattern}”.")
        st.caption("Bits of single layers: click a cell to choose.")
        edited = st.data_editor(
            [_row(option, base, has_inputs) for option in options],
            key=versioned(f"bits_{model_name}_{has_inputs}"),
            width="stretch",
            height=min(38 + 35 * len(options), 320),
            hide_index=True,
            disabled=["Layer", "Kind", "Parameters"],
            placeholder="as above",
            column_config={
                "Parameters": st.column_config.NumberColumn("Parameters", format="localized"),
                **{
                    name: st.column_config.SelectboxColumn(name, options=list(BITS), width="small")
                    for name in ("Weight bits", "Input bits")
                },
            },
        )
    return list(excluded), list(edited)


REMEDY_COSTS = {
    "cross_layer_equalization": "Moves factors between layers until their channels have equal "
    "ranges. Costs well under a second; the float model stays what it is.",
    "smooth_quant": "Divides loud input channels and multiplies the weights that read them. Costs "
    "one pass over the calibration samples; the float model stays what it is.",
    "awq": "Rounds weights that read large inputs finer, and narrows ranges where that helps; for "
    "few bits, most of all per group. Costs two passes over the calibration samples and a few "
    "seconds; the float model stays what it is.",
    "output_mse": "Narrows every range of weights as far as that makes its layer's output error "
    "smaller, as in sequential MSE; AWQ ends with it too. Costs one pass over the calibration "
    "samples and a few seconds.",
    "gptq": "Rounds weights so that they make up for each other's errors. Costs one pass over the "
    "calibration samples and a few seconds.",
    "adaround": "Learns for every weight whether to round it up or down, behind layers that are "
    "rounded already. Long work: for each layer a pass of both models over the calibration "
    "samples, and 1,000 steps of learning: about a second for each layer of the sample models, "
    "minutes for one with thousands of inputs. The job shows the time left. Where GPTQ rounds a "
    "layer too, the codes with the smaller error stay.",
    "bias_correction": "Takes the mean error of every channel out of the bias. Costs half a pass "
    "over the calibration samples for each layer.",
}


def _show_remedies(recipe: Recipe) -> tuple[Remedy, ...]:
    """One switch for each remedy; one that treats only some layers goes on treating those."""
    given = {remedy.kind: remedy for remedy in recipe.remedies}
    count = f": {len(given)} on" if given else ""
    chosen = []
    with st.expander(
        f"5 · Remedies{count}",
        icon=":material/healing:",
        expanded=bool(given),
        key=versioned("remedies"),
    ):
        for kind, cls in REMEDIES.items():
            remedy = given.get(kind, cls())
            some = remedy.layers != cls().layers
            layers = f" (only {', '.join(remedy.layers)})" if some else ""
            if st.toggle(
                f"{REMEDY_NAMES[kind]}{layers}",
                kind in given,
                key=versioned(f"remedy_{kind}{layers}"),
                help=REMEDY_COSTS[kind],
            ):
                chosen.append(_with_setting(remedy))
    return tuple(chosen)


def _with_setting(remedy: Remedy) -> Remedy:
    """Ask what a remedy can be asked; most stay as they are."""
    if isinstance(remedy, BiasCorrection):
        return _with_means(remedy)
    if not isinstance(remedy, AdaRound):
        return remedy
    is_sequential = _radio(
        "AdaRound's inputs",
        ROUNDED_BEHIND,
        remedy.is_sequential,
        "adaround_inputs",
        "Behind rounded layers, each layer also makes up for what those before it got wrong. "
        "By itself, on float inputs, AdaRound is one more choice for each layer on What if.",
    )
    return replace(remedy, is_sequential=is_sequential)


def _with_means(remedy: BiasCorrection) -> BiasCorrection:
    """Ask where a correction of biases takes mean errors from."""
    chosen = _radio(
        "Mean errors of the biases",
        MEANS_TITLES,
        remedy.means,
        "bias_means",
        "Measured: on the samples, each layer behind corrected ones. Computed: for "
        "weights alone, from the mean input that BatchNorm's statistics tell; where they do not, a "
        "layer stays as it is, and the report says why.",
    )
    is_sequential = remedy.is_sequential or chosen == BATCH_NORM
    return replace(remedy, means=chosen, is_sequential=is_sequential)


def _row(option: service.LayerOption, base: Recipe, has_inputs: bool) -> dict[str, Any]:
    scheme = base.overrides.get(option.name)
    own = None if scheme is None else own_bits(scheme, base)
    bits, input_bits = own or (None, None)
    row = {"Layer": option.name, "Kind": option.kind, "Parameters": option.parameters}
    return row | {"Weight bits": bits} | ({"Input bits": input_bits} if has_inputs else {})


def _bits_of_rows(rows: list[Mapping[str, Any]], weight_bits: int) -> dict[str, LayerBits]:
    bits: dict[str, LayerBits] = {}
    for row in rows:
        weight, inputs = _whole(row.get("Weight bits")), _whole(row.get("Input bits"))
        if weight is not None or inputs is not None:
            bits[str(row["Layer"])] = (weight_bits if weight is None else weight, inputs)
    return bits


def _whole(value: Any) -> int | None:
    """An empty cell comes back as None or as NaN."""
    return None if value is None or value != value else int(value)
