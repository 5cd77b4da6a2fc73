"""The table of layers × options: one layer per row, its bits as buttons and its rounding a box."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.facts.layer_effects import LayerEffect, layer_effects
from dashboard.facts.outputs import measure_of
from dashboard.session.predictions import prediction_status, start_prediction
from dashboard.views.what_if.configuration import change_layer, try_configuration
from dashboard.words.formatting import format_count, plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import no_effect_words
from quant_engine.report import LayerReport
from quant_engine.scheme import GPTQ, NEAREST
from quant_engine.variants import FLOAT_OPTION

MOST_ROWS = 60
TABLE_HEIGHT = 560
IN_ORDER, BY_DEGRADATION = "In the order they run", "Largest degradation alone first"


def show_layer_table(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Draw the presets and a row for each layer; a click takes effect at once."""
    has_gptq = prediction.response.report.has_gptq
    st.markdown("**Bits and rounding of each layer**" if has_gptq else "**Bits of each layer**")
    _show_presets(run, prediction, configuration)
    if not has_gptq:
        _offer_gptq(run)
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        text = st.text_input(
            "Name contains",
            key="what_if_find",
            placeholder="Name contains, such as conv2",
            width=215,
            label_visibility="collapsed",
        )
        order = st.selectbox(
            "Order",
            [IN_ORDER, BY_DEGRADATION],
            key="what_if_order",
            width=210,
            label_visibility="collapsed",
        )
    names = [n for n in prediction.response.layers if text.strip().lower() in n.lower()]
    effects = layer_effects(run, prediction)
    if order == BY_DEGRADATION:
        reference = _reference_option(run, prediction)
        alone = effects.comparable((name, reference) for name in prediction.response.layers)
        names.sort(key=lambda name: -alone[name, reference].degradation)
    if not names:
        st.info("No layer fits this name.", icon=":material/search_off:")
    kinds = {layer.name: layer for layer in run.report.layers}
    worst = effects.worst((n, o) for n, o in configuration.items() if o != FLOAT_OPTION)
    with st.container(height=TABLE_HEIGHT, key="what_if_rows", gap="xsmall"):
        for name in names[:MOST_ROWS]:
            option = configuration.get(name, FLOAT_OPTION)
            effect = None if option == FLOAT_OPTION else effects.of(name, option)
            _show_row(run, prediction, name, option, effect, kinds, is_worst=name == worst)
    if len(names) > MOST_ROWS:
        st.caption(
            f"{plural(len(names) - MOST_ROWS, 'more layer')}: type a part of the name to see them."
        )


