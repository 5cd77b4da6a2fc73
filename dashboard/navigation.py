"""What runs for every visitor: page settings and navigation, nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path

import streamlit as st

from dashboard.session.pages import PAGES, page_file
from dashboard.session.state import SHOW_KEY
from dashboard.widgets.lesson_links import register_lessons
from dashboard.widgets.shell import show_bare_shell, show_draft, show_shell
from dashboard.widgets.slides import show_slide_bar

# A file: an icon by name would be fetched from another machine.
ICON = Path(__file__).with_name("assets") / "icon.svg"

st.set_page_config(page_title="Int8 quantization", page_icon=ICON, layout="wide")

pages = [
    st.Page(
        page_file(name),
        title=title,
        icon=icon,
        default=title == "Start",
        url_path="size-time" if title == "Size & time" else None,
    )
    for name, (title, icon) in PAGES.items()
]
# By name, as the pages are: nothing imports a page.
register_lessons(importlib.import_module("dashboard.views.learn.catalogue").lesson_terms())
LEARN = list(PAGES).index("learn")
is_bare = SHOW_KEY in st.query_params  # a link that a teacher hands out
page = st.navigation(pages, position="hidden" if is_bare else "sidebar")
index = pages.index(page)
if is_bare and index == LEARN:
    show_bare_shell()
    page.run()
elif is_bare:
    del st.query_params[SHOW_KEY]  # a word of Learn alone
    st.rerun()
else:
    place = show_shell()
    show_slide_bar([*map(page_file, PAGES)], index)
    page.run()
    show_draft(place)
