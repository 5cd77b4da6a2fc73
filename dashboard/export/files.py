"""A run as a file: JSON for programs, CSV for spreadsheets, HTML for people.

The HTML is one file that opens from disk without a network: figures, plotly.js and styles are all
inside, and its content security policy forbids everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from markupsafe import Markup, escape

from dashboard.export.pages import TEMPLATES, render
from dashboard.export.sections import (
    LAYER_COLUMNS,
    ON_INTEGERS,
    KeyNumber,
    Section,
    key_numbers,
    layer_table,
    sections,
)
from dashboard.export.tables import layers_table, to_csv
from dashboard.facts.diagnosis.culprit import OutputEffects
from dashboard.facts.diagnosis.remedies import treatment_table
from dashboard.words.judging import judged_text
from dashboard.words.recipes import (
    EXECUTION_NOTE,
    describe_recipe,
    describe_schemes,
    measured_in_batches,
)
from quant_engine.report import ModelReport, SensitivityReport


def to_json(report: ModelReport | SensitivityReport) -> bytes:
    """Return the whole report as JSON; its class's `from_json` reads it back."""
    return report.to_json().encode()


def to_layer_csv(report: ModelReport, sensitivities: Iterable[SensitivityReport] = ()) -> bytes:
    """Return one row for each layer with every number that was measured on it."""
    return to_csv(layers_table(report, sensitivities))


def to_html(
    report: ModelReport,
    sensitivities: Iterable[SensitivityReport] = (),
    *,
    predicted: OutputEffects | None = None,
    title: str = "",
    created: str = "",
) -> bytes:
    """Return a report for people: key numbers, figures and a table in one file.

    Args:
        report: What the analysis found.
        sensitivities: What was measured on top.
        predicted: What a prediction says of each layer, if there is one.
        title: What to call the model; its name if empty.
        created: When the run was computed, as text.
    """
    name = title or report.model_name or "model"
    measured = tuple(sensitivities)
    figures = sections(report, measured, predicted)
    return render(
        "report",
        has_figures=bool(figures),
        name=name,
        report=report,
        lead=_lead(report, created),
        judged=judged_text(report),
        numbers=key_numbers(report, measured, predicted),
        sections=figures,
        titles=[*(column.title for column in LAYER_COLUMNS), ON_INTEGERS],
        numeric={column.title for column in LAYER_COLUMNS if column.is_number},
        layers=layer_table(report),
        treatments=treatment_table(report.treatments),
        conditions=_conditions(report),
    )


def pair_to_html(
    numbers: Iterable[KeyNumber],
    figures: Iterable[Section],
    layers: Iterable[Mapping[str, str]],
    *,
    name: str,
    lead: Iterable[str],
    runs: tuple[ModelReport, ModelReport],
) -> bytes:
    """Return a comparison of two runs for people, in one file as `to_html` makes of one run.

    Args:
        numbers: What came out, A and B and B against A.
        figures: The figures of both.
        layers: The table of layers; all rows have the same keys.
        name: What to call the two.
        lead: What each of the two is, and what differs, line by line.
        runs: Both reports.
    """
    rows, shown = list(layers), list(figures)
    titles = list(rows[0]) if rows else []
    treated = [
        (run, one) for run, report in zip("AB", runs, strict=True) for one in report.treatments
    ]
    treatments = treatment_table(one for _, one in treated)
    return render(
        "report",
        has_figures=bool(shown),
        name=name,
        report=next((report for report in runs if report.is_partial), runs[0]),
        lead=list(lead),
        judged=" ".join(dict.fromkeys(map(judged_text, runs))),
        numbers=list(numbers),
        sections=shown,
        titles=titles,
        numeric=set(titles[1:]),
        layers=rows,
        treatments=[{"Run": run, **row} for (run, _), row in zip(treated, treatments, strict=True)],
        conditions=[EXECUTION_NOTE],
    )


def _lead(report: ModelReport, created: str) -> list[str]:
    """What was done, line by line."""
    data = "the calibration samples" if report.evaluated_on_calibration_data else "other samples"
    lines = (
        describe_recipe(report.recipe),
        describe_schemes(report.recipe),
        f"Calibrated on {report.calibration_samples:,} samples, errors measured on "
        f"{report.evaluation_samples:,} samples, {data}.",
        measured_in_batches(report),
        f"Computed {created}." if created else "",
    )
    return [line for line in lines if line]


def _conditions(report: ModelReport) -> list[str]:
    machine = report.environment
    lines = (
        EXECUTION_NOTE,
        "SQNR: signal to quantization noise, 10 dB more means a tenth of the noise energy; "
        "“exact” means no error. LSB: one step of the integer grid. 1 kB is 1,000 bytes.",
        f"{machine.cpu}, {machine.threads} threads, {machine.platform}, "
        f"PyTorch {machine.torch_version}.",
        " ".join(report.timing.notes if report.timing is not None else ()),
        " ".join(note for note in report.notes if note != report.judged),
    )
    return [line for line in lines if line]


def _breakable(text: str) -> Markup:
    """Return text that may go on in a new line after a dot, as dotted names should, not numbers."""
    return Markup(re.sub(r"\.(?!\d)", ".<wbr>", str(escape(text))))


TEMPLATES.filters["breakable"] = _breakable
