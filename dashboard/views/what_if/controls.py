"""Parts of the What-if page: what is predicted, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import streamlit as st

from dashboard.data.prediction import Configuration, Prediction
from dashboard.data.runs import Run
from dashboard.export.tables import table, to_csv
from dashboard.facts.accuracy import (
    AccuracyChange,
    change_text,
    changed_answers,
    compare_accuracy,
    share_text,
)
from dashboard.facts.configurations import (
    UNTRUSTED,
    ScoreRow,
    data_rows,
    layer_data_rows,
    measured_text,
    output_heads,
    predicted_text,
    to_json,
    trust_limit,
    trust_text,
)
from dashboard.facts.outputs import (
    accuracy_head,
    decided_by,
    degradation_about,
    has_classes,
    measure_of,
)
from dashboard.session.predictions import (
    find_best,
    search_status,
    start_search,
    start_verification,
    verification_status,
)
from dashboard.views.what_if.configuration import try_configuration, use_settings
from dashboard.widgets.chart import file_stem
from dashboard.widgets.download import offer_file
from dashboard.widgets.lesson_links import show_number_lessons
from dashboard.widgets.number import show_number
from dashboard.words.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_number,
    format_within,
    plural,
)
from dashboard.words.recipes import CODE_BITS, CODE_BITS_ABOUT
from dashboard.work.jobs import is_active
from dashboard.work.prediction_service import CANDIDATES

BY_BYTES, BY_BITS, BY_FLOAT = "Bytes", CODE_BITS, "Layers in float"


def show_prediction(prediction: Prediction, rows: tuple[ScoreRow, ScoreRow, ScoreRow]) -> None:
    """Draw the figures of the present choice: measured where it was run, else predicted.

    What is predicted stands beside predictions for the run and for float, what was measured beside
    its own prediction.
    """
    base, own, row = rows
    size, own_size, float_size = (r.predicted.size for r in (row, own, base))
    right = None if row.measured is None else row.measured.accuracy
    same = None if row.measured is None else row.measured.top1_agreement
    samples = prediction.response.report.answering_samples
    degradation, _, interval = measured_text(row).partition(" (")
    folded = " (folded)" if "folded" in base.name else ""
    draw = partial(_result_metric, prediction, rows)
    with st.grid(5, min_column_width=165, gap="small", key="headline_what_if"):
        if row.predicted.accuracy is not None:
            draw(
                accuracy_head(prediction),
                "Share of samples answered right",
                lambda r: _share(r, r.predicted.accuracy, prediction),
                None if right is None else share_text(right, samples),
                f"against float {change_text(_change(rows, samples))}" if row.configuration else "",
            )
        if has_classes(prediction):
            draw(
                "Same answer",
                "Share of samples with the same answer as the float model's",
                lambda r: _share(r, r.predicted.top1_agreement, prediction),
                None if same is None else format_accuracy(same),
            )
        draw(
            measure_of(prediction).head,
            degradation_about(prediction).removesuffix("."),
            lambda r: predicted_text(r.predicted.degradation, prediction) + decided_by(r.predicted),
            None if row.measured is None else degradation,
            f"95 %: {interval.removesuffix(')')}" if interval else "",
        )
        for index, head in enumerate(output_heads(prediction)):
            known = None if row.measured is None else row.measured.outputs[index]
            draw(
                head,
                "Of this output alone, in its own unit; 0 is the float model's output",
                partial(_output_text, index),
                None if known is None else format_within(known.degradation, known.interval),
            )
        show_number(
            "Model size",
            format_bytes(size.model_bytes),
            f"run {format_bytes(own_size.model_bytes)}, "
            f"float {format_bytes(float_size.model_bytes)}{folded}",
            "Exact, not predicted, with every BatchNorm folded into its layer, in float as well. "
            "1 kB is 1,000 bytes.",
        )
        show_number(
            BY_BITS,
            format_number(size.weight_bits),
            f"with scales {format_number(size.effective_bits)}; "
            f"run {format_number(own_size.weight_bits)}",
            f"{CODE_BITS_ABOUT} Beside it, with scales: scales and zero points included. Both are "
            "exact.",
        )
    labels = f"{measure_of(prediction).head}, model size, {degradation_about(prediction)}"
    show_number_lessons("", key="what_if", labels=labels)


def _result_metric(
    prediction: Prediction,
    rows: tuple[ScoreRow, ScoreRow, ScoreRow],
    name: str,
    about: str,
    predict: Callable[[ScoreRow], str],
    measured: str | None,
    beside: str = "",
) -> None:
    """Draw one result: what was measured with its prediction, else the prediction among others."""
    base, own, row = rows
    samples = plural(prediction.response.report.samples, "test sample")
    if measured is not None:
        note = f"{beside}; predicted {predict(row)}" if beside else f"predicted {predict(row)}"
        show_number(f"{name}, measured", measured, note, f"{about}, measured on {samples}.")
        return
    note = f"run {predict(own)}, float {predict(base)}, predicted too"
    note = note if _holds(row, prediction) else f"not reliable; {note}"
    about += f", predicted on {samples}; nothing was run for it. {trust_text(prediction)}"
    show_number(f"{name}, predicted", predict(row), note, about)


def _output_text(index: int, row: ScoreRow) -> str:
    return format_number(row.predicted.outputs[index].degradation, 2)


def _holds(row: ScoreRow, prediction: Prediction) -> bool:
    return row.predicted.degradation <= trust_limit(prediction)


def _share(row: ScoreRow, value: float | None, prediction: Prediction) -> str:
    """A predicted share, marked where predictions do not hold."""
    if value is None:
        return MISSING
    return ("" if _holds(row, prediction) else UNTRUSTED) + format_accuracy(value)


def _change(rows: Sequence[ScoreRow], samples: int) -> AccuracyChange | None:
    """Compare the measured accuracy of the present choice with float's."""
    base, row = rows[0].measured, rows[-1].measured
    if base is None or row is None:
        return None
    changed = changed_answers(row.top1_agreement, samples)
    return compare_accuracy(base.accuracy, row.accuracy, samples, changed=changed)


