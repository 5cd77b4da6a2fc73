"""Layers with measured numbers and proxy metrics, and what can be done with chosen ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.data.runs import Run
from dashboard.data.sweeps import Sweep, split_options
from dashboard.facts.columns import columns
from dashboard.facts.sensitivity.metrics import (
    METRICS,
    SensitivityMetric,
    available_metrics,
    output_metrics,
)
from dashboard.facts.sensitivity.ranking import RankedLayer
from dashboard.figures.kit.theme import ERROR, INT8
from dashboard.session import run_state
from dashboard.session.state import session
from dashboard.widgets.lesson_links import show_column_lessons
from dashboard.words.formatting import MISSING, format_bytes, plural
from dashboard.words.recipes import no_effect_words
from quant_engine.report import ModelReport, SensitivityReport
from quant_engine.scheme import Recipe
from quant_engine.sensitivity import LEAVE_ONE_OUT

_SQNRS = columns("local_sqnr_db", "weight_sqnr_db", "input_sqnr_db")
_PLAIN = 1e-3  # below it a number in full has more zeros than digits; texts turn there as well


def table_rows(
    report: ModelReport, ranked: Sequence[RankedLayer], metric: SensitivityMetric
) -> list[dict[str, Any]]:
    """Return the table's rows in the order of the ranking; an exact SQNR is an empty cell."""
    layers = {layer.name: layer for layer in report.layers}
    everything, remarks = report.evaluation_samples, {}
    for row in ranked:
        error = row.layer.value if row.layer.outputs else row.layer.nmse
        remarks[row.name] = no_effect_words(row.layer.reaches_output, error, everything)
    others = _other_measures(ranked, metric)
    is_stopped = any(row.layer.samples is not None for row in ranked)
    rows = []
    for row in ranked:
        layer = layers.get(row.name)
        is_shown = math.isfinite(row.value) and not remarks[row.name]
        rows.append(
            {
                "Layer": row.name,
                metric.title: row.value if is_shown else None,
                **({"Effect": remarks[row.name]} if any(remarks.values()) else {}),
                "Rank": row.position,
                "Could be": row.could_be,
                **({"Samples": row.layer.samples or everything} if is_stopped else {}),
                **({"Decided by": row.layer.decided_by} if row.layer.outputs else {}),
                **{title: other.value(row.layer) for title, other in others.items()},
                **{c.title: None if layer is None else c.finite(layer) for c in _SQNRS},
                "Saved (kB)": row.saved_bytes / 1000,
            }
        )
    return rows


def _other_measures(
    ranked: Sequence[RankedLayer], metric: SensitivityMetric
) -> dict[str, SensitivityMetric]:
    """Return what stands beside the measure, by its heading: of several outputs, each one."""
    outputs = ranked[0].layer.outputs if ranked else ()
    if outputs:
        return {other.title: other for other in output_metrics(outputs) if other.key != metric.key}
    answers = {
        "Answers changed (%)": METRICS["top1_agreement"],
        "Accuracy lost (points)": METRICS["accuracy_drop"],
    }
    return {
        title: other
        for title, other in answers.items()
        if any(other.value(row.layer) is not None for row in ranked)
    }


def show_sensitivity_table(
    run: Run, ranked: Sequence[RankedLayer], metric: SensitivityMetric, sweep: Sweep, option: str
) -> None:
    """Draw the table; a chosen row selects its layer, and chosen rows can be acted on.

    The choice belongs to these rows in this order: another measure, option or run begins without
    one.
    """
    rows = table_rows(run.report, ranked, metric)
    names = [row.name for row in ranked]
    key = f"sensitivity_rows_{run.id}_{sweep.key}_{option}_{metric.key}"

    def choose() -> None:
        _select_newest(chosen_names(st.session_state.get(key), names))

    columns = column_settings(rows, metric) | _output_settings(ranked, metric)
    event = st.dataframe(
        rows,
        key=key,
        width="stretch",
        height=min(38 + 35 * max(len(rows), 1), 460),
        hide_index=True,
        on_select=choose,
        selection_mode="multi-row",
        column_config=columns,
        placeholder=MISSING,
    )
    show_column_lessons(columns, key="sensitivity_columns")
    chosen = chosen_names(event, names)
    _show_actions(run, chosen)
    if sweep.bits:
        _show_bits(run, chosen, sweep, option)


