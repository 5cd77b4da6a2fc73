"""Everything about one weight or input, one figure per tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from dashboard.export import tables
from dashboard.facts.diagnosis.verdicts import (
    TensorRule,
    better_range,
    cause,
    code_use,
    weak_channel,
    without_tick,
)
from dashboard.facts.layer_rows import error_rows, grid_rows
from dashboard.facts.tensors import channels_of, why_no_choice
from dashboard.figures.kit.picture import Picture
from dashboard.figures.tensor.cause import input_channels_picture
from dashboard.figures.tensor.channels import channels_picture, worst_channels_picture
from dashboard.figures.tensor.codes import codes_picture
from dashboard.figures.tensor.distributions import lsb_picture, values_picture
from dashboard.figures.tensor.range_choices import ranges_picture
from dashboard.figures.tensor.worked_example import STEP_NAMES, step_rows, worked_picture
from dashboard.views.layer.actions import show_rule_change
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.verdict_list import show_verdicts
from dashboard.words.formatting import format_number
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

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.report.model_name}-{self.layer.name}-{self.part}"


def counts_tab(
    what: str, key: str, draw: Callable[..., Picture], rule: TensorRule | None = None
) -> Callable[[TensorView], None]:
    """Return a tab that draws counts, under what a rule says of them.

    Args:
        what: The tab, as a sentence begins with it.
        key: Key of its figure.
        draw: Returns the picture.
        rule: Says what to think of it.
    """

    @contained(what)
    def show(view: TensorView) -> None:
        if rule is not None:
            show_verdicts((without_tick(rule(view.tensor, view.subject), view.layer),))
        picture = draw(view.tensor, view.subject, is_log=view.is_log)
        show_figure(picture, key=key, stem=view.stem)

    return show


@contained("The channels")
def show_channels(view: TensorView) -> None:
    """Draw the ranges of all channels and the ten worst."""
    tensor = view.tensor
    channels = channels_of(tensor)
    if not channels and view.layer.input_channels is not None:
        show_figure(input_channels_picture(view.layer), key="layer_input_channels", stem=view.stem)
        return
    if not channels:
        st.info(
            "Inputs have one scale for all channels: a scale that differs between input channels "
            "could not be taken out of the integer sum.",
            icon=":material/info:",
        )
        return
    show_verdicts((without_tick(weak_channel(tensor, view.subject), view.layer),))
    show_figure(channels_picture(tensor), key="layer_channels", stem=view.stem)
    show_figure(worst_channels_picture(tensor), key="layer_worst_channels", stem=view.stem)


@contained("The ranges")
def show_ranges(view: TensorView) -> None:
    """Draw what every range estimator would choose."""
    tensor = view.tensor
    if tensor.is_dynamic:
        st.info(why_no_choice(tensor), icon=":material/info:")
        show_rule_change(view.layer, view.report, view.part)
        return
    show_verdicts((without_tick(better_range(tensor, view.subject), view.layer),))
    show_figure(ranges_picture(tensor, view.subject), key="layer_ranges", stem=view.stem)
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
    rows = step_rows(tensor, example)
    st.table(tables.table(rows[:step]).set_index("Step"))
    show_figure(worked_picture(tensor, example), key="layer_example", stem=view.stem)


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
    "Values": counts_tab("The values", "layer_values", values_picture),
    "Error": counts_tab("The errors", "layer_lsb", lsb_picture, cause),
    "Channels": show_channels,
    "Codes": counts_tab("The codes", "layer_codes", codes_picture, code_use),
    "Ranges": show_ranges,
    "One value": show_example,
    "All numbers": show_numbers,
}
"""What a tab is called, and what draws it."""