def show_actions(run: Run, prediction: Prediction, row: ScoreRow, rows: Sequence[ScoreRow]) -> None:
    """Draw what can be done with the present choice."""
    configuration = row.configuration
    is_busy = is_active(verification_status(run.settings))
    is_known = row.measured is not None
    with st.container(horizontal=True, gap="small", key="what_if_actions"):
        settings = replace(run.settings, recipe=prediction.recipe_of(configuration))
        st.button(
            "Use this",
            key="what_if_use",
            type="primary",
            icon=":material/science:",
            disabled=not configuration,
            help="Analyse this configuration layer by layer, and open it in Experiment. The link "
            "then holds it."
            if configuration
            else "Every layer is float: there is nothing to analyse.",
            on_click=use_settings,
            args=(settings,),
        )
        st.button(
            "Verify",
            key="what_if_verify",
            icon=":material/fact_check:",
            disabled=is_busy or is_known,
            help="Measured already." if is_known else "Really run the model under this choice.",
            on_click=start_verification,
            args=(run, [configuration]),
        )
        missing = [
            point.as_dict()
            for point in prediction.frontier.points
            if point.configuration and prediction.measured_score(point.as_dict()) is None
        ]
        st.button(
            "Verify the frontier",
            key="what_if_verify_frontier",
            icon=":material/show_chart:",
            disabled=is_busy or not missing,
            help=f"Really run the model under {plural(len(missing), 'point')} of the frontier."
            if missing
            else "Every point of the frontier was measured.",
            on_click=start_verification,
            args=(run, missing),
        )
        with st.popover("Downloads", icon=":material/download:"):
            _show_downloads(run, prediction, row, rows)


def _show_downloads(
    run: Run, prediction: Prediction, row: ScoreRow, rows: Sequence[ScoreRow]
) -> None:
    stem = file_stem(f"{run.model_name}-what-if")
    offer_file(
        "Configuration (JSON)",
        f"{stem}.json",
        lambda: to_json(run, row, prediction),
        "The choice for each layer as a recipe, with predicted and measured figures.",
    )

    def comparison() -> bytes:
        return to_csv(table(data_rows(rows, prediction)))

    def layers() -> bytes:
        return to_csv(table(layer_data_rows(prediction, row.configuration)))

    offer_file("Comparison (CSV)", f"{stem}-comparison.csv", comparison)
    offer_file("Layers (CSV)", f"{stem}-layers.csv", layers)


def show_budget(run: Run, prediction: Prediction, own: Configuration) -> None:
    """Draw the budget and the button that fills the table with the best choice within it."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="budget"):
        by = st.selectbox("Budget", [BY_BYTES, BY_BITS, BY_FLOAT], key="what_if_by", width=150)
        size = prediction.score(own).size
        if by == BY_BYTES:
            value = st.number_input(
                "At most (kB)",
                min_value=0.0,
                value=size.model_bytes / 1000,
                step=1.0,
                format="%.1f",
                key=f"what_if_kb_{run.id}",
                width=150,
                help="Of the whole model; at first that of the run shown.",
            )
            kind, budget, words = "bytes", 1000.0 * value, f"{value:g} kB"
        elif by == BY_BITS:
            budget = st.number_input(
                "At most (bits)",
                min_value=0.0,
                max_value=40.0,
                value=5.0,
                step=0.5,
                key="what_if_bits",
                width=150,
                help=f"{CODE_BITS_ABOUT} Scales come on top.",
            )
            kind, words = "bits", f"{budget:g} bits per weight"
        else:
            layers = len(prediction.response.layers)
            budget = st.number_input(
                "At most (layers)",
                min_value=0,
                max_value=layers,
                value=min(2, layers),
                key=f"what_if_layers_{run.id}",
                width=150,
                help="The others are quantized; without another budget that means the most bits.",
            )
            kind, words = "float_layers", plural(budget, "layer") + " in float"
        st.button(
            "Find the best",
            key="what_if_find_best",
            icon=":material/auto_fix_high:",
            on_click=_take_best,
            args=(run, prediction, kind, budget),
            help="The least predicted degradation within the budget, interactions between layers "
            "included. It fills the table; nothing is run.",
        )
        st.button(
            "Find and run the best",
            key="what_if_run_best",
            icon=":material/fact_check:",
            disabled=is_active(search_status(run.settings)),
            on_click=start_search,
            args=(run, kind, budget, words),
            help=f"Runs the model under the {CANDIDATES} configurations predicted best within the "
            "budget, and takes the best measured: what a search finds is predicted too well.",
        )


def _take_best(run: Run, prediction: Prediction, kind: str, budget: float) -> None:
    found = find_best(run, kind, budget)
    if found is not None:
        try_configuration(run, prediction, found)
