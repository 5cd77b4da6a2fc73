"""A pair of runs on a page: what differs, why, where, and digits whose answer flipped."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboard.data.runs import Run
from dashboard.figures.compare.pair import Flipped, Pair, Side
from dashboard.session import run_state
from dashboard.session.comparison import compare_with
from dashboard.widgets.chart import show_figure, show_layer_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.slides import is_on_screen, is_presenting
from dashboard.words.markdown import escape_markdown
from dashboard.work import service

DIGIT = 82
"""Width of a digit and its two answers, in pixels; twice that in presenter mode."""
_TONES = {
    "broken": ("red", ":material/error:"),
    "repaired": ("green", ":material/check_circle:"),
    "before": ("gray", ":material/history:"),
    "after": ("blue", ":material/science:"),
}


def show_pair(found: Pair, run_a: Run, run_b: Run, *, key: str, is_whole: bool = False) -> None:
    """Draw a pair; a click on a layer selects it, a button opens one of the runs.

    In presenter mode the two sides and the digits are the first slide, and each figure is one more.

    Args:
        found: What the two runs say.
        run_a: The first.
        run_b: The second.
        key: Name of the section, unique on its page.
        is_whole: Whether the rest of the comparison stands on the same page.
    """
    if is_on_screen(f"{key}_sides"):
        with st.container(key=f"figure_{key}_sides"):
            with st.grid(2, min_column_width=380, gap="small", key=f"{key}_sides"):
                _show_side(found.a, run_a, key)
                is_offered = not is_presenting() and not is_whole
                _show_side(found.b, run_b, key, compared=run_a if is_offered else None)
            if is_presenting():
                _show_flipped(found, run_a, key)
    with st.container(horizontal=True, gap="medium", key=f"{key}_why"):
        with st.container(width="stretch" if is_presenting() else 660):
            _show_cause(found, run_a, key)
        if not is_presenting():
            with st.container(width=352):
                _show_flipped(found, run_a, key)
    show_layer_figure(found.errors, f"{key}_errors", run_a.model_name)


@contained("The cause")
def _show_cause(found: Pair, run_a: Run, key: str) -> None:
    if found.cause is not None:
        show_figure(found.cause, key=f"{key}_cause", stem=run_a.model_name)


def _show_side(side: Side, run: Run, key: str, *, compared: Run | None = None) -> None:
    color, icon = _TONES.get(side.label, ("blue", ":material/science:"))
    with (
        st.container(border=True, gap="xsmall", height="stretch"),
        st.container(
            horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
        ),
    ):
        with st.container(gap="xsmall", width="stretch"):
            st.badge(side.label.capitalize(), icon=icon, color=color)  # type: ignore[arg-type]
            st.markdown(escape_markdown(side.sentence))
            if side.cost:
                st.caption(escape_markdown(side.cost))
        shown = run_state.shown_run()
        is_shown = shown is not None and shown.id == run.id
        with st.container(gap="xsmall", width="content"):
            st.button(
                "Shown now" if is_shown else "Open this run",
                key=f"{key}_open_{side.label}",
                disabled=is_shown,
                icon=":material/check:" if is_shown else ":material/visibility:",
                on_click=run_state.start_settings,
                args=(run.settings,),
                help=side.recipe,
            )
            if compared is not None:
                st.button(
                    "Compare everything",
                    key=f"{key}_compare",
                    type="tertiary",
                    icon=":material/compare_arrows:",
                    help="Settings, results, layers and the selected layer of both, on the "
                    "Compare page.",
                    on_click=compare_with,
                    args=(compared.settings, run.settings),
                )


@contained("The digits")
def _show_flipped(found: Pair, run: Run, key: str) -> None:
    lead = f"**{escape_markdown(found.difference)}** " if found.difference else ""
    st.markdown(lead + escape_markdown(found.flipped_text))
    if not found.flipped:
        return
    images = service.sample_images(run.model_name)
    with st.container(horizontal=True, gap="xsmall", key=f"{key}_flipped"):
        for sample in found.flipped:
            with st.container(gap=None, width=DIGIT * (2 if is_presenting() else 1)):
                st.image(
                    enlarged(images[sample.index]),
                    width=(DIGIT - 22) * (2 if is_presenting() else 1),
                    output_format="PNG",
                    alt=f"Test sample {sample.index}: {found.a.label} says {sample.a}, "
                    f"{found.b.label} says {sample.b}",
                )
                sides = ((found.a.label, sample.a), (found.b.label, sample.b))
                st.markdown("  \n".join(_answer(*side, sample) for side in sides))


def _answer(label: str, answer: int, sample: Flipped) -> str:
    """One run's answer: green and ticked where it is right, else red."""
    is_right = answer == sample.right
    color, tick = ("green", " ✓") if is_right else ("red", "")
    return f":small[:{color}[{escape_markdown(label)} **{answer}**{tick}]]"


def enlarged(image: service.IntImages, factor: int = 11) -> service.IntImages:
    """Return an image with each pixel as a square, dark on white, uint8."""
    grey = (255 - image).astype(np.uint8)
    return np.kron(grey, np.ones((factor, factor), dtype=np.uint8))