def chosen_names(event: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that a table's selection names."""
    rows = ((event or {}).get("selection") or {}).get("rows") or []
    return tuple(names[index] for index in rows if 0 <= index < len(names))


def _output_settings(ranked: Sequence[RankedLayer], metric: SensitivityMetric) -> dict[str, Any]:
    """Return how the columns of several outputs are drawn; none for a single one."""
    if not ranked or not ranked[0].layer.outputs:
        return {}
    about = "The output whose degradation is the largest share of the fully quantized model's."
    return {
        "Decided by": st.column_config.TextColumn(width=100, help=about),
        **{
            title: st.column_config.NumberColumn(width=140, format="%.3g", help=other.about)
            for title, other in _other_measures(ranked, metric).items()
        },
    }


def column_settings(rows: Sequence[dict[str, Any]], metric: SensitivityMetric) -> dict[str, Any]:
    """Return how each column is drawn: numbers with bars in their cells, each with its meaning."""
    saved = "Bytes that quantizing the layer saves; 1 kB is 1,000."
    settings: dict[str, Any] = {
        "Layer": st.column_config.TextColumn(width=175, pinned=True),
        metric.title: _bar(
            rows, metric.title, _measured_format(rows, metric), ERROR, metric.about, 140
        ),
        "Rank": st.column_config.NumberColumn(width=55, help="1 is the most sensitive layer."),
        "Could be": st.column_config.TextColumn(
            width=75, help="The ranks it shares with layers that it is statistically tied with."
        ),
        "Samples": st.column_config.NumberColumn(
            width=80,
            help="Samples that the layer is judged on: fewer than all where it was clear early "
            "that its effect is far below the largest.",
        ),
        "Answers changed (%)": st.column_config.NumberColumn(
            "Changed (%)",
            width=95,
            format="%.2f",
            help="Samples whose most likely class is no longer the float model's.",
        ),
        "Accuracy lost (points)": st.column_config.NumberColumn(
            "Lost (points)",
            width=100,
            format="%.2f",
            help="Float accuracy minus this accuracy; below 0 it happened to help.",
        ),
        "Saved (kB)": _bar(rows, "Saved (kB)", "%.1f", INT8, saved, 95),
    }
    for column in _SQNRS:
        settings[column.title] = st.column_config.NumberColumn(
            column.title.replace(" SQNR", ""),
            width=95,
            format="%.1f",
            help=f"{column.name}, a proxy metric. {column.about} An empty cell is exact or not "
            "known.",
        )
    return settings


def _measured_format(rows: Sequence[dict[str, Any]], metric: SensitivityMetric) -> str:
    """Three digits where values may lie decades apart; powers of ten where all are tiny."""
    if not metric.allows_log:
        return "%.2f"
    largest = max((abs(row[metric.title] or 0.0) for row in rows), default=0.0)
    return "%.3g" if largest >= _PLAIN else "%.2e"


def _bar(
    rows: Sequence[dict[str, Any]], title: str, form: str, color: str, about: str, width: int
) -> Any:
    """A column of bars from 0 to its largest value; plain numbers where a bar has no sense."""
    values = [row[title] for row in rows if row[title] is not None]
    if not values or min(values) < 0 or max(values) <= 0:
        return st.column_config.NumberColumn(width=width, format=form, help=about)
    return st.column_config.ProgressColumn(
        width=width,
        format=form,
        min_value=0.0,
        max_value=float(max(values)),
        color=color,
        help=about,
    )


def _show_actions(run: Run, chosen: Sequence[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.button(
            f"Keep {plural(len(chosen), 'layer')} in float and re-run"
            if chosen
            else "Exclude these and re-run",
            key="exclude_rows",
            type="primary",
            icon=":material/playlist_remove:",
            disabled=not chosen,
            on_click=exclude_and_rerun,
            args=(run, tuple(chosen)),
        )
        if chosen:
            sizes = [layer.size for layer in run.report.layers if layer.name in set(chosen)]
            saved = sum(size.float_bytes - size.quantized_bytes for size in sizes)
            st.caption(f"The model grows by {format_bytes(saved)} when they stay float.")
        else:
            st.caption("Tick rows on the left to choose the layers to act on.")


def _show_bits(run: Run, chosen: Sequence[str], sweep: Sweep, option: str) -> None:
    """Offer one of the tried widths for the chosen layers, and say what it saves."""
    measured = run.sensitivity_for(sweep)
    reports = {} if measured is None else split_options(measured)
    widths = {f"{width} bits": width for width in sweep.bits}
    usual = f"{run.recipe.weight.bits} bits"
    first = option if option != usual else next((x for x in widths if x != usual), usual)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = st.selectbox(
            "Weight bits",
            list(widths),
            index=list(widths).index(first) if first in widths else 0,
            key=f"give_bits_{sweep.key}_{option}",
            width=130,
            help="The widths that were measured.",
        )
        changed = tuple(name for name in chosen if _weight_bits(run.recipe, name) != widths[label])
        st.button(
            f"Give {plural(len(changed), 'layer')} {label} and re-run"
            if changed
            else f"Give these layers {label} and re-run",
            key="give_bits",
            icon=":material/tune:",
            disabled=not changed,
            on_click=give_bits_and_rerun,
            args=(run, changed, widths[label]),
        )
        if chosen and not changed:
            st.caption(f"They have {label} in this run already.")
        elif chosen and label in reports:
            st.caption(describe_bits(run, changed, reports[label]))


def describe_bits(run: Run, chosen: Sequence[str], report: SensitivityReport) -> str:
    """Return what the chosen layers were measured to do at a width, and the bytes it changes."""
    metric = available_metrics(report)[0]
    layers = [layer for layer in report.layers if layer.name in set(chosen)]
    now = {layer.name: layer.size.quantized_bytes for layer in run.report.layers}
    change = sum(x.quantized_bytes - now.get(x.name, x.quantized_bytes) for x in layers)
    bytes_text = f"The model {'grows' if change > 0 else 'shrinks'} by {format_bytes(abs(change))}."
    worst = max(layers, key=lambda x: metric.badness(metric.value(x) or 0.0), default=None)
    if worst is None or report.direction == LEAVE_ONE_OUT:
        return bytes_text
    return f"{bytes_text} Worst of them alone: {worst.name}, {metric.format(metric.value(worst))}."


def _weight_bits(recipe: Recipe, name: str) -> int | None:
    scheme = recipe.layer_scheme(name)
    return None if scheme is None else scheme.weight.bits


def give_bits_and_rerun(run: Run, names: Sequence[str], bits: int) -> None:
    """Analyse the shown run's model again with this width for the weights of these layers."""
    recipe = run.recipe
    for name in names:
        recipe = recipe.with_layer_bits(name, bits)
    run_state.rerun_with(recipe)


def exclude_and_rerun(run: Run, names: Sequence[str]) -> None:
    """Analyse the shown run's model again with these layers in float too."""
    run_state.rerun_with(run.recipe.with_excluded(*names))


def _select_newest(chosen: Sequence[str]) -> None:
    """Select the layer whose row was ticked last."""
    newest = [name for name in chosen if name not in session().ticked_layers]
    session().ticked_layers = tuple(chosen)
    if newest:
        run_state.select_layer(newest[-1])
