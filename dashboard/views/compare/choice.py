"""Which two runs stand side by side: two pickers over the known runs, and Swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import streamlit as st

from dashboard.data.runs import Run, RunSummary
from dashboard.data.settings import Settings, settings_to_text
from dashboard.session import comparison, run_state
from dashboard.session.jobs import analysis_status, describe_settings, submit_analysis
from dashboard.session.state import A_KEY, B_KEY
from dashboard.words.formatting import format_accuracy
from dashboard.words.recipes import describe_age, describe_recipe
from dashboard.work import service
from dashboard.work.jobs import is_active

SIDES = ("A", "B")


def choose_pair(shown: Run | None) -> tuple[Settings, Settings]:
    """Draw the pickers of both runs; return what they say."""
    pair = comparison.hold_link(shown)
    known = comparison.known_runs()
    names = _names(known)
    for settings in pair:
        names.setdefault(settings.run_id, f"{_title(settings)} (not computed yet)")
    texts = {run.id: settings_to_text(run.settings) for run in known.values()}
    with st.container(horizontal=True, vertical_alignment="bottom", key="compare_choice"):
        _show_picker(0, pair[0], names, texts)
        st.button(
            "Swap",
            key="compare_swap",
            icon=":material/swap_horiz:",
            on_click=comparison.swap,
            help="Let A be B and B be A.",
        )
        _show_picker(1, pair[1], names, texts)
    return pair


def _show_picker(
    side: int, chosen: Settings, names: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    key, link_key = f"compare_pick_{SIDES[side].lower()}", (A_KEY, B_KEY)[side]

    def pick() -> None:
        text = texts.get(st.session_state[key])
        if text is not None:
            st.session_state[link_key] = text

    st.session_state[key] = chosen.run_id
    st.selectbox(
        f"Run {SIDES[side]}",
        list(names),
        format_func=lambda run_id: names[run_id],
        key=key,
        on_change=pick,
        width="stretch",
    )


def _names(known: Mapping[str, RunSummary]) -> dict[str, str]:
    """Call every run by model, recipe and result, so that no two read alike."""
    names = {run.id: _name(run) for run in known.values()}
    counts = Counter(names.values())
    return {
        run_id: name if counts[name] == 1 else f"{name}, {run_id[:4]}"
        for run_id, name in names.items()
    }


def _name(run: RunSummary) -> str:
    parts = [_title(run.settings)]
    if run.accuracy_quantized is not None:
        parts.append(f"{format_accuracy(run.accuracy_quantized)} right")
    if run.is_partial:
        parts.append("partial")
    parts.append("stored" if run.is_example else describe_age(run.created))
    return ", ".join(parts)


def _title(settings: Settings) -> str:
    model = service.model_info(settings.model_name).title
    return f"{model}: {describe_recipe(settings.recipe)}"


def find_pair(pair: tuple[Settings, Settings]) -> tuple[Run, Run] | None:
    """Return both runs; where one is not known, offer to compute it and return None."""
    runs = [run_state.find_run(settings) for settings in pair]
    a, b = runs
    if a is not None and b is not None:
        return a, b
    for side, settings, run in zip(SIDES, pair, runs, strict=True):
        if run is None:
            _offer(side, settings)
    return None


def _offer(side: str, settings: Settings) -> None:
    """Say that a run is not known, with the button that computes it."""
    if is_active(analysis_status(settings)):
        st.info(
            f"{side}: {describe_settings(settings)} is being computed. It stands here as soon as "
            "its errors are known.",
            icon=":material/hourglass_top:",
        )
        return
    st.info(
        f"{side}: {describe_settings(settings)} is not known here: it was never computed on this "
        "server, or is no longer kept.",
        icon=":material/science:",
    )
    st.button(
        f"Compute {side}",
        key=f"compare_compute_{side.lower()}",
        type="primary",
        icon=":material/play_arrow:",
        on_click=submit_analysis,
        args=(settings,),
    )
