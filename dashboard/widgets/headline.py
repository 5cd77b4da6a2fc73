"""The few figures that say how a run went."""

from __future__ import annotations

import streamlit as st

from dashboard.data.runs import Run
from dashboard.facts.accuracy import change_text, has_whole_answers, interval_suffix, output_change
from dashboard.facts.coverage import coverage_text
from dashboard.facts.outputs import judged_number, outputs_of
from dashboard.session import run_state
from dashboard.session.state import PRESENT_KEY
from dashboard.widgets.judged import show_judged
from dashboard.widgets.lesson_links import show_number_lessons
from dashboard.widgets.number import show_number
from dashboard.words.degradation import KL
from dashboard.words.formatting import (
    MISSING,
    format_accuracy,
    format_bytes,
    format_count,
    format_db,
    format_shrinking,
    plural,
    short_name,
)
from dashboard.words.markdown import escape_markdown
from dashboard.words.recipes import gloss
from dashboard.work import service
from quant_engine.report import OutputReport

LONGEST_NAME, LONGEST_PRESENTED = 20, 14


def samples_covered(run: Run) -> str:
    """Return how many of the test samples the figures of a run cover."""
    known, planned = run.report.evaluation_samples, service.model_info(run.model_name).test_samples
    return f"{format_count(known)} of {plural(planned, 'sample')}"


def show_headline(run: Run, *, key: str) -> None:
    """Draw accuracy, bytes and output error before and after, and the culprit.

    What an output does not have, such as the accuracy of an embedding, is left out.
    """
    outputs = outputs_of(run.report)
    if run.report.is_partial:
        st.caption(f"Measured on {samples_covered(run)}.")
    show_judged(run.report)
    with st.grid(5, min_column_width=165, gap="small", key=f"headline_{key}"):
        if len(outputs) > 1:
            for output in outputs:
                _show_output(output, named=True)
            _show_size(run)
        else:
            _show_only_output(run)
        culprit = run_state.culprit_of(run)
        longest = LONGEST_PRESENTED if st.session_state.get(PRESENT_KEY) else LONGEST_NAME
        names = [layer.name for layer in run.report.layers]
        if culprit is None:
            about = "No layer is quantized, or none was measured."
            show_number("Culprit", MISSING, help=about)
        else:
            show_number(
                f"Culprit ({culprit.label})",
                short_name(culprit.name, names, longest),
                culprit.text,
                f"{culprit.sentence} It is the layer that costs the output most: measured where a "
                "sensitivity was, else predicted, else the one with the largest error of its own.",
            )
    # Of a single output with answers the KL divergence stands beside them.
    has_kl = any(o.metric == KL.key or (len(outputs) == 1 and o.top1_agreement) for o in outputs)
    terms = gloss("SQNR", *(("KL",) if has_kl else ()))
    show_number_lessons(terms, key=f"headline_{key}", labels="Model size")
    # What the figures are about comes with them: a report on a tenth of the weights says so.
    st.caption(escape_markdown(coverage_text(run.report.coverage)))


def _show_only_output(run: Run) -> None:
    output = run.report.output
    if output is None or output.accuracy_quantized is not None:
        _show_accuracy(output)
    _show_size(run)
    if output is not None and output.metric != KL.key:
        _show_output(output)
    else:
        st.metric(
            "Output SQNR",
            format_db(output.error.sqnr_db if output else None),
            help="Signal to quantization noise of the model's output: 10 dB more means a tenth of "
            "the noise.",
        )
    if output is not None and output.top1_agreement is None:
        return
    show_number(
        "Same answer as float",
        format_accuracy(output.top1_agreement if output else None),
        KL.named(output.kl_divergence) if output else None,
        help="Share of test samples, or of their tokens or pixels that count, for which both "
        "models choose the same class, and the mean KL divergence of their outputs.",
    )


def _show_output(output: OutputReport, *, named: bool = False) -> None:
    """Draw what an output is judged by, and its SQNR; of several its name, and its accuracy."""
    label, value = judged_number(output)
    beside = f"SQNR {format_db(output.error.sqnr_db)}"
    if named and output.accuracy_quantized is not None:
        before, after = output.accuracy_float, output.accuracy_quantized
        beside = f"accuracy {format_accuracy(before)} → {format_accuracy(after)}"
    about = f"Of the output {output.name} alone, which is read as {output.kind}. " if named else ""
    show_number(
        f"{output.name}: {label}" if named else label,
        value,
        beside,
        help=f"{about}What the output is judged by. In brackets: the 95 % interval, by resampling "
        "whole samples.",
    )


def _show_size(run: Run) -> None:
    """Bytes before and after; where BatchNorms were folded, "before" is the folded model."""
    size, given = run.report.size, service.model_info(run.model_name).float_bytes
    value, change = MISSING, None
    if size is not None:
        before, after = size.float_bytes, size.quantized_bytes
        value = f"{format_bytes(before)} → {format_bytes(after)}"
        folded = "" if before == given else "; BatchNorm folded"
        change = format_shrinking(before, after) + folded
    show_number(
        "Size, float → now",
        value,
        change,
        help="All parameters and buffers. 1 kB is 1,000 bytes. BatchNorms are folded into the "
        f"layers before them first; the float model as given has {format_bytes(given)}.",
    )


def _show_accuracy(output: OutputReport | None) -> None:
    if output is not None and output.accuracy_quantized is not None:
        before, after = output.accuracy_float, output.accuracy_quantized
        change, is_whole = output_change(output), has_whole_answers(output)
        is_clear = change is not None and change.is_clear
        count = output.labelled_samples
        counted = plural(count, "test sample") if is_whole else f"{count:,} tokens or pixels"
        about = (
            "In brackets: 95 % intervals, of the difference on the same samples and of the "
            "accuracy now, in percent."
            if is_whole
            else "Those of one sample are not independent, so there is no interval."
        )
        st.metric(
            "Accuracy, float → now",
            f"{format_accuracy(before)} → {format_accuracy(after)}",
            # Streamlit takes the direction from an ASCII minus.
            f"{change_text(change)}; now{interval_suffix(after, count)}".replace("−", "-", 1)
            if is_whole
            else None,
            # Green or red, and an arrow, only where the samples show a difference.
            delta_color="normal" if is_clear else "off",
            delta_arrow="auto" if is_clear else "off",
            help=f"On {counted}. {about}",
        )
    else:
        st.metric("Accuracy, float → now", MISSING)
