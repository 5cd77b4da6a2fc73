"""Everything about one weight or input, one figure a tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from dashboard.export import tables
from dashboard.facts.causes import outlier_channels
from dashboard.facts.layers import error_rows, grid_rows
from dashboard.facts.tensors import (
    best_choice,
    channel_sqnrs,
    channels_of,
    median_sqnr,
    observer_name,
    why_no_choice,
    worst_channels,
)
from dashboard.facts.verdicts import better_range, cause, code_use, weak_channel, without_tick
from dashboard.figures.tensor.cause import channel_panels, input_side
from dashboard.figures.tensor.channels import channel_ranges, worst_channel_bars
from dashboard.figures.tensor.codes import code_usage, describe_codes
from dashboard.figures.tensor.distributions import lsb_histogram, value_histogram
from dashboard.figures.tensor.range_choices import range_choices
from dashboard.figures.tensor.worked_example import STEP_NAMES, worked_number_line, worked_steps
from dashboard.views.layer.actions import show_rule_change
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.verdict_list import show_verdicts
from dashboard.words.formatting import format_db, format_number, format_percent, plural
from dashboard.words.recipes import describe_batches
from quant_engine.report import LayerReport, ModelReport, TensorReport, WorkedExample


@dataclass(frozen=True, slots=True)
class TensorView:
    """What a tab needs to draw.

    Attributes:
        report: The whole report.
        layer: The layer.
        part: "weight" or "input".
        tensor: The weight's or input's report.
        subject: "Weights" or "Inputs".
        is_log: Whether counts stand on a logarithmic axis.
    """

    report: ModelReport
    layer: LayerReport
    part: str
    tensor: TensorReport
    subject: str
    is_log: bool

    def file_name(self, what: str) -> str:
        """Return the name of a download."""
        return f"{self.report.model_name}-{self.layer.name}-{self.part}-{what}"


@contained("The values")
def show_values(view: TensorView) -> None:
    """Draw the values before and after."""
    tensor = view.tensor
    show_figure(
        value_histogram(tensor, view.subject, is_log=view.is_log),
        key="layer_values",
        alt=f"{view.subject} from {format_number(tensor.lo)} to {format_number(tensor.hi)}; "
        f"{format_percent(tensor.error.clipped_fraction)} lie beyond the grid"
        f"{' of their batch' if tensor.is_dynamic else ''}.",
        about="\n\n".join(
            (
                "Wide blue bars count the float values, narrow orange bars what they became, on "
                "the same bins.",
                _ends_of_values(tensor),
                "If blue is spread out and orange sits on a few spikes, the grid is too coarse.",
            )
        ),
        data=lambda: tables.value_table(tensor),
        file_name=view.file_name("values"),
    )


def _ends_of_values(tensor: TensorReport) -> str:
    if tensor.is_dynamic:
        return (
            "Every batch has a grid of its own, so no line can show where it ends. The bins span "
            "what the calibration saw; bars apart at the side are values beyond that, which the "
            "range of their batch holds all the same. Steps differ from batch to batch, so a bin "
            "may catch one code more than its neighbour: small teeth in orange are no error."
        )
    if len(tensor.scale) == 1:
        return "Bars apart at the side are values beyond the grid: they are clipped to its end."
    return (
        "Every channel has a grid of its own, so no line can show where it ends; bars apart at "
        "the side are values beyond the outermost bins."
    )


@contained("The errors")
def show_error(view: TensorView) -> None:
    """Draw the error in LSB."""
    tensor = view.tensor
    own = " of its own batch" if tensor.is_dynamic else ""
    show_verdicts((without_tick(cause(tensor, view.subject), view.layer),))
    show_figure(
        lsb_histogram(tensor, view.subject, is_log=view.is_log),
        key="layer_lsb",
        alt=f"Error of the {view.subject.lower()}: RMS "
        f"{format_number(tensor.error.rmse_over_scale)} LSB, "
        f"{format_percent(tensor.error.clipped_fraction)} clipped.",
        about="\n\n".join(
            (
                f"How far each value moved, in steps of the grid{own} (LSB), so every layer can be "
                "read on the same axis.",
                "The dashed box is ideal rounding: even between −0.5 and 0.5. A spike at 0 means "
                "values that were on the grid already.",
                "Red beyond ±0.5 is clipping: the value was outside the grid's range.",
            )
        ),
        data=lambda: tables.lsb_table(tensor),
        file_name=view.file_name("lsb-error"),
    )


@contained("The channels")
def show_channels(view: TensorView) -> None:
    """Draw the ranges of all channels and the ten worst."""
    tensor = view.tensor
    channels = channels_of(tensor)
    if not channels and view.layer.input_channels is not None:
        _show_input_channels(view)
        return
    if not channels:
        st.info(
            "Inputs have one scale for all channels: a scale that differs between input channels "
            "could not be taken out of the integer sum.",
            icon=":material/info:",
        )
        return
    show_verdicts((without_tick(weak_channel(tensor, view.subject), view.layer),))
    worst = worst_channels(tensor, 1)
    middle = format_db(median_sqnr(tensor))
    takeaway = (
        f"{plural(len(channels), 'channel')}, median SQNR {middle}; the lowest is channel "
        f"{worst[0].index} at {format_db(worst[0].sqnr_db)}."
        if worst
        else f"All {plural(len(channels), 'channel')} are exact."
    )
    show_figure(
        channel_ranges(tensor),
        key="layer_channels",
        alt=takeaway,
        about="\n\n".join(
            (
                "Above: from the smallest to the largest weight of each output channel, the "
                "widest channel first. Dashed orange is what the grid can hold.",
                "Below: the SQNR of the same channels; the dotted line is their median.",
                "Narrow channels far inside the dashed lines use few codes. One scale for each "
                "channel gives them their own grid.",
            )
        ),
        data=lambda: tables.channel_table(tensor),
        file_name=view.file_name("channels"),
    )
    show_figure(
        worst_channel_bars(tensor),
        key="layer_worst_channels",
        alt=takeaway,
        about="\n\n".join(
            (
                "The ten channels with the lowest SQNR; left their range, right their SQNR.",
                "The dotted line is the median of all channels.",
                "If one channel is far below it, look at its range: it shares a scale with "
                "channels that are much wider.",
            )
        ),
        data=lambda: tables.channel_table(tensor).nsmallest(10, "sqnr_db"),
        file_name=view.file_name("worst-channels"),
    )


def _show_input_channels(view: TensorView) -> None:
    """Draw how far every input channel reaches, whatever the scale, against half a step."""
    side, outliers = input_side(view.layer), outlier_channels(view.layer)
    name = "No input channel stands out" if outliers is None else outliers.sentence
    text = f"{name[:1].upper()}{name[1:]}; {side.words}."
    title = f"Largest input of each input channel of {view.layer.name}, and half a step of the grid"
    show_figure(
        channel_panels(title, [side], ("Inputs",), "input channel", "Largest |input|"),
        key="layer_input_channels",
        alt=text,
        about="One mark per input channel, the largest first, on a logarithmic axis.\n\n"
        "All input channels share one scale: one that differs between them could not be taken out "
        "of the integer sum. Dashed is half a step of it.\n\n"
        "A channel near or below the dashed line is hardly more than 0 after rounding.",
        data=lambda: tables.input_channel_table(view.layer),
        file_name=view.file_name("channels"),
    )


@contained("The codes")
def show_codes(view: TensorView) -> None:
    """Draw how often each code occurs."""
    show_verdicts((without_tick(code_use(view.tensor, view.subject), view.layer),))
    show_figure(
        code_usage(view.tensor, view.subject, is_log=view.is_log),
        key="layer_codes",
        alt=describe_codes(view.tensor),
        about="\n\n".join(
            (
                "One bar for each integer the grid has. Empty stretches are codes that nothing "
                "uses: bits paid for and wasted.",
                *_ends_of_codes(view.tensor),
            )
        ),
        data=lambda: tables.code_table(view.tensor),
        file_name=view.file_name("codes"),
    )


def _ends_of_codes(tensor: TensorReport) -> tuple[str, str]:
    if tensor.is_dynamic:
        return (
            "Codes of all batches together: in each the same code stands for another value. The "
            "extreme values of a batch have the end codes.",
            "Dotted: the zero point, the code that stands for exactly 0, or the smallest and the "
            "largest that a batch had.",
        )
    return (
        "The bars at both ends also hold every clipped value.",
        "The dotted line is the zero point, the code that stands for exactly 0.",
    )


@contained("The ranges")
def show_ranges(view: TensorView) -> None:
    """Draw what every range estimator would choose."""
    tensor = view.tensor
    if tensor.is_dynamic:
        st.info(why_no_choice(tensor), icon=":material/info:")
        show_rule_change(view.layer, view.report, view.part)
        return
    show_verdicts((without_tick(better_range(tensor, view.subject), view.layer),))
    best = best_choice(tensor.range_choices)
    takeaway = (
        "The range estimators are compared only where one range serves the whole tensor."
        if best is None
        else f"Best estimate: {observer_name(best.observer)} with {format_db(best.sqnr_db)}; in "
        f"use: {observer_name(tensor.scheme.observer)}."
    )
    if (by_channel := channel_sqnrs(tensor)) is not None:
        own, promised = map(format_db, by_channel)
        takeaway += f" One scale per channel: {promised} instead of {own}, each channel alike."
    show_figure(
        range_choices(tensor, view.subject),
        key="layer_ranges",
        alt=takeaway,
        about="\n\n".join(
            (
                "Each range estimator looks at the same histogram and chooses a range. Dotted "
                "lines are the "
                "smallest and the largest value seen.",
                "A wide range clips nothing but makes the steps large; a narrow one makes small "
                "steps and clips. SQNR weighs both.",
                "The SQNR here is estimated from the calibration data; re-run to measure it.",
            )
        ),
        data=lambda: tables.range_table(tensor),
        file_name=view.file_name("ranges"),
    )
    show_rule_change(view.layer, view.report, view.part)


@contained("The worked example")
def show_example(view: TensorView) -> None:
    """Work one element through the arithmetic: pick it, and step through."""
    tensor = view.tensor
    examples = tensor.examples or (tensor.example,)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Element",
            range(len(examples)),
            format_func=lambda i: _element_text(examples[i]),
            key=f"element_{view.layer.name}_{view.part}",
            width=340,
        )
        step = st.slider(
            "Step",
            1,
            len(STEP_NAMES),
            len(STEP_NAMES),
            key="example_step",
            width=300,
            help="Move it to follow the calculation line by line.",
        )
    example = examples[chosen or 0]
    where, its = (" of the first batch", "that batch's") if tensor.is_dynamic else ("", "its")
    place = ", ".join(str(i) for i in example.index)
    st.markdown(
        f"The element at [{place}]{where} is **x = {format_number(example.value, 5)}**, "
        f"{its} scale **s = {format_number(example.scale, 5)}**, "
        f"{its} zero point **z = {example.zero_point}**."
    )
    rows = [
        {"Step": s.name, "Numbers": s.formula, "Result": s.result, "Meaning": s.meaning}
        for s in worked_steps(tensor, example)
    ]
    st.table(tables.table(rows[:step]).set_index("Step"))
    became = " It became 0." if example.value and not example.dequantized else ""
    show_figure(
        worked_number_line(tensor, example),
        key="layer_example",
        alt=f"{format_number(example.value, 5)} becomes code {example.code}, which stands for "
        f"{format_number(example.dequantized, 5)}.{became}",
        about="\n\n".join(
            (
                "The grey marks are the values the grid can hold, with their integer codes.",
                "The blue diamond is the float value, the orange dot what it becomes.",
                "Rounding moves a value by at most half a step; more means it was clipped.",
            )
        ),
        data=lambda: tables.table(rows),
        file_name=view.file_name("example"),
    )


def _element_text(example: WorkedExample) -> str:
    became = ", became 0" if example.value and not example.dequantized else ""
    place = ", ".join(str(i) for i in example.index)
    return f"[{place}]: {format_number(example.value)}{became}"


@contained("The numbers")
def show_numbers(view: TensorView) -> None:
    """Draw all numbers of the layer, weights and inputs side by side."""
    st.markdown("**How it was quantized**")
    st.table(tables.table(grid_rows(view.layer)).set_index("Number"))
    st.markdown("**What it cost**")
    st.table(tables.table(error_rows(view.layer)).set_index("Number"))
    st.caption(
        "Weights and Inputs: the tensors themselves. Local: the output when this layer alone is "
        "quantized. Accumulated: the output inside the fully quantized model."
    )
    if view.layer.has_dynamic_input and view.layer.input is not None:
        st.caption(
            f"Inputs have a range for each batch, measured over {describe_batches(view.report)}: "
            "smallest and largest value, scales, zero points and codes are those of all batches "
            "together."
        )


TABS: dict[str, Callable[[TensorView], None]] = {
    "Values": show_values,
    "Error": show_error,
    "Channels": show_channels,
    "Codes": show_codes,
    "Ranges": show_ranges,
    "One value": show_example,
    "All numbers": show_numbers,
}
"""What a tab is called, and what draws it."""
