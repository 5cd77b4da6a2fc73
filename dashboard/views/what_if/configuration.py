"""The configuration that somebody tries on the What-if page, and its place in the link.

The link holds one letter per layer in its key `whatif`; nothing stands there while the
configuration is that of the run shown. The field behind it is the one truth: rows, presets and
chart points all write into it.
"""

from __future__ import annotations

import streamlit as st

from dashboard.data.link_words import shorten
from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.session import run_state
from dashboard.session.link_widgets import open_next, set_widget
from dashboard.session.notices import add_notice
from dashboard.session.state import WHAT_IF_KEY, session


def use_settings(settings: Settings) -> None:
    """Analyse these settings, and open Experiment; for callbacks."""
    run_state.start_settings(settings)
    open_next("views/experiment/experiment.py")


def hold_link(run: Run) -> str:
    """Draw the hidden field that binds the configuration to the link; return what it says.

    A configuration belongs to its run: with another run the page begins with that run's own. It is
    still there when somebody comes back from another page.
    """
    here = session()
    if here.what_if_run not in (None, run.id):
        st.session_state[WHAT_IF_KEY] = ""
    elif WHAT_IF_KEY not in st.session_state and WHAT_IF_KEY not in st.query_params:
        st.session_state[WHAT_IF_KEY] = here.what_if_text
    elif st.session_state.get(WHAT_IF_KEY) == "" and WHAT_IF_KEY in st.query_params:
        # A correction made while a session begins does not reach the address line by itself.
        st.session_state[WHAT_IF_KEY] = ""
    with st.container(key="link_state_what_if"):
        text = st.text_input("Configuration in the link", key=WHAT_IF_KEY, bind="query-params")
    here.what_if_run, here.what_if_text = run.id, text
    return text


def current_configuration(run: Run, prediction: Prediction, text: str) -> dict[str, str]:
    """Return what the link says; the run's own configuration where it says nothing sensible."""
    own, _ = prediction.configuration_of(run.recipe)
    if not text:
        return own
    configuration = prediction.from_text(text)
    if configuration is not None:
        return configuration
    letters = ", ".join(prediction.letters.values())
    add_notice(
        f"The link's whatif is “{shorten(text)}”. Allowed: one of {letters} for each of the "
        f"{len(prediction.response.layers)} layers. Showing the run's own configuration."
    )
    set_widget(WHAT_IF_KEY, "")  # draws the page again
    return own


def try_configuration(run: Run, prediction: Prediction, configuration: Configuration) -> None:
    """Make this the configuration that the page shows."""
    try_text(run, prediction, prediction.to_text(configuration))


def try_text(run: Run, prediction: Prediction, text: str) -> None:
    """Make this the configuration that the page shows; text that fits no model is ignored."""
    if prediction.from_text(text) is None:
        return
    own = prediction.to_text(prediction.configuration_of(run.recipe)[0])
    set_widget(WHAT_IF_KEY, "" if text == own else text)


def change_layer(run: Run, prediction: Prediction, layer: str, option: str) -> None:
    """Give one layer another option, and make it the layer selected on every page."""
    own, _ = prediction.configuration_of(run.recipe)
    present = prediction.from_text(st.session_state.get(WHAT_IF_KEY, "")) or own
    try_configuration(run, prediction, {**present, layer: option})
    run_state.select_layer(layer)
