"""What runs for every visitor: page settings and navigation, nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path

import streamlit as st

from dashboard.session.state import SHOW_KEY
from dashboard.widgets.lesson_links import register_lessons
from dashboard.widgets.shell import show_bare_shell, show_draft, show_shell
from dashboard.widgets.slides import show_slide_bar

# A file: an icon by name would be fetched from another machine.
ICON = Path(__file__).with_name("assets") / "icon.svg"

st.set_page_config(page_title="Int8 quantization", page_icon=ICON, layout="wide")

PAGES = {
    "views/start/start.py": ("Start", ":material/home:"),
    "views/experiment/experiment.py": ("Experiment", ":material/science:"),
    "views/sensitivity/sensitivity.py": ("Sensitivity", ":material/leaderboard:"),
    "views/what_if/what_if.py": ("What if", ":material/tune:"),
    "views/layer/layer.py": ("Layer", ":material/layers:"),
    "views/compare/compare.py": ("Compare", ":material/compare_arrows:"),
    "views/size_time/size_time.py": ("Size & time", ":material/speed:"),
    "views/learn/learn.py": ("Learn", ":material/school:"),
}
pages = [
    st.Page(
        file,
        title=title,
        icon=icon,
        default=title == "Start",
        url_path="size-time" if title == "Size & time" else None,
    )
    for file, (title, icon) in PAGES.items()
]
# By name, as the pages are: nothing imports a page.
register_lessons(importlib.import_module("dashboard.views.learn.catalogue").lesson_terms())
LEARN = list(PAGES).index("views/learn/learn.py")
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
    show_slide_bar(list(PAGES), index)
    page.run()
    show_draft(place)
