"""The table of layers × options: one layer per row, its choices as buttons."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.facts.layer_effects import LayerEffect, layer_effects
from dashboard.views.what_if.configuration import change_layer, try_configuration
from dashboard.words.formatting import format_count, plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import no_effect_words
from quant_engine.report import LayerReport
from quant_engine.variants import FLOAT_OPTION

MOST_ROWS = 60
TABLE_HEIGHT = 560
IN_ORDER, BY_DEGRADATION = "In the order they run", "Largest degradation alone first"


def show_layer_table(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Draw the presets and a row for each layer; a click takes effect at once."""
    st.markdown("**Bits for each layer**")
    _show_presets(run, prediction, configuration)
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
        for option, letter in prediction.letters.items():
            st.button(
                "All float" if option == FLOAT_OPTION else f"All {letter}",
                key=f"what_if_all_{letter}",
                help=f"Every layer: {option}.",
                on_click=try_configuration,
                args=(run, prediction, prediction.uniform(option)),
            )
    if stand_ins:
        st.caption(
            f"{plural(len(stand_ins), 'layer')} of the run shown "
            f"{'has' if len(stand_ins) == 1 else 'have'} a scheme of their own that is none of "
            "these choices: the nearest bits stand for it, so its measured figures are left out."
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
    st.session_state[key] = option

    def choose() -> None:
        chosen = st.session_state.get(key)
        if chosen is not None:
            change_layer(run, prediction, name, chosen)

    with st.container(
        horizontal=True,
        wrap=False,
        horizontal_alignment="distribute",
        vertical_alignment="center",
        gap="small",
    ):
        text = row_text(prediction, name, effect, kinds.get(name), is_worst=is_worst)
        st.markdown(text)
        st.segmented_control(
            f"Bits of {name}",
            list(prediction.letters),
            required=True,
            format_func=lambda choice: (
                choice if choice == FLOAT_OPTION else prediction.letters[choice]
            ),
            key=key,
            on_change=choose,
            label_visibility="collapsed",
        )


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
        number = f"{'KL' if prediction.has_logits else 'NMSE'} {effect.text} alone, {source}"
        alone = no_effect_words(found.reaches_output, effect.degradation, report.samples) or number
    # In the line that leaves room, where it makes no row wider than its name does.
    mark = " :small[:red-badge[worst]]" if is_worst else ""
    return f"**{escape_markdown(name)}**  \n:small[:gray[{kind}]]{mark}  \n:small[:gray[{alone}]]"
