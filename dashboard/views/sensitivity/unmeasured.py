"""The Sensitivity page while there is nothing measured yet: offering it, and watching it grow."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import (
    STOPPING_SHARE,
    Sweep,
    describe_sweep,
    rounds_inputs,
    split_options,
)
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.facts.sensitivity.ranking import rank_layers
from dashboard.figures.sensitivity.option_grid import grid_picture
from dashboard.figures.sensitivity.ranking import ranking_picture
from dashboard.session.jobs import jobs, poll_seconds, sensitivity_key, start_sensitivity
from dashboard.session.pages import show_page_link
from dashboard.widgets.chart import show_figure
from dashboard.widgets.headline import show_headline
from dashboard.widgets.live import show_live
from dashboard.words.formatting import plural
from dashboard.work import service
from dashboard.work.jobs import is_active
from quant_engine.report import SensitivityReport
from quant_engine.sensitivity import LEAVE_ONE_OUT
from quant_engine.variants import ACTIVATIONS

LIVE_SECONDS = 1.0
STOPS_KEY = "stops_early"
_STOPPING = (
    f"A layer that surely does less than {STOPPING_SHARE:g} times what the most sensitive one does "
    "(99 % interval of the difference) is not run on the remaining samples, once it saw at least "
    "128. It is then judged on those, which the table says. On the sample ResNet with 600 samples "
    "16 of 22 layers were stopped, which saved 31 % of the multiplications; more samples save more."
)


def show_empty(run: Run, sweep: Sweep) -> None:
    """Say that this sweep was not measured, and offer to do it."""
    show_headline(run, key="sensitivity")
    count = len(run.report.quantized_layers)
    with st.container(border=True, key="sensitivity_empty"):
        if not count:
            st.markdown("**This run quantizes no layer, so there is nothing to measure.**")
            show_page_link("experiment", "Set up a run")
            return
        if sweep.parts == ACTIVATIONS and not rounds_inputs(run.recipe):
            st.markdown(
                "**This run leaves the inputs of all layers in float, so there is nothing to "
                "measure on inputs only.**"
            )
            return
        st.markdown(f"**Not measured yet for this run: {describe_sweep(sweep)}.**")
        st.markdown(describe_work(run, sweep))
        stops = st.toggle("Stop where it is clear", key=STOPS_KEY, help=_STOPPING)
        st.button(
            "Measure sensitivity",
            key="measure_sensitivity",
            type="primary",
            icon=":material/play_arrow:",
            on_click=start_sensitivity,
            args=(run, replace(sweep, precision=STOPPING_SHARE if stops else None)),
        )


def describe_work(run: Run, sweep: Sweep) -> str:
    """Return what measuring a sweep runs, and about how often."""
    count, tried = len(run.report.quantized_layers), max(1, len(sweep.bits))
    samples = service.model_info(run.model_name).test_samples
    switched = (
        f"For each of its {plural(count, 'layer')}, all others are switched"
        if sweep.direction == LEAVE_ONE_OUT
        else f"Each of its {plural(count, 'layer')} is switched alone"
    )
    at = f" at {plural(tried, 'width')}" if sweep.bits else ""
    text = (
        f"{switched}{at}, and the model's output on its test data is compared with the float "
        "model's. With the curve, that is at most "
        f"**{plural(sweep.count_runs(count), 'run')} of the model over "
        f"{plural(samples, 'sample')}**; what a switch cannot have changed is not computed again. "
    )
    if sweep.bits and run.recipe.overrides:
        text += "Layers with bits of their own are tried at these widths like all others. "
    return text + (
        "You can leave this page meanwhile, and stop at any time: what was measured until then is "
        "kept."
    )


def show_partial_notice(run: Run, sweep: Sweep, report: SensitivityReport) -> None:
    """Say that a measurement was stopped early, and offer to repeat it."""
    st.warning(
        f"Stopped early: measured on {report.samples} samples only, so the intervals are "
        "wider than they could be.",
        icon=":material/hourglass_bottom:",
    )
    _offer_again("Measure again in full", run, sweep)


def show_stopped_notice(run: Run, sweep: Sweep, report: SensitivityReport) -> None:
    """Say which layers were judged on fewer samples, and offer to measure them on all."""
    stopped = [layer for layer in report.layers if layer.samples is not None]
    if not stopped:
        return
    found, known = ({layer.name for layer in layers} for layers in (stopped, report.layers))
    st.info(
        f"Stopped where it was clear: {plural(len(found), 'layer')} of {len(known)} "
        f"judged on fewer than all {report.samples} samples; the table says on how many.",
        icon=":material/speed:",
    )
    _offer_again("Measure all layers on all samples", run, sweep)


def _offer_again(label: str, run: Run, sweep: Sweep) -> None:
    st.button(label, icon=":material/refresh:", on_click=start_sensitivity, args=(run, sweep))


def show_running(run: Run, sweep: Sweep) -> bool:
    """Draw what is known of a measurement on its way; return whether there is one."""
    key = sensitivity_key(run.settings, sweep)
    status = jobs().status(key)
    if not is_active(status):
        return False

    def draw() -> None:
        now = jobs().status(key)
        partial = now.partial if now is not None else None
        metrics = available_metrics(partial) if isinstance(partial, SensitivityReport) else ()
        if not metrics or not isinstance(partial, SensitivityReport):
            st.info("The first values appear here in a moment.", icon=":material/hourglass_top:")
            return
        options = split_options(replace(partial, is_partial=True))
        report, metric = next(iter(options.values())), metrics[0]
        is_stopped = any(layer.samples is not None for layer in report.layers)
        fewer = ", of layers stopped early from fewer" if is_stopped else ""
        st.caption(f"Not finished: values from {plural(report.samples, 'sample')} so far{fewer}.")
        if len(options) > 1:
            names = [row.name for row in rank_layers(report, metric)]
            show_figure(grid_picture(options, names, metric), key="sensitivity_partial_grid")
            return
        ranked = rank_layers(report, metric)
        picture = ranking_picture(report, ranked, metric, rows=ranked[:20], is_log=True)
        show_figure(picture, key="sensitivity_partial")

    show_live(draw, key="live_ranking", run_every=max(LIVE_SECONDS, poll_seconds()))
    return True
