"""A run as a file: JSON for programs, CSV for spreadsheets, HTML for people.

The HTML is one file that opens from disk without a network: figures, plotly.js and styles are all
inside, and its content security policy forbids everything else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboard.export.sections import (
    LAYER_COLUMNS,
    KeyNumber,
    Section,
    key_numbers,
    layer_cells,
    sections,
)
from dashboard.export.tables import layers_table, to_csv
from dashboard.facts.culprit import OutputEffects
from dashboard.words.recipes import (
    EXECUTION_NOTE,
    describe_recipe,
    describe_schemes,
    judged_caption,
    measured_in_batches,
)
from quant_engine.report import ModelReport, SensitivityReport

STYLE = Path(__file__).parents[1] / "assets" / "report.css"

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
_DRAW = """
for (const figure of document.querySelectorAll("figure[data-figure]")) {
  const spec = JSON.parse(document.getElementById(figure.dataset.figure).textContent);
  Plotly.newPlot(figure.querySelector("div"), spec.data, spec.layout,
    { responsive: true, displaylogo: false });
}
"""


def to_json(report: ModelReport) -> bytes:
    """Return the whole report as JSON; `ModelReport.from_json` reads it back."""
    return report.to_json().encode()


def sensitivity_to_json(report: SensitivityReport) -> bytes:
    """Return a sensitivity as JSON; `SensitivityReport.from_json` reads it back."""
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
    body = "\n".join(
        (
            _head(report, name, created),
            _judged(report),
            _numbers(key_numbers(report, measured, predicted)),
            *(_section(index, section) for index, section in enumerate(figures)),
            _layers(report),
            _conditions(report),
        )
    )
    page = _PAGE.format(
        policy=_POLICY,
        title=html.escape(f"Int8 quantization of {name}"),
        style=_style(),
        body=body,
        library=get_plotlyjs() if figures else "",
        draw=_DRAW if figures else "",
    )
    return page.encode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{library}</script>
<script>{draw}</script>
</body>
</html>
"""


@cache
def _style() -> str:
    return STYLE.read_text(encoding="utf-8")


def _head(report: ModelReport, name: str, created: str) -> str:
    batches = measured_in_batches(report)
    data = "the calibration samples" if report.evaluated_on_calibration_data else "other samples"
    lines = [
        f"<h1>Int8 quantization of {html.escape(name)}</h1>",
        f"<p class='lead'>{html.escape(describe_recipe(report.recipe))}<br>"
        f"{html.escape(describe_schemes(report.recipe))}<br>"
        f"Calibrated on {report.calibration_samples:,} samples, errors measured on "
        f"{report.evaluation_samples:,} samples, {data}."
        f"{f'<br>{html.escape(batches)}' if batches else ''}"
        f"{f'<br>Computed {html.escape(created)}.' if created else ''}</p>",
    ]
    if report.is_partial:
        lines.append(
            "<p class='notice'>The analysis was stopped early: these figures cover what was done "
            "until then.</p>"
        )
    return "\n".join(lines)


def _numbers(numbers: Iterable[KeyNumber]) -> str:
    cells = (
        f"<div><dt>{html.escape(number.name)}</dt><dd>{_breakable(number.value)}"
        f"{f'<small>{html.escape(number.remark)}</small>' if number.remark else ''}</dd></div>"
        for number in numbers
    )
    return f"<dl class='numbers'>{''.join(cells)}</dl>"


def _section(index: int, section: Section) -> str:
    picture = section.picture
    text = html.escape(f"{picture.alt} {section.remark}".strip())
    return (
        f"<section><h2>{html.escape(section.title)}</h2>\n"
        f"<figure data-figure='figure-{index}' role='figure' aria-label='{text}'>"
        f"<div></div><figcaption>{text}</figcaption></figure>\n"
        "<script type='application/json' "
        f"id='figure-{index}'>{_figure_json(picture.figure)}"
        "</script></section>"
    )


def _figure_json(figure: go.Figure) -> str:
    """Return a figure for a script element; Plotly writes "<" so that no name can close it."""
    text: str = figure.to_json()
    return text


def _layers(report: ModelReport) -> str:
    head = "".join(
        f"<th scope='col'{_number_class(is_number)}>{html.escape(name)}</th>"
        for name, is_number in LAYER_COLUMNS
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{_number_class(is_number)}>"
            f"{html.escape(cell) if is_number else _breakable(cell)}</td>"
            for cell, (_, is_number) in zip(cells, LAYER_COLUMNS, strict=True)
        )
        + "</tr>"
        for cells in (layer_cells(layer, report.timing) for layer in report.layers)
    )
    return (
        f"<section><h2>All layers</h2><div class='table' tabindex='0'><table><thead><tr>{head}</tr>"
        f"</thead><tbody>\n{rows}\n</tbody></table></div></section>"
    )


def _breakable(text: str) -> str:
    """Return text that may go on in a new line after a dot, as dotted names should, not numbers."""
    return re.sub(r"\.(?!\d)", ".<wbr>", html.escape(text))


def _number_class(is_number: bool) -> str:
    return " class='number'" if is_number else ""


def _judged(report: ModelReport) -> str:
    caption = judged_caption(report.judged)
    return f"<p>{html.escape(caption)}</p>" if caption else ""


def _conditions(report: ModelReport) -> str:
    machine = report.environment
    lines = [
        EXECUTION_NOTE,
        "SQNR: signal to quantization noise, 10 dB more means a tenth of the noise energy; "
        "“exact” means no error. LSB: one step of the integer grid. 1 kB is 1,000 bytes.",
        f"{machine.cpu}, {machine.threads} threads, {machine.platform}, "
        f"PyTorch {machine.torch_version}.",
        " ".join(report.timing.notes if report.timing is not None else ()),
        " ".join(note for note in report.notes if note != report.judged),
    ]
    return (
        "<footer>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines if line) + "</footer>"
    )