def _show_presets(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    own, stand_ins = prediction.configuration_of(run.recipe)
    with st.container(horizontal=True, gap="xsmall", key="what_if_presets"):
        st.button(
            "Reset",
            key="what_if_reset",
            icon=":material/restart_alt:",
            help="Back to the bits of the run shown.",
            disabled=dict(configuration) == own,
            on_click=try_configuration,
            args=(run, prediction, own),
        )
        for option in prediction.plain_options:
            letter = prediction.letters[option]
            st.button(
                "All float" if option == FLOAT_OPTION else f"All {letter}",
                key=f"what_if_all_{letter}",
                help=f"Every layer: {option}.",
                on_click=try_configuration,
                args=(run, prediction, prediction.uniform(option)),
            )
        if prediction.response.report.has_gptq:
            _show_gptq_preset(run, prediction, configuration)
    if stand_ins:
        st.caption(
            f"{plural(len(stand_ins), 'layer')} of the run shown "
            f"{'has' if len(stand_ins) == 1 else 'have'} a scheme or rounding of their own that is "
            "none of these choices: the nearest one stands for it, so its measured figures are "
            "left out."
        )


def _show_gptq_preset(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Offer GPTQ for every layer that it can round; where all have it, offer plain rounding."""
    by_rounding = {
        rounding: {n: prediction.twin(n, o, rounding) or o for n, o in configuration.items()}
        for rounding in (GPTQ, NEAREST)
    }
    is_everywhere = by_rounding[GPTQ] == configuration != by_rounding[NEAREST]
    wanted = by_rounding[NEAREST if is_everywhere else GPTQ]
    st.button(
        "All to nearest" if is_everywhere else "All by GPTQ",
        key="what_if_all_gptq",
        help="Round the weights of every layer to the nearest code, at the same bits."
        if is_everywhere
        else "Round the weights by GPTQ at the same bits, wherever that was measured. It costs no "
        "bytes, and once a second or two.",
        disabled=wanted == configuration,
        on_click=try_configuration,
        args=(run, prediction, wanted),
    )


def _offer_gptq(run: Run) -> None:
    """Say that a prediction knows plain rounding only, and offer to measure it again."""
    status = prediction_status(run.settings)
    is_busy = status is not None and status.is_active
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.caption(
            "GPTQ joins the choices when the measurement is done."
            if is_busy
            else "This prediction was measured with plain rounding only."
        )
        st.button(
            "Measure with GPTQ too",
            key="what_if_measure_gptq",
            icon=":material/play_arrow:",
            type="tertiary",
            disabled=is_busy,
            on_click=start_prediction,
            args=(run,),
        )


def _reference_option(run: Run, prediction: Prediction) -> str:
    """The run's own bits: at them layers are put in order, which stays while choices change."""
    bits = run.recipe.weight.bits
    options = prediction.response.report.options
    return next((o.name for o in options if o.scheme.weight.bits == bits), options[0].name)


def _show_row(
    run: Run,
    prediction: Prediction,
    name: str,
    option: str,
    effect: LayerEffect | None,
    kinds: Mapping[str, LayerReport],
    *,
    is_worst: bool,
) -> None:
    key = f"what_if_{prediction.response.layers.index(name)}"
    rounding_key = f"{key}_gptq"
    is_by_gptq = option != FLOAT_OPTION and prediction.response.candidates[option].rounding == GPTQ
    st.session_state[key] = prediction.twin(name, option, NEAREST) or option
    st.session_state[rounding_key] = is_by_gptq

    def choose() -> None:
        chosen = st.session_state.get(key)
        if chosen is not None:
            rounded = prediction.twin(name, chosen, GPTQ) if is_by_gptq else None
            change_layer(run, prediction, name, rounded or chosen)

    def choose_rounding() -> None:
        rounding = GPTQ if st.session_state.get(rounding_key) else NEAREST
        change_layer(run, prediction, name, prediction.twin(name, option, rounding) or option)

    with st.container(
        horizontal=True,
        wrap=False,
        horizontal_alignment="distribute",
        vertical_alignment="center",
        gap="small",
    ):
        text = row_text(prediction, name, effect, kinds.get(name), is_worst=is_worst)
        st.markdown(text)
        with st.container(gap="xxsmall", width="content"):
            st.segmented_control(
                f"Bits of {name}",
                prediction.plain_options,
                required=True,
                format_func=prediction.labels.__getitem__,
                key=key,
                on_change=choose,
                label_visibility="collapsed",
            )
            if prediction.response.report.has_gptq:
                why_not = _why_not_by_gptq(prediction, name, option)
                st.checkbox(
                    "by GPTQ",
                    key=rounding_key,
                    disabled=bool(why_not),
                    help=why_not or None,
                    on_change=choose_rounding,
                )


def _why_not_by_gptq(prediction: Prediction, name: str, option: str) -> str:
    """Say why a layer has no choice of rounding at its present bits; nothing if it has."""
    if option == FLOAT_OPTION:
        return "A float layer is not rounded."
    if prediction.twin(name, option, GPTQ):
        return ""
    reason = prediction.why_not_by_gptq(name, option)
    return f"Rounded to the nearest code: {reason}." if reason else "Not measured at these bits."


def row_text(
    prediction: Prediction,
    name: str,
    effect: LayerEffect | None,
    layer: LayerReport | None,
    *,
    is_worst: bool,
) -> str:
    """Return a row's text in three lines: name, kind and weights, what this choice alone does."""
    report = prediction.response.report
    found = report.layers[prediction.response.layers.index(name)]
    weights = f"{format_count(sum(tensor.weights for tensor in found.stored[0]))} weights"
    kind = weights if layer is None else f"{layer.kind} · {weights}"
    alone = "as trained"
    if effect is not None:
        source = "measured" if effect.is_measured else "predicted"
        number = f"{measure_of(prediction).short} {effect.text} alone, {source}"
        alone = no_effect_words(found.reaches_output, effect.degradation, report.samples) or number
    # In the line that leaves room, where it makes no row wider than its name does.
    mark = " :small[:red-badge[worst]]" if is_worst else ""
    return f"**{escape_markdown(name)}**  \n:small[:gray[{kind}]]{mark}  \n:small[:gray[{alone}]]"
