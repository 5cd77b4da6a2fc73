"""Words in a link that a page does not know: said once, instead of dropped in silence."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.data.link_words import shorten
from dashboard.data.settings import Settings, settings_from_text
from dashboard.session.notices import add_notice
from dashboard.session.state import session
from dashboard.work import service


def linked_settings(text: str, *, is_told: bool = True) -> Settings | None:
    """Return the settings that a link holds, None without any; say what made no sense in it."""
    settings, notices = settings_from_text(text, service.model_names(), service.layer_names)
    for notice in notices if is_told else ():
        add_notice(notice)
    return settings


def check_link_word(key: str, valid: Sequence[str], *, allowed: str = "") -> None:
    """Add a notice if the link gives `key` values that its widget does not offer.

    Call it before the widget is drawn: Streamlit removes what it cannot use from the link.

    Args:
        key: Key of the widget, and of the link.
        valid: Values the widget takes, as they stand in a link.
        allowed: What to call them in the notice; all of them listed if not given.
    """
    checked = session().checked_link_words
    values = dict.fromkeys(st.query_params.get_all(key))
    unknown = [value for value in values if value not in valid and (key, value) not in checked]
    if not unknown:
        return
    checked.update((key, value) for value in unknown)
    is_all = all(value not in valid for value in values)
    add_notice(
        f"The link's {key} is “{shorten(' '.join(unknown))}”. "
        f"Allowed: {allowed or ', '.join(valid)}. "
        + ("Using the usual choice." if is_all else "Left out.")
    )
    st.rerun()
