"""Parts of the What-if page: predicted beside measured, and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.data.prediction import MeasuredSearch, Prediction
from dashboard.data.runs import Run
from dashboard.facts.configurations import (
    ScoreRow,
    beyond_text,
    bits_text,
    make_row,
    measured_text,
    output_heads,
    ratio_text,
    search_text,
    table_row,
    trust_limit,
    trust_text,
)
from dashboard.facts.outputs import accuracy_head, degradation_about, measure_of
from dashboard.facts.sensitivity.proxies import correlation_text
from dashboard.figures.what_if.trust import trust_picture
from dashboard.views.what_if.configuration import try_text
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.number import show_number
from dashboard.words.formatting import format_bytes, format_number, plural
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import CODE_BITS, CODE_BITS_ABOUT
from quant_engine.report import GOOD, ROUGH

RATIO = "Ratio"


@contained("The verdict on the predictions")
def show_verdict(prediction: Prediction, row: ScoreRow) -> None:
    """Say how far predictions can be trusted on this model, and for the present choice."""
    agreement = prediction.response.agreement
    if agreement.level not in (GOOD, ROUGH):
        st.error(agreement.verdict, icon=":material/dangerous:")
        return
    text = trust_text(prediction)
    if row.measured is None:
        text += " What a search found does worse than predicted: run it."
    if row.measured is None and row.predicted.degradation > trust_limit(prediction):
        where = beyond_text(prediction, row.predicted)
        text = f"This choice lies {where}: press “Verify” before you rely on it."
        st.warning(text, icon=":material/warning:")
    elif agreement.level == GOOD:
        st.success(text, icon=":material/verified:")
    else:
        st.warning(text, icon=":material/warning:")


@contained("The comparison")
def show_comparison(prediction: Prediction, rows: Sequence[ScoreRow]) -> None:
    """Draw predicted and measured figures side by side."""
    st.dataframe(
        [table_row(row, prediction) for row in rows],
        key="what_if_comparison",
        width="stretch",
        hide_index=True,
        column_config=_column_settings(prediction, bits_width=120),
    )
    st.caption("In brackets: 95 % intervals of what was measured, where they are known.")


def _column_settings(prediction: Prediction, bits_width: int) -> dict[str, Any]:
    """Widths that leave no column out of sight on a usual screen; what the rest leaves to bits."""
    texts = {
        "Configuration": (160, ""),
        measure_of(prediction).head: (275, degradation_about(prediction)),
        **dict.fromkeys(
            output_heads(prediction),
            (180, "Of this output alone, in its own unit. 0 is the float model's."),
        ),
        RATIO: (70, "Predicted ÷ measured: 1 × is right; below, it makes too little of it."),
        accuracy_head(prediction): (235, "Share of the test samples that are right."),
        "Same answer": (180, "Share of answers that stay the float model's."),
        "Bytes": (75, "Of the whole model; exact. 1 kB is 1,000 bytes."),
        CODE_BITS: (bits_width, f"{CODE_BITS_ABOUT} Then the same with scales and zero points."),
    }
    return {
        name: st.column_config.TextColumn(
            name, width=width, help=about or None, pinned=name == "Configuration"
        )
        for name, (width, about) in texts.items()
    }


@contained("What the search ran")
def show_search(search: MeasuredSearch, prediction: Prediction) -> None:
    """Say which configurations a search ran, predicted against measured, and which it took."""
    metric = measure_of(prediction).head
    cells = []
    for number, point in enumerate(search.points):
        row = make_row("taken" if number == 0 else f"{number + 1}.", point.as_dict(), prediction)
        size = row.predicted.size
        cells.append(
            {
                "Rank": row.name,
                f"{metric}, measured": measured_text(row),
                "Predicted": format_number(row.predicted.degradation, 2),
                RATIO: ratio_text(row),
                "Bytes": format_bytes(size.model_bytes),
                CODE_BITS: format_number(size.weight_bits),
            }
        )
    with st.container(border=True, key="what_if_search", gap="small"):
        st.markdown(escape_markdown(search_text(search, prediction)))
        st.dataframe(cells, key="what_if_search_rows", width="stretch", hide_index=True)
        st.caption(
            "Ranked by what was measured, with 95 % intervals. Chosen and measured on the same "
            "samples, the first looks a little better than it is. Any of them can be loaded from "
            "the list of all that was run."
        )


@contained("The list of measured configurations")
def show_measured(run: Run, prediction: Prediction) -> None:
    """Draw everything that was really run, predicted beside measured; a row can be tried."""
    points = sorted(prediction.measured, key=lambda p: p.predicted.size.model_bytes)
    rows = [make_row("", p.as_dict(), prediction) for p in points if p.configuration]
    if not rows:
        st.info(
            "Nothing was run from this page yet. “Verify” runs the model under the present choice.",
            icon=":material/fact_check:",
        )
        return
    texts = [prediction.to_text(row.configuration) for row in rows]
    cells = []
    for row in rows:
        known = table_row(row, prediction) | {CODE_BITS: bits_text(row.predicted.size)}
        first = (accuracy_head(prediction), "Same answer", measure_of(prediction).head)
        results = {name: known[name] for name in first if name in known} | {RATIO: ratio_text(row)}
        del known["Configuration"]
        cells.append(results | known)
    key = f"what_if_measured_{len(rows)}"

    def choose() -> None:
        selection = (st.session_state.get(key) or {}).get("selection") or {}
        for index in selection.get("rows") or []:
            if 0 <= index < len(texts):
                try_text(run, prediction, texts[index])

    st.dataframe(
        cells,
        key=key,
        width="stretch",
        height=min(38 + 35 * len(cells), 400),
        hide_index=True,
        on_select=choose,
        selection_mode="single-row",
        column_config=_column_settings(prediction, bits_width=110),
    )
    st.caption("All that was run. Tick a row on the left to load its configuration.")


@contained("The agreement")
def show_trust(run: Run, prediction: Prediction) -> None:
    """Draw the check of the predictions against measurements on this very model."""
    agreement = prediction.response.agreement
    st.subheader("Can the prediction be trusted here?", anchor=False)
    about = "Spearman's rank correlation ρ of predicted and measured values: 1 is the same order, "
    about += "0 no relation."
    with st.grid(3, min_column_width=200, gap="small", key="headline_what_if_trust"):
        for name, found in (
            ("single layers", agreement.single),
            ("random choices", agreement.random),
        ):
            value = f"ρ = {correlation_text(found.rank_correlation)}"
            show_number(f"Rank correlation, {name}", value, f"{found.count} compared", about)
        show_number(
            "Predicted ÷ measured, median",
            f"{format_number(agreement.random.median_ratio, 2)} ×",
            f"single layers {format_number(agreement.single.median_ratio, 2)} ×",
            help="Over all random choices, many of them harsher than where predictions hold. "
            "1 × is right; below, predictions make too little of the degradation.",
        )
    by_option = "; ".join(
        f"at {prediction.words(name)} ρ = {correlation_text(figures.rank_correlation)}, "
        f"{format_number(figures.median_ratio, 2)} × what was measured"
        for name, figures in agreement.by_option
    )
    st.caption(
        "ρ is Spearman's rank correlation of predicted and measured: +1 is the same order, 0 no "
        f"relation. Single layers {by_option}. Checked on "
        f"{plural(agreement.samples, 'sample')} that the model really ran on."
    )
    show_figure(
        trust_picture(prediction),
        key="what_if_trust",
        stem=run.model_name,
        on_select=lambda text: try_text(run, prediction, text),
    )
