"""Layers of both runs: what changed in each, and the selected one in detail."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.compare.compared_layers import (
    Effects,
    LayerChange,
    LayerMetric,
    available_metrics,
    common_layers,
    layer_changes,
)
from dashboard.facts.diagnosis.causes import INPUT_CHANNELS, WEIGHT_CHANNELS
from dashboard.figures.compare.layers import dumbbells_picture, scatter_picture
from dashboard.figures.compare.tensors import codes_picture, errors_picture, values_picture
from dashboard.figures.tensor.cause import cause_picture
from dashboard.session import run_state
from dashboard.session.link_check import check_link_word
from dashboard.widgets.chart import show_figure, show_layer_figure
from dashboard.widgets.choice import choose, select_row
from dashboard.widgets.guard import contained
from dashboard.words.formatting import MISSING, plural
from quant_engine.report import LayerReport

METRIC_KEY, PART_KEY, TAB_KEY = "by", "part", "detail"
PARTS = {"Weights": "weight", "Inputs": "input"}
ERROR, VALUES, CHANNELS, CODES = "Error", "Values", "Channels", "Codes"


def selected_layer(a: Run, b: Run) -> str:
    """Return the layer selected on every page; the first that both have where they lack it."""
    names = common_layers(a, b)
    shown = run_state.shown_run()
    chosen = "" if shown is None else run_state.selected_layer(shown.report)
    return chosen if chosen in names or not names else names[0]


@contained("The layers")
def show_layers(a: Run, b: Run, effects: Effects) -> None:
    """Draw what changed in every layer; a click on a mark or a row selects the layer."""
    metrics = {metric.key: metric for metric in available_metrics(a, b, effects)}
    st.subheader("Layer by layer", anchor=False)
    if not metrics:
        st.info(
            f"The two runs have {plural(len(common_layers(a, b)), 'layer')} in common (same name, "
            "type and shape) and no number of them in both.",
            icon=":material/info:",
        )
        return
    titles = {metric.title: key for key, metric in metrics.items()}
    check_link_word(METRIC_KEY, list(titles))
    chosen = st.selectbox("Compare by", list(titles), key=METRIC_KEY, bind="query-params")
    metric = metrics[titles[chosen]]
    changes, selected = layer_changes(a, b, metric, effects), selected_layer(a, b)
    missing = len(a.report.layers) + len(b.report.layers) - 2 * len(changes)
    if missing:
        st.caption(
            f"{plural(missing, 'layer')} of the two have no counterpart of the same name, type and "
            "shape, and are not compared."
        )
    stem = f"{a.model_name}-{b.model_name}"
    show_layer_figure(
        dumbbells_picture(changes, metric, selected=selected), "compare_changes", stem
    )
    with st.grid(2, min_column_width=420, gap="medium", key="compare_sorted"):
        _show_table(changes, metric)
        with st.container():
            show_layer_figure(
                scatter_picture(changes, metric, selected=selected), "compare_scatter", stem
            )


def _show_table(changes: tuple[LayerChange, ...], metric: LayerMetric) -> None:
    key, names = "compare_table", [one.name for one in changes]
    number = st.column_config.NumberColumn(help=metric.title, format="%.3g")
    st.dataframe(
        [{"Layer": one.name, "A": one.a, "B": one.b, "B − A": one.change} for one in changes],
        key=key,
        on_select=select_row(key, names, run_state.select_layer),
        selection_mode="single-row",
        hide_index=True,
        width="stretch",
        height=420,
        placeholder=MISSING,
        column_config={"Layer": st.column_config.TextColumn(pinned=True)}
        | dict.fromkeys(("A", "B", "B − A"), number),
    )


@contained("The layer")
def show_layer(a: Run, b: Run) -> None:
    """Draw the selected layer of both runs, overlaid."""
    name = selected_layer(a, b)
    if name not in common_layers(a, b):
        return
    layers = a.report.layer(name), b.report.layer(name)
    st.subheader(f"`{name}` in both", anchor=False)
    subject = choose("Look at", list(PARTS), PART_KEY)
    _show_tabs(layers, subject, f"{a.model_name}-{name}")


def _show_tabs(layers: tuple[LayerReport, LayerReport], subject: str, stem: str) -> None:
    part = PARTS[subject]
    first, second = ((x.weight if part == "weight" else x.input) for x in layers)
    check_link_word(TAB_KEY, [ERROR, VALUES, CHANNELS, CODES])
    tabs = st.tabs(
        [ERROR, VALUES, CHANNELS, CODES], key=TAB_KEY, on_change="rerun", bind="query-params"
    )
    draw = {ERROR: errors_picture, VALUES: values_picture, CODES: codes_picture}
    for tab, title in zip(tabs, (ERROR, VALUES, CHANNELS, CODES), strict=True):
        if not tab.open:
            continue
        with tab:
            if title == CHANNELS:
                kind = WEIGHT_CHANNELS if part == "weight" else INPUT_CHANNELS
                picture = cause_picture(*layers, ("A", "B"), kind)
            elif first is not None and second is not None:
                picture = draw[title](first, second, subject)
            else:
                sides = [s for s, t in zip("AB", (first, second), strict=True) if t is None]
                st.info(
                    f"{subject} of this layer have no codes in {' and '.join(sides)}: they stay "
                    "float there, or were not measured.",
                    icon=":material/info:",
                )
                continue
            show_figure(picture, key=f"compare_{title.lower()}", stem=f"{stem}-{part}")
