"""What the figures of a page were judged by, in one line, wherever a run or prediction is shown."""

from __future__ import annotations

import streamlit as st

from dashboard.words.judging import judged_text
from dashboard.words.markdown import escape_markdown
from quant_engine.report import ModelReport, ResponseReport, SensitivityReport


def show_judged(*reports: ModelReport | SensitivityReport | ResponseReport, lead: str = "") -> None:
    """Draw which outputs are judged, as what, by which metric and on which samples.

    Args:
        reports: What the page is about; reports that were judged alike are named once.
        lead: What stands in front of it in the same line.
    """
    st.caption(f"{lead} {judged_markdown(*reports)}".strip())


def judged_markdown(*reports: ModelReport | SensitivityReport | ResponseReport) -> str:
    """Return the same as text, for a line that is there anyway."""
    return escape_markdown(" ".join(dict.fromkeys(map(judged_text, reports))))
