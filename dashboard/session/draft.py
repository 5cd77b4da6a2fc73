"""The settings that somebody is choosing, before they are run.

The draft begins as what was asked for last, and begins again whenever something else is asked for
(a link, a stored result, "exclude these and re-run"). Its version is part of the form's widget
keys, so that a new beginning also resets the widgets.
"""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.data.link_words import LayerBits, own_bits
from dashboard.data.settings import Settings, settings_to_text
from dashboard.session import run_state
from dashboard.session.link_check import linked_settings
from dashboard.session.state import DRAFT_KEY, session
from quant_engine.scheme import LayerScheme, Overrides, Recipe

MODEL_WIDGET = "model"
"""The form's first widget, by its key without the version."""


def current_draft() -> Settings:
    """Return the draft, begun again if something else was asked for since."""
    here, wanted = session(), run_state.wanted_settings()
    if here.draft is None or here.draft_base_id != wanted.run_id:
        here.draft_base_id = wanted.run_id
        if here.draft != wanted:
            set_draft(wanted)
    return here.draft or wanted


def set_draft(settings: Settings) -> None:
    """Begin a draft with these settings; the form's widgets follow."""
    here = session()
    here.draft = here.draft_start = settings
    here.draft_version += 1


def follow_draft_link() -> None:
    """Begin with the draft that a link names; before the form of a page is drawn."""
    here, text = session(), st.query_params.get(DRAFT_KEY, "")
    if here.is_draft_link_read or not text:
        return
    here.is_draft_link_read = True
    settings = linked_settings(text)
    if settings is not None:
        here.draft_base_id = run_state.wanted_settings().run_id
        set_draft(settings)


def write_draft_link(settings: Settings) -> None:
    """Draw the hidden field that holds what the form says in the link, where it was not run."""
    session().is_draft_link_read = True
    is_run = settings.run_id == run_state.wanted_settings().run_id
    st.session_state[DRAFT_KEY] = "" if is_run else settings_to_text(settings)
    with st.container(key="link_state_draft"):
        st.text_input("Settings in the link", key=DRAFT_KEY, bind="query-params")


def draft_start() -> Settings:
    """Return what the form's widgets begin with; it stays the same while they are changed.

    Where they are gone, because another page was shown in between, the form begins with the draft
    as it is.
    """
    here = session()
    if here.draft_start is None or versioned(MODEL_WIDGET) not in st.session_state:
        here.draft_start = current_draft()
    return here.draft_start


def versioned(name: str) -> str:
    """Return the key of a form widget; it changes whenever the form begins again."""
    return f"draft_{name}_{session().draft_version}"


def with_layer_bits(recipe: Recipe, bits: dict[str, LayerBits], base: Recipe) -> Recipe:
    """Return the recipe in which the layers of `bits` have their own bits.

    Args:
        recipe: Gets the overrides.
        bits: Own bits by layer.
        base: Where overrides of `recipe` come from that are more than bits; those stay.
    """
    plain = LayerScheme(recipe.weight, recipe.activation)
    kept = {
        name: scheme
        for name, scheme in base.overrides.items()
        if own_bits(scheme, base) is None and name not in bits
    }
    own = {name: plain.with_bits(*pair) for name, pair in bits.items()}
    changed = {name: scheme for name, scheme in own.items() if scheme != plain}
    return replace(recipe, overrides=Overrides({**kept, **changed}))
