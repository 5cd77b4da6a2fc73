"""Results that could not be written to disk: said once for each, with what to do."""

from __future__ import annotations

import streamlit as st

from dashboard.session.jobs import store
from dashboard.session.notices import add_notice, drop_notices
from dashboard.session.predictions import predictions


def note_unsaved() -> None:
    """Add a notice for a run or prediction that was not saved since this session last looked.

    It goes away when something of its kind could be saved again.
    """
    for kind, kept in (("run", store()), ("prediction", predictions())):
        topic = f"unsaved {kind}"
        if kept.problem is None:
            drop_notices(topic)
        elif kept.unsaved > st.session_state.get(topic, 0):
            add_notice(kept.problem, "error", topic=topic)
        st.session_state[topic] = kept.unsaved
