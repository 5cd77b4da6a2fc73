"""What differs between the two runs: settings, then how they came out."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.compare.differences import outcomes, setting_differences
from dashboard.widgets.guard import contained
from dashboard.widgets.judged import show_judged
from dashboard.widgets.lesson_links import show_number_lessons
from dashboard.words.markdown import escape_markdown

_MARKS = {
    "better": ":green[:material/check_circle:] ",
    "worse": ":red[:material/error:] ",
    "none": ":gray[:material/remove:] ",
    "unknown": "",
}


@contained("The settings")
def show_settings(a: Settings, b: Settings) -> None:
    """Draw the settings that differ, also of runs that nobody has computed."""
    settings = setting_differences(a, b)
    st.subheader("Settings that differ", anchor=False)
    if settings:
        _show_table(("Setting", "A", "B"), [(x.name, x.a, x.b) for x in settings])
    else:
        st.caption("None: A and B are the same run.")


@contained("What differs")
def show_outcome(a: Run, b: Run) -> None:
    """Draw every result that both runs have, B against A."""
    st.subheader("How they came out", anchor=False)
    for side, run in (("A", a), ("B", b)):
        if run.report.is_partial:
            text = f"{side} was stopped early: its figures cover what was done until then."
            st.warning(text, icon=":material/hourglass_bottom:")
    if a.model_name != b.model_name:
        st.info(
            "Two models: right answers and bytes are compared as they stand. Degradation is "
            "measured from each model's own float answers, and layers are compared only where "
            "name, type and shape agree.",
            icon=":material/info:",
        )
    show_judged(a.report, b.report)
    found = outcomes(a, b)
    rows = [(x.name, x.a, x.b, f"{_MARKS[x.verdict]}{escape_markdown(x.change)}") for x in found]
    _show_table(("Result", "A", "B", "B against A"), rows)
    show_number_lessons(
        "In brackets: 95 % intervals of shares, of the difference on the same samples, and of the "
        "degradation; of times the middle half of the runs.",
        key="compare_outcome",
        labels=", ".join(one.name for one in found),
    )


def _show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # A fourth cell is Markdown already.
    cells = [heads, ["---"] * len(heads)]
    cells += [[*map(escape_markdown, row[:3]), *row[3:]] for row in rows]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in cells))
