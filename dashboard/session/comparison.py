"""Two runs side by side: which there are, the pair that Compare shows, and how to get there.

Any page calls `compare_with()`, also in a callback; the shell opens Compare when both are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st

from dashboard.data.runs import Run, RunSummary
from dashboard.data.settings import Settings, settings_to_text
from dashboard.data.stories import story_of
from dashboard.session import run_state
from dashboard.session.jobs import analysis_status, store, submit_analysis
from dashboard.session.link_check import linked_settings
from dashboard.session.link_widgets import open_next, rerun_outside_callback
from dashboard.session.state import A_KEY, B_KEY, RUN_KEY, Pair, session
from dashboard.work import service
from dashboard.work.jobs import is_active
from quant_engine.scheme import PRESETS

PAGE = "views/compare/compare.py"


def compare_with(base: Settings, other: Settings) -> None:
    """Open Compare with two runs, A | B, as soon as both are known; for callbacks and pages.

    What is not known yet is analysed in the background, and the pages stay as they are until then.
    """
    for settings in (base, other):
        if not _is_known(settings):
            submit_analysis(settings)
    session().to_compare = (base, other)
    rerun_outside_callback()


def compute_linked(words: Mapping[str, str]) -> None:
    """Analyse what the words of a link to Compare name and nobody has computed; for callbacks."""
    for key in (A_KEY, B_KEY):
        settings = linked_settings(words.get(key, ""), is_told=False)
        if settings is not None and run_state.find_run(settings) is None:
            submit_analysis(settings)


def is_ready_to_compare() -> bool:
    """Whether the pair that was asked for can be shown, or can no longer be."""
    pair = session().to_compare
    return pair is not None and all(
        _is_known(settings) or not is_active(analysis_status(settings)) for settings in pair
    )


def open_when_ready() -> None:
    """Let the shell open Compare once the pair that was asked for is known.

    A pair of which one came to nothing is forgotten: the job panel says why.
    """
    here = session()
    pair = here.to_compare
    if pair is None or not is_ready_to_compare():
        return
    here.to_compare = None
    if all(run_state.find_run(settings) is not None for settings in pair):
        set_pair(pair)
        open_next(PAGE)


def _is_known(settings: Settings) -> bool:
    run = run_state.find_run(settings)
    return run is not None and not run.report.is_partial


def set_pair(pair: Pair) -> None:
    """Make these two the pair that Compare shows when it is drawn next, and B the run shown."""
    here = session()
    here.compared = _texts(pair)
    here.pending[RUN_KEY] = here.compared[1]
    if A_KEY in st.session_state:  # Compare is on screen
        here.pending |= dict(zip((A_KEY, B_KEY), here.compared, strict=True))


def hold_link(shown: Run | None) -> Pair:
    """Draw the hidden fields that bind the pair to the link; return what they say.

    The pair shown last is still there when somebody comes back from another page, unless the run
    shown belongs to neither side by then.

    Args:
        shown: The run that the other pages show; one side of the pair where nothing else was said.
    """
    here = session()
    own = here.compared
    is_about_shown = shown is None or (own is not None and settings_to_text(shown.settings) in own)
    if own is None or not is_about_shown:
        own = _texts(usual_pair(shown))
    keys = dict(zip((A_KEY, B_KEY), own, strict=True))
    missing = [key for key in keys if key not in st.session_state and key not in st.query_params]
    for key in missing:
        # Both, before the field is drawn: what a field begins with does not reach the address line.
        st.session_state[key] = st.query_params[key] = keys[key]
    with st.container(key="link_state_compare"):
        texts = [
            st.text_input(f"{label} run in the link", key=key, bind="query-params")
            for key, label in ((A_KEY, "First"), (B_KEY, "Second"))
        ]
    read = [
        linked_settings(text) or linked_settings(usual, is_told=False) or service.first_settings()
        for text, usual in zip(texts, own, strict=True)
    ]
    here.compared = _texts((read[0], read[1]))
    return read[0], read[1]


def _texts(pair: Pair) -> tuple[str, str]:
    return settings_to_text(pair[0]), settings_to_text(pair[1])


def known_runs() -> Mapping[str, RunSummary]:
    """Return every run that can be shown at once by its id: those computed here, then stored."""
    models = service.model_names()
    computed = [run for run in store().recent()[0] if run.settings.model_name in models]
    found = {run.id: run for run in computed}
    for run in service.stored_summaries():
        found.setdefault(run.id, run)
    return found


def usual_pair(shown: Run | None) -> Pair:
    """Return the pair to begin with: the run before and this one, a story's, or two of a model."""
    settings = run_state.wanted_settings() if shown is None else shown.settings
    before = settings_shown_before(settings)
    if before is not None:
        return before, settings
    story = story_of(settings.run_id)
    if story is not None:
        return story.broken, story.repaired
    for run in known_runs().values():
        if run.settings.model_name == settings.model_name and run.id != settings.run_id:
            return settings, run.settings
    others = (replace(settings, recipe=preset) for preset in PRESETS.values())
    return settings, next(other for other in others if other.run_id != settings.run_id)


def settings_shown_before(settings: Settings) -> Settings | None:
    """Return the known run of the same model that was shown before these settings, or None."""
    before = session().shown_before
    if before is None or before.run_id == settings.run_id:
        return None
    is_same_model = before.model_name == settings.model_name
    return before if is_same_model and run_state.find_run(before) is not None else None


def offered_pair() -> tuple[Run, Run] | None:
    """Return a re-run that is shown by now, after the run it followed; None once it was compared.

    Where another run is shown, or Compare has had the pair, the offer is taken back.
    """
    here = session()
    if here.rerun is None:
        return None
    is_compared = here.compared == _texts(here.rerun)
    is_left = run_state.wanted_settings().run_id != here.rerun[1].run_id
    if here.rerun[0].run_id == here.rerun[1].run_id or is_compared or is_left:
        drop_offer()
        return None
    before, after = map(run_state.find_run, here.rerun)
    if before is None or after is None or after.report.is_partial:
        return None
    return before, after


def drop_offer() -> None:
    """Offer the comparison with the run before no more; for callbacks."""
    session().rerun = None


def swap() -> None:
    """Let A be B and B be A; for callbacks."""
    a, b = st.session_state[A_KEY], st.session_state[B_KEY]
    st.session_state[A_KEY], st.session_state[B_KEY] = b, a
