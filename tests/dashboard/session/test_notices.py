from __future__ import annotations

import streamlit as st

from dashboard.session.notices import add_notice, drop_notices
from dashboard.session.state import session


def test_endless_words_of_a_link_do_not_flood_the_page() -> None:
    st.session_state.clear()
    add_notice(f"No layer is called '{'x' * 3000}'. Valid: conv1, layer1.0.conv1.")
    [notice] = session().notices
    assert len(notice.text) < 200
    assert notice.text.startswith("No layer is called 'xxx")
    assert notice.text.endswith("… Valid: conv1, layer1.0.conv1.")
    st.session_state.clear()


def test_a_link_wrong_in_many_places_hears_about_each() -> None:
    st.session_state.clear()
    for number in range(10):
        add_notice(f"Part {number} of the link was not understood.")
    assert len(session().notices) == 10
    st.session_state.clear()


def test_the_latest_word_on_a_topic_replaces_the_one_before_until_it_is_taken_back() -> None:
    st.session_state.clear()
    drop_notices("budget")  # nothing was said yet
    add_notice("About something else.")
    add_notice("10 kB are too few.", topic="budget")
    add_notice("20 kB are too few.", topic="budget")
    texts = [notice.text for notice in session().notices]
    assert texts == ["About something else.", "20 kB are too few."]
    drop_notices("budget")
    assert [notice.text for notice in session().notices] == ["About something else."]
    st.session_state.clear()
