"""Size & time: where the bytes go, and what was timed."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.cost.size import reduction_text
from dashboard.figures.cost.size import layer_size_picture, model_size_picture
from dashboard.session import run_state
from dashboard.views.size_time.timing import is_on_its_way, show_timing
from dashboard.widgets.chart import show_figure, show_layer_figure
from dashboard.widgets.choice import choose, choose_top
from dashboard.widgets.guard import contained
from dashboard.widgets.lesson_links import show_number_lessons
from dashboard.widgets.number import show_number
from dashboard.words.formatting import format_bytes, format_number, plural
from dashboard.words.recipes import CODE_BITS, CODE_BITS_ABOUT, SCALED_BITS, SCALED_BITS_ABOUT
from dashboard.work import service
from quant_engine.report import SizeReport

LARGEST_FIRST, AS_THEY_RUN = "Largest first", "As they run"


@contained("The headline")
def _show_headline(size: SizeReport, given_bytes: int) -> None:
    folded = ", BatchNorm folded" if size.float_bytes != given_bytes else ""
    numbers: tuple[tuple[str, str, str | None, str], ...] = (
        (
            "Quantized model",
            format_bytes(size.quantized_bytes),
            reduction_text(size),
            "All parameters and buffers, counted. 1 kB is 1,000 bytes, 1 MB is 1,000,000 bytes.",
        ),
        (
            f"Float model{folded}",
            format_bytes(size.float_bytes),
            None,
            f"As given it has {format_bytes(given_bytes)}.",
        ),
        (CODE_BITS, format_number(size.weight_bits), None, CODE_BITS_ABOUT),
        (SCALED_BITS, format_number(size.effective_bits), None, SCALED_BITS_ABOUT),
        (
            "Quantized file, measured",
            format_bytes(size.quantized_file_bytes),
            f"float file {format_bytes(size.float_file_bytes)}",
            "Length of the model written as a safetensors file, whose header lists every tensor's "
            "name, type and shape: that is what it has more than the counted bytes.",
        ),
    )
    with st.container(horizontal=True, gap="medium", key="size_headline"):
        for number in numbers:
            show_number(*number, width="content")
    show_number_lessons("", key="size", labels=f"Model size, {SCALED_BITS_ABOUT}")


@contained("The bytes of the model")
def _show_model_size(run: Run) -> None:
    show_figure(model_size_picture(run.report), key="size_steps", stem=run.model_name)


def _choose_rows() -> tuple[int | None, str]:
    """How many layers the figures show, and in which order the bytes stand."""
    about = "The largest ones, the rest added up in one row; and below, those whose time changes "
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        top = choose_top("rows", "10", f"{about}the most.")
        return top, choose("Order", [LARGEST_FIRST, AS_THEY_RUN], "order")


@contained("The bytes of the layers")
def _show_layer_sizes(run: Run, top: int | None, order: str) -> None:
    selected, is_sorted = run_state.selected_layer(run.report), order != AS_THEY_RUN
    layers = run.report.layers
    picture = layer_size_picture(layers, top=top, is_sorted=is_sorted, selected=selected)
    show_layer_figure(picture, "size_layers", run.model_name)


st.title("Size & time", anchor=False)
st.caption("Where the bytes of the model are, before and after, and how long it takes to run.")
shown = run_state.require_run()
report = shown.report
if is_on_its_way(shown) and report.is_partial:
    text = f"Not finished yet: {plural(len(report.layers), 'layer')} known so far."
    st.info(text, icon=":material/hourglass_top:")
elif report.is_partial:
    st.warning(
        f"Stopped early: {plural(len(report.layers), 'layer')} known; what was not reached is "
        "missing below.",
        icon=":material/hourglass_bottom:",
    )
if report.size is None:
    st.info(
        "The size of the whole model is not known yet: it is measured once every layer is "
        "quantized. The layers below are complete as far as they go.",
        icon=":material/data_usage:",
    )
else:
    _show_headline(report.size, service.model_info(shown.model_name).float_bytes)
    _show_model_size(shown)
top, order = _choose_rows()
_show_layer_sizes(shown, top, order)
show_timing(shown, top)
