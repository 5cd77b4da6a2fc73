"""Files of a run: they read back, hold every layer, and need nothing from elsewhere."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import replace

import pytest

from dashboard.data.sweeps import Sweep
from dashboard.export import pages
from dashboard.export.files import to_html, to_json, to_layer_csv
from dashboard.export.sections import key_numbers, layer_table, sections
from dashboard.facts.diagnosis.culprit import OutputEffects
from quant_engine.report import (
    Coverage,
    LeftOut,
    ModelReport,
    RelativeErrors,
    SensitivityReport,
    Treatment,
)
from tests.dashboard.factories import (
    EXACT_LAYER,
    EXCLUDED_LAYER,
    make_dynamic_report,
    make_partial_report,
    make_report,
    make_sensitivity,
    replace_layer,
    with_integer_times,
)
from tests.dashboard.option_reports import make_options


def page(report: ModelReport, **settings: str) -> str:
    """The page without plotly.js, which names addresses it never asks for."""
    text = to_html(report, (make_sensitivity(),), **settings).decode()
    return text.replace(pages.get_plotlyjs(), "")


def figures(text: str) -> list[dict[str, object]]:
    found = re.findall(r'<script type="application/json" id="figure-\d+">(.*?)</script>', text)
    return [json.loads(spec) for spec in found]


def test_json_reads_back_to_the_same_report() -> None:
    report = make_report("int8_entropy")

    assert ModelReport.from_json(to_json(report).decode()) == report
    sensitivity = make_sensitivity()
    stored = to_json(sensitivity).decode()
    assert SensitivityReport.from_json(stored) == sensitivity


def test_csv_has_one_row_for_each_layer() -> None:
    lines = to_layer_csv(make_report(), (make_sensitivity(),)).decode("utf-8-sig").splitlines()

    assert len(lines) == 1 + len(make_report().layers)


ROUNDED = (
    Treatment(
        "adaround",
        ("layer2.0.conv1",),
        is_applied=True,
        error_before=0.5,
        error_after=0.125,
        error_of="layer outputs",
        error_by_gptq=0.25,
    ),
    Treatment("awq", ("layer2.0.conv1",), is_applied=False, reason="why not", step="ranges"),
)


def test_what_remedies_did_stands_in_the_page_and_in_the_rows_of_layers() -> None:
    report = replace(make_report(), treatments=ROUNDED)
    text = page(report)

    table = text[text.index("<h2>What remedies did</h2>") :]
    cells = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", table)]
    assert cells[1:6] == ["layer2.0.conv1", "50 %", "25 %", "12.5 %", "layer outputs"]
    assert cells[-1] == "not applied: why not"
    assert "What remedies did" not in page(make_report())
    head, *rows = csv.reader(to_layer_csv(report).decode("utf-8-sig").splitlines())
    found = next(dict(zip(head, row, strict=True)) for row in rows if row[0] == "layer2.0.conv1")
    assert float(found["adaround_error_before_percent"]) == 50
    assert float(found["adaround_error_by_gptq_percent"]) == 25
    assert float(found["adaround_error_after_percent"]) == 12.5
    assert (found["awq_ranges_applied"], found["awq_ranges_error_after_percent"]) == ("False", "")


def test_the_page_says_first_what_is_judged() -> None:
    line = "judged: the first of 2 outputs, read as values by NMSE; output 2 is not judged"
    report = replace(make_report(), judged=line, notes=(line,))
    text = page(report)

    samples = f"{report.evaluation_samples} samples"
    first = f"<p>Judged on {samples}: {line.removeprefix('judged: ')}.</p>"
    assert text.count(first) == 1
    assert text.index("</h1>") < text.index(first) < text.index('<p class="lead">')
    assert line not in text


def test_the_page_shows_the_key_numbers() -> None:
    text = page(make_report(), title="ResNet-20", created="2026-01-01")

    for words in ("ResNet-20", "98.33 % (96.4–99.2)", "float 98.61 % (96.8–99.4)", "2026-01-01"):
        assert words in html.unescape(text), words
    assert "−1 of 360 samples: no difference the data shows" in html.unescape(text)
    numbers = {number.name: number for number in key_numbers(make_report())}
    coverage = Coverage(1000, 1, (LeftOut("ScaledConv2d is a subclass.", 999, ("stem",)),))
    first, *_ = key_numbers(replace(make_report(), coverage=coverage))
    assert (first.name, first.value) == ("Weights on codes", "0.1 %")
    assert first.remark.endswith("Left out: 99.9 % (stem): ScaledConv2d is a subclass.")
    assert numbers["Model size"].value == "77.3 kB"
    assert numbers["Quantized layers"].value == "10 of 12"
    assert "slower than float" in text


def test_the_page_has_the_four_pictures_and_each_names_its_takeaway() -> None:
    text = page(make_report())
    titles = [section.title for section in sections(make_report(), (make_sensitivity(),))]

    for title in (
        "Four errors of every layer",
        "Errors of the weights in steps of the grid",
        "Sensitivity, single-layer",
        "Size of the model",
        "Time at batch size 64",
    ):
        assert title in titles
        assert f"<h2>{title}</h2>" in text
    assert len(figures(text)) == len(titles)
    assert text.count("aria-label=") == len(titles)
    assert "aria-label=''" not in text


def test_the_last_picture_of_times_says_how_far_integers_lie_from_the_simulation() -> None:
    remarks = [section.remark for section in sections(with_integer_times(make_report()))]
    said = [
        remark for remark in remarks if "integer int8 (lowered) 12 % (root mean square" in remark
    ]
    assert said == remarks[-1:]


def test_what_matters_stands_first_and_names_the_culprit() -> None:
    kept = RelativeErrors(-10, (1, 3), 0, 0, 0, 0.5, 8, 1, 0.0, 0.0)
    report = replace_layer(make_report(), "conv1", local_relative=kept)
    predicted = OutputEffects("predicted", {"conv1": 2.0, "head.0": 1e-4})
    found = sections(report, (), predicted)

    assert [section.title for section in found[:4]] == [
        "Four errors of every layer",
        "Relative error of every layer, alone",
        "Relative error of every layer, with all layers before it",
        "Errors of the weights in steps of the grid",
    ]
    assert found[0].picture.alt.startswith("conv1 costs the output most: ")
    assert found[0].picture.alt.endswith("the answer moves by 2 nats.")
    assert found[0].picture.figure.layout.yaxis.ticktext[0] == "conv1"


def test_figures_carry_their_own_colours_and_no_other_template() -> None:
    for figure in figures(page(make_report())):
        layout = figure["layout"]
        assert isinstance(layout, dict)
        assert layout["template"]["layout"]["font"]["color"] == "#1B2430"
        assert not re.search(r"#0000[0-4]\d\b", json.dumps(figure)), "a placeholder colour"


def test_the_page_refers_to_nothing_outside_itself() -> None:
    text = page(make_report())

    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)\s*=", text)
    assert not re.findall(r"(?:https?:)?//[a-z]", text)
    assert "@import" not in text
    assert "url(" not in text


def test_every_layer_has_a_row_with_units_in_the_head() -> None:
    text = page(make_report())

    assert text.count("<tr>") == 1 + len(make_report().layers)
    rows = {row["Layer"]: row for row in layer_table(make_report())}
    assert "Local SQNR (dB)" in rows[EXACT_LAYER]
    assert rows[EXACT_LAYER]["Weight SQNR (dB)"] == "exact"
    kept = rows[EXCLUDED_LAYER]
    assert kept["Status"].startswith("excluded: ")
    assert kept["Weight bits"] == "–"


def test_names_cannot_break_out_of_the_page() -> None:
    evil = "</script><script>alert(1)</script>"
    report = make_report()
    layers = tuple(
        replace(x, name=evil, reason=evil) if x.name == "conv1" else x for x in report.layers
    )
    text = page(replace(report, layers=layers, model_name=evil, notes=(evil,)), title=evil)

    assert "<script>alert" not in text
    assert len(figures(text)) == len(sections(report, (make_sensitivity(),)))


@pytest.mark.parametrize(
    "report",
    [
        make_partial_report(),
        replace(make_report(), layers=()),
        make_report(exclude=("*",)),
        replace(make_report(), timing=None, size=None, output=None),
        replace_layer(make_report(), "conv1", local_error=None, accumulated_error=None),
    ],
    ids=["partial", "no_layers", "all_float", "nothing_measured", "one_unknown"],
)
def test_reports_that_know_little_are_still_pages(report: ModelReport) -> None:
    text = to_html(report).decode()

    assert text.rstrip().endswith("</html>")
    assert ("stopped early" in text) == report.is_partial


def test_a_page_without_figures_carries_no_library() -> None:
    empty = replace(make_report(), layers=(), size=None, timing=None)

    assert len(to_html(empty)) < 20_000


def test_the_page_keeps_executions_apart_and_says_what_gains() -> None:
    report = with_integer_times(make_report(), is_lowered=False)
    text = html.unescape(page(report))
    titles = [section.title for section in sections(report)]

    assert "Time inside each layer" in titles
    for words in (
        "On integers: slower than float.",
        "Simulated int8: never a speed-up.",
        "Baseline: float (channels last), the faster of the two float layouts.",
        "9 of 10 quantized layers computed on integers, by kernel: oneDNN.",
        "<td>integers, oneDNN</td>",
        "A branch is traced.",
    ):
        assert words in text, words


def test_a_run_without_integer_times_makes_no_claim_about_them() -> None:
    assert "On integers: not timed." in page(make_report())


def test_csv_and_json_hold_every_execution() -> None:
    report = with_integer_times(make_report())
    header, first, *_ = to_layer_csv(report).decode("utf-8-sig").splitlines()

    for column in ("integer_median_ms_at_batch_64", "integer_execution", "integer_kernel"):
        assert column in header.split(",")
    assert "onednn" in first
    assert ModelReport.from_json(to_json(report).decode()) == report


def test_dynamic_inputs_are_not_called_float() -> None:
    report = make_dynamic_report()
    cells = layer_table(report)[0]

    assert cells["Input bits"] == "8, dynamic (per batch)"
    assert "dynamic (per batch)" in page(report)
    assert "Errors of the inputs in steps of the grid" in [
        section.title for section in sections(report)
    ]
    assert page(report).count("4 batches of at most 100 samples") == 3  # head, figure, its alt
    assert "batches" not in page(make_report())
    row = to_layer_csv(report).decode("utf-8-sig").splitlines()[1]
    assert "8-bit asymmetric per tensor, dynamic (per batch)" in row


def test_several_widths_give_a_grid_and_a_ranking_each() -> None:
    measured = make_options(Sweep(parts="weights", bits=(8, 4)))
    found = [s for s in sections(make_report(), (measured,)) if s.title.startswith("Sensitivity")]

    name = "Sensitivity, single-layer, weights only, 8 and 4 bits"
    assert [s.title for s in found] == [
        name,
        f"{name}: ranked at 8 bits",
        f"{name}: ranked at 4 bits",
    ]
    assert "; all layers together: " in found[0].picture.alt
    assert "compared on the same samples" in found[1].remark
    text = to_html(make_report(), (measured,)).decode()
    assert html.escape(name) in text


def test_the_csv_has_columns_for_every_sweep_and_width() -> None:
    measured = (make_sensitivity(), make_options(Sweep(parts="weights", bits=(8, 4))))
    head = to_layer_csv(make_report(), measured).decode("utf-8-sig").splitlines()[0].split(",")

    for prefix in ("one_at_a_time", "one_at_a_time_weights_8_bits", "one_at_a_time_weights_4_bits"):
        assert head.count(f"{prefix}_kl_divergence_nats") == 1
    assert "one_at_a_time_weights_4_bits_quantized_bytes" in head
    assert "one_at_a_time_quantized_bytes" not in head
    assert len(head) == len(set(head))


def test_several_widths_survive_as_json() -> None:
    measured = make_options(Sweep(bits=(8, 4)))

    assert SensitivityReport.from_json(to_json(measured).decode()) == measured
