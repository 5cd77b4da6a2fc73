"""The sample models as cards, and the runs computed here as a list."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import service
from dashboard.accuracy import share_text
from dashboard.components import run_state
from dashboard.components.guard import contain
from dashboard.components.markdown import escape_markdown
from dashboard.figures.formatting import format_accuracy, format_bytes, format_count, plural
from dashboard.runs import Run, RunSummary
from dashboard.state import Settings
from dashboard.wording import describe_age, describe_recipe, describe_seconds
from quant_engine.scheme import PRESETS

MOST_RECENT = 6


@dataclass(frozen=True, slots=True)
class Try:
    """A run worth seeing: its model and preset, what happens, and the button's words."""

    model_name: str
    preset: str
    title: str
    text: str
    button: str


TRIES = (
    Try(
        "mobilenet_unequal_channels",
        "int8_per_tensor",
        "One scale breaks a model",
        "Some channels are 256 times larger than others. One scale for the whole weight rounds the "
        "small ones to zero.",
        "Break it",
    ),
    Try(
        "mobilenet_unequal_channels",
        "int8_per_channel",
        "One scale per channel repairs it",
        "The same model with a scale for each output channel: nearly as good as float.",
        "Repair it",
    ),
    Try(
        "vit_outlier_channels",
        "int8_per_channel",
        "Two loud channels drown the rest",
        "As in large language models: outliers take nearly the whole range of the layer inputs.",
        "Hear them",
    ),
    Try(
        "mobilenet",
        "int4_weights",
        "How far can weights go?",
        "Four bits: half the bytes of int8. See which layers cannot bear it.",
        "Try 4 bits",
    ),
)


def show_tries(shown: Run | None) -> None:
    """Draw runs that teach something; a click shows each of them."""
    models = service.model_names()
    with st.grid(4, min_column_width=210, gap="small", key="tries"):
        for number, one in enumerate(one for one in TRIES if one.model_name in models):
            settings = Settings(one.model_name, PRESETS[one.preset])
            is_shown = shown is not None and shown.id == settings.run_id
            with _card():
                with st.container(gap="xsmall"):
                    st.markdown(f"**{one.title}**")
                    st.caption(one.text)
                st.button(
                    "Shown now" if is_shown else one.button,
                    key=f"try_{number}",
                    width="stretch",
                    disabled=is_shown,
                    icon=":material/check:" if is_shown else ":material/play_arrow:",
                    on_click=run_state.start_settings,
                    args=(settings,),
                )


def _card() -> DeltaGenerator:
    """A frame with its text at the top and its button at the bottom."""
    return st.container(border=True, gap="small", height="stretch", vertical_alignment="distribute")


def show_model_cards(shown: Run | None) -> None:
    """Draw one card a model; its button shows the stored result, or analyses the model."""
    with st.grid(3, min_column_width=210, gap="small", key="model_cards"):
        for name in service.model_names():
            with _card():
                _show_card(service.model_card(name), shown)
    examples = [service.model_card(name).example for name in service.model_names()]
    machines = {e.environment.cpu for e in examples if e is not None}
    if machines:
        threads = {e.environment.threads for e in examples if e is not None}
        st.caption(
            f"Accuracy: {_test_samples()} test samples never used in training or calibration. "
            f"Seconds: one analysis on {' / '.join(sorted(machines))}, "
            f"{'/'.join(str(n) for n in sorted(threads))} threads."
        )


def _test_samples() -> str:
    counts = sorted({service.model_info(name).test_samples for name in service.model_names()})
    return "/".join(format_count(count) for count in counts)


def _show_card(card: service.ModelCard, shown: Run | None) -> None:
    info, example = card.info, card.example
    is_shown = shown is not None and shown.model_name == info.name
    kind = f"{info.family} · teaching variant" if info.is_teaching_variant else info.family
    with st.container(gap="xsmall"):
        st.markdown(f"**{info.title}**", help=f"{info.description} {info.teaches}")
        st.caption(f"{kind}. {info.task}")
        st.markdown("  \n".join(_facts(card)))
    st.button(
        "Shown now" if is_shown else "Show this model",
        key=f"card_{info.name}",
        width="stretch",
        type="secondary",
        disabled=is_shown,
        icon=":material/check:" if is_shown else ":material/visibility:",
        on_click=run_state.start_settings,
        args=(example.settings if example is not None else Settings(info.name),),
    )


def _facts(card: service.ModelCard) -> list[str]:
    info, example = card.info, card.example
    after = example.quantized_bytes if example is not None else None
    accuracy = example.accuracy_quantized if example is not None else None
    lines = [
        f"{format_count(info.parameters)} parameters",
        f"{format_bytes(info.float_bytes)}" + (f" → {format_bytes(after)}" if after else ""),
        f"{format_accuracy(info.accuracy)} right"
        + (f" → {share_text(accuracy, info.test_samples)}" if accuracy is not None else ""),
    ]
    if example is not None and example.seconds is not None:
        lines.append(f"{describe_seconds(example.seconds)} to analyse")
    return lines


def show_recent_runs(shown: Run | None) -> None:
    """Draw the newest runs computed here, each with a button that shows it."""
    runs, broken = run_state.store().recent()
    if broken:
        names = escape_markdown(", ".join(broken[:3]))
        st.warning(
            f"{plural(len(broken), 'saved run')} cannot be read, and left as found: {names}"
            + (" …" if len(broken) > 3 else ""),
            icon=":material/broken_image:",
        )
    models = service.model_names()
    known = [run for run in runs if run.settings.model_name in models][:MOST_RECENT]
    if not known:
        st.caption("None yet. Runs you compute are kept here, also after a restart.")
        return
    for run in known:
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", key=f"recent_{run.id}"
        ):
            st.button(
                "Show",
                key=f"show_{run.id}",
                icon=":material/visibility:",
                disabled=shown is not None and shown.id == run.id,
                on_click=run_state.start_settings,
                args=(run.settings,),
                kwargs={"is_kept": True},
            )
            with contain(f"The run {run.id}"):
                st.markdown(_run_line(run))


def _run_line(run: RunSummary) -> str:
    parts = [
        f"**{service.model_info(run.settings.model_name).title}**",
        escape_markdown(describe_recipe(run.settings.recipe)),
    ]
    if run.accuracy_quantized is not None:
        samples = service.model_info(run.settings.model_name).test_samples
        parts.append(f"{share_text(run.accuracy_quantized, samples)} right")
    if run.quantized_bytes is not None:
        parts.append(format_bytes(run.quantized_bytes))
    if run.is_partial:
        parts.append("partial")
    parts.append(describe_age(run.created))
    return " · ".join(parts)
