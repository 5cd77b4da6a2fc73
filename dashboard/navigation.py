"""What runs for every visitor: page settings and navigation, nothing else."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.components.shell import show_draft, show_shell

# A file: an icon by name would be fetched from another machine.
ICON = Path(__file__).with_name("assets") / "icon.svg"

st.set_page_config(page_title="Int8 quantization", page_icon=ICON, layout="wide")

page = st.navigation(
    [
        st.Page("views/start.py", title="Start", icon=":material/home:", default=True),
        st.Page("views/experiment.py", title="Experiment", icon=":material/science:"),
        st.Page("views/sensitivity.py", title="Sensitivity", icon=":material/leaderboard:"),
        st.Page("views/what_if.py", title="What if", icon=":material/tune:"),
        st.Page("views/layer.py", title="Layer", icon=":material/layers:"),
        st.Page(
            "views/size_time.py",
            title="Size & time",
            icon=":material/speed:",
            url_path="size-time",
        ),
    ]
)
place = show_shell()
page.run()
show_draft(place)
