"""The table of layers × options: one layer per row, its bits as buttons, its remedies a list."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.facts.outputs import measure_of
from dashboard.facts.sensitivity.layer_effects import LayerEffect, layer_effects
from dashboard.session.predictions import prediction_status, start_prediction
from dashboard.views.what_if.configuration import change_layer, try_configuration
from dashboard.words.degradation import RATIO
from dashboard.words.formatting import format_count, plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import REMEDY_NAMES, no_effect_words
from dashboard.work.jobs import is_active
from quant_engine.report import LayerReport
from quant_engine.scheme import Candidate
from quant_engine.variants import FLOAT_OPTION

MOST_ROWS = 60
TABLE_HEIGHT = 560
WAY_WIDTH = 190
WAYS_ABOUT = (
    "At the same bits. GPTQ: each weight makes up for the error of those before it. Bias: the mean "
    "error of the layer's own weights is taken out of its bias. Narrow ranges: as narrow as makes "
    "the layer's output error smallest. Groups: a scale for each few weights, which costs bytes. "
    "AdaRound takes long: it is a choice for runs whose recipe has it, each layer by itself."
)
IN_ORDER, BY_DEGRADATION = "In the order they run", "Largest degradation alone first"


def show_layer_table(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Draw the presets and a row for each layer; a click takes effect at once."""
    has_ways = len(prediction.ways) > 1
    st.markdown("**Bits and remedies of each layer**" if has_ways else "**Bits of each layer**")
    _show_presets(run, prediction, configuration)
    if not has_ways:
        _offer_remedies(run)
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
            help="Back to the choices of the run shown.",
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
        if len(prediction.ways) > 1:
            _show_way_preset(run, prediction, configuration)
    if stand_ins:
        st.caption(
            f"{plural(len(stand_ins), 'layer')} of the run shown "
            f"{'has' if len(stand_ins) == 1 else 'have'} a scheme or rounding of their own that is "
            "none of these choices: the nearest one stands for it, so its measured figures are "
            "left out."
        )


def _show_way_preset(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Offer every way for all layers that have it; the others keep theirs."""
    key = "what_if_all_ways"

    def choose() -> None:
        way = st.session_state.pop(key, None)
        if way is not None:
            chosen = {n: prediction.twin(n, o, way) or o for n, o in configuration.items()}
            try_configuration(run, prediction, chosen)

    st.selectbox(
        "Weights of all layers",
        prediction.ways,
        index=None,
        key=key,
        format_func=prediction.way_words,
        placeholder="All weights by",
        label_visibility="collapsed",
        width=WAY_WIDTH,
        on_change=choose,
        help=WAYS_ABOUT,
    )


def _offer_remedies(run: Run) -> None:
    """Say that a prediction knows plain rounding only, and offer to measure it again."""
    is_busy = is_active(prediction_status(run.settings))
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.caption(
            "Remedies join the choices when the measurement is done."
            if is_busy
            else "This prediction was measured with plain rounding only."
        )
        st.button(
            "Measure with remedies too",
            key="what_if_measure_remedies",
            icon=":material/play_arrow:",
            type="tertiary",
            disabled=is_busy,
            help=WAYS_ABOUT,
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
    way_key, way = f"{key}_way", prediction.way(option)
    st.session_state[key] = prediction.twin(name, option, prediction.ways[0]) or option
    st.session_state[way_key] = way

    def choose() -> None:
        chosen = st.session_state.get(key)
        if chosen is not None:
            change_layer(run, prediction, name, prediction.twin(name, chosen, way) or chosen)

    def choose_way() -> None:
        other = st.session_state.get(way_key)
        if other is not None:
            change_layer(run, prediction, name, prediction.twin(name, option, other) or option)

    with st.container(
        horizontal=True,
        wrap=False,
        horizontal_alignment="distribute",
        vertical_alignment="center",
        gap="small",
    ):
        text = row_text(prediction, name, option, effect, kinds.get(name), is_worst=is_worst)
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
            if len(prediction.ways) > 1:
                ways = prediction.ways_of(name, option) or (way,)
                st.selectbox(
                    f"Weights of {name}",
                    ways,
                    format_func=prediction.way_words,
                    key=way_key,
                    disabled=len(ways) == 1,
                    help=_why_not(prediction, name, option, ways) or None,
                    on_change=choose_way,
                    label_visibility="collapsed",
                )


def _why_not(prediction: Prediction, name: str, option: str, ways: tuple[Candidate, ...]) -> str:
    """Say which ways a layer does not have at its present bits, and why; nothing if it has all."""
    if option == FLOAT_OPTION:
        return "A float layer is not rounded."
    reasons = [
        f"{REMEDY_NAMES[kind]}: {reason}."
        for kind, reason in prediction.why_not(name, option).items()
    ]
    if not reasons and len(ways) < len(prediction.ways):
        reasons = ["At these bits no more was measured."]
    return " ".join(reasons)


def row_text(
    prediction: Prediction,
    name: str,
    option: str,
    effect: LayerEffect | None,
    layer: LayerReport | None,
    *,
    is_worst: bool,
) -> str:
    """Return a row's text in three lines: name, kind and weights, what this choice alone does.

    Of several outputs the one that decides follows the number: "0.12 (boxes)".
    """
    report = prediction.response.report
    found = report.layers[prediction.response.layers.index(name)]
    weights = f"{format_count(sum(tensor.weights for tensor in found.stored[0]))} weights"
    kind = weights if layer is None else f"{layer.kind} · {weights}"
    alone = "as trained"
    if effect is not None:
        source = "measured" if effect.is_measured else "predicted"
        output = effect.decided_by
        if measure_of(prediction) is RATIO and not effect.is_measured:
            output = prediction.score({name: option}).decided_by
        of = f" ({escape_markdown(output)})" if output else ""
        number = f"{measure_of(prediction).short} {effect.text}{of} alone, {source}"
        alone = no_effect_words(found.reaches_output, effect.degradation, report.samples) or number
    # In the line that leaves room, where it makes no row wider than its name does.
    mark = " :small[:red-badge[worst]]" if is_worst else ""
    return f"**{escape_markdown(name)}**  \n:small[:gray[{kind}]]{mark}  \n:small[:gray[{alone}]]"
