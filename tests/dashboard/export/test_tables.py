"""Tables: every number of the report under a name that carries its unit."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from dashboard.export import tables
from dashboard.facts.layer_rows import error_rows, grid_rows
from dashboard.figures.cost.size import model_size_picture
from dashboard.figures.cost.timing import model_timing_picture
from dashboard.figures.kit.picture import Picture
from dashboard.figures.layers.error_ridges import layer_errors_picture
from dashboard.figures.sensitivity.cumulative import cumulative_picture
from dashboard.figures.tensor.channels import channels_picture
from dashboard.figures.tensor.codes import codes_picture
from dashboard.figures.tensor.distributions import lsb_picture, values_picture
from dashboard.figures.tensor.range_choices import ranges_picture
from quant_engine.report import SensitivityReport
from tests.dashboard.factories import (
    EXACT_LAYER,
    EXCLUDED_LAYER,
    UNSUPPORTED_LAYER,
    WIDE_LAYER,
    make_partial_report,
    make_report,
    make_sensitivity,
)

LAYER = "layer2.0.conv1"


def data_of(picture: Picture) -> tables.Table:
    return tables.table(picture.rows())


def row(name: str, *sensitivities: SensitivityReport) -> dict[str, object]:
    data = tables.layers_table(make_report(), sensitivities)
    (found,) = data[data.layer == name].to_dict("records")
    return {str(key): value for key, value in found.items()}


def test_there_is_one_row_a_layer_in_the_order_they_run() -> None:
    report = make_report()

    assert list(tables.layers_table(report).layer) == [layer.name for layer in report.layers]


def test_a_row_holds_the_reports_own_numbers() -> None:
    layer = make_report().layer(LAYER)
    found = row(LAYER, make_sensitivity())

    assert layer.weight is not None
    assert layer.input is not None
    assert layer.local_error is not None
    assert layer.accumulated_error is not None
    assert found["weight_sqnr_db"] == layer.weight.error.sqnr_db
    assert found["weight_shape"] == "32x16x3x3"
    assert found["weight_scheme"] == "8-bit symmetric per channel, min–max"
    assert found["weight_scale_max"] == max(layer.weight.scale)
    assert found["input_clipped_percent"] == 100 * (layer.input.error.clipped_fraction or 0)
    assert found["input_codes_used"] == layer.input.codes.codes_used
    assert found["input_rmse_lsb"] == layer.input.error.rmse_over_scale
    assert found["local_nmse"] == layer.local_error.nmse
    assert found["accumulated_sqnr_db"] == layer.accumulated_error.sqnr_db
    assert found["quantized_bytes"] == layer.size.quantized_bytes
    assert found["float_median_ms_at_batch_64"] == pytest.approx(1.2)
    measured = next(x for x in make_sensitivity().layers if x.name == LAYER)
    assert found["one_at_a_time_kl_divergence_nats"] == measured.kl_divergence
    assert found["one_at_a_time_kl_divergence_nats_low"] == measured.interval[0]


def test_what_stays_float_has_a_reason_and_empty_cells() -> None:
    for name in (EXCLUDED_LAYER, UNSUPPORTED_LAYER):
        found = row(name)
        assert found["reason"]
        assert math.isnan(float(str(found["weight_sqnr_db"])))
        assert math.isfinite(float(str(found["accumulated_sqnr_db"])))
    assert row(EXACT_LAYER)["weight_sqnr_db"] == math.inf


def test_whole_numbers_stay_whole_where_a_layer_has_none() -> None:
    text = tables.to_csv(tables.layers_table(make_report())).decode("utf-8-sig")
    rows = {found["layer"]: found for found in csv.DictReader(io.StringIO(text))}
    layer = make_report().layer(LAYER)
    assert layer.weight is not None
    assert layer.input is not None
    for column, value in {
        "weight_bits": layer.weight.scheme.bits,
        "weight_zero_point_min": min(layer.weight.zero_point),
        "input_zero_point_min": min(layer.input.zero_point),
        "input_codes_used": layer.input.codes.codes_used,
        "weight_values": layer.weight.error.count,
    }.items():
        assert rows[LAYER][column] == str(value), column
        assert rows[UNSUPPORTED_LAYER][column] == ""


def test_fractions_stay_fractions_though_all_of_them_are_whole() -> None:
    data = tables.table([{"share": 1.0, "count": 3}, {"share": None}])
    assert tables.to_csv(data).decode("utf-8-sig").split() == ["share,count", "1.0,3", ","]


def test_csv_reads_back_and_marks_its_encoding() -> None:
    raw = tables.to_csv(tables.layers_table(make_report()))

    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"))))
    by_name = {found["layer"]: found for found in rows}
    assert len(rows) == len(make_report().layers)
    assert by_name[EXACT_LAYER]["weight_sqnr_db"] == "inf"
    assert by_name[EXCLUDED_LAYER]["weight_sqnr_db"] == ""
    assert float(by_name[LAYER]["weight_nmse"]) == row(LAYER)["weight_nmse"], "no digit is lost"


def test_partial_reports_have_tables_too() -> None:
    data = tables.layers_table(make_partial_report())

    assert len(data) == 5
    assert data["local_sqnr_db"].isna().sum() == 2
    nothing = tables.layers_table(replace(make_report(), layers=()))
    assert len(nothing) == 0


def test_histograms_keep_every_count_with_open_bins_at_the_ends() -> None:
    tensor = make_report("int8_entropy").layer(LAYER).input
    assert tensor is not None
    values, errors = (data_of(draw(tensor, "Inputs")) for draw in (values_picture, lsb_picture))

    assert values.float_values.sum() == tensor.error.count
    odd = replace(tensor.values, float_below=1, float_above=2, quantized_below=3, quantized_above=4)
    ends = data_of(values_picture(replace(tensor, values=odd), "Inputs")).iloc[[0, -1]]
    assert list(ends.float_values) == [1, 2]
    assert list(ends.dequantized_values) == [3, 4]
    assert values.dequantized_values.sum() == tensor.error.count
    assert errors["values"].sum() == tensor.error.count
    for table, low, high in ((values, "from", "to"), (errors, "from_lsb", "to_lsb")):
        assert table[low].iloc[0] == -math.inf
        assert table[high].iloc[-1] == math.inf
        assert list(table[high].iloc[:-1]) == list(table[low].iloc[1:]), "bins touch"


def test_all_error_histograms_in_one_table() -> None:
    report = make_report()
    table = data_of(layer_errors_picture(report, "input"))

    assert list(dict.fromkeys(table.layer)) == [x.name for x in report.layers if x.input]
    assert data_of(layer_errors_picture(make_report("int8_weights_only"), "input")).empty


def test_channels_have_their_own_scale_or_share_one() -> None:
    own = make_report().layer(WIDE_LAYER).weight
    shared = make_report("int8_per_tensor").layer(WIDE_LAYER).weight
    assert own is not None
    assert shared is not None

    table = data_of(channels_picture(own))
    assert len(table) == 2048
    assert list(table.scale) == list(own.scale)
    assert data_of(channels_picture(shared)).scale.nunique() == 1
    entry = make_report().layer(LAYER).input
    assert entry is not None
    assert data_of(channels_picture(entry)).empty


def test_codes_and_ranges() -> None:
    entry = make_report().layer(LAYER).input
    assert entry is not None
    codes, ranges = (data_of(draw(entry, "Inputs")) for draw in (codes_picture, ranges_picture))

    assert (codes.code.iloc[0], codes.code.iloc[-1]) == (-128, 127)
    assert tuple(codes["values"]) == entry.codes.counts
    assert list(ranges[ranges.is_used].observer) == ["minmax"]


def test_sensitivity_without_logits_names_the_measure_of_its_interval() -> None:
    plain, without = make_sensitivity(), make_sensitivity(has_logits=False)

    assert "one_at_a_time_kl_divergence_nats_low" in row(LAYER, plain)
    assert "one_at_a_time_output_nmse_low" in row(LAYER, without)
    curve = data_of(cumulative_picture(plain))
    assert list(curve.quantized_layers) == list(range(len(plain.layers) + 1))


def test_sizes_add_up_and_times_name_their_conditions() -> None:
    report = make_report()
    assert report.size is not None
    assert report.timing is not None
    size = data_of(model_size_picture(report))

    assert size["bytes"][:-1].sum() == size["bytes"].iloc[-1] == report.size.quantized_bytes
    times = data_of(model_timing_picture(report.timing, 1))
    assert len(times) == len(report.timing.models) + len(report.timing.layers)
    assert set(times.columns) >= {"median_ms", "q1_ms", "q3_ms", "batch_size", "threads", "cpu"}


def test_the_numbers_of_a_layer_in_words() -> None:
    layer = make_report("int8_entropy").layer(LAYER)
    errors = {r["Number"]: r for r in error_rows(layer)}
    grid = {r["Number"]: r for r in grid_rows(layer)}

    assert set(errors["Values clipped"]) == {"Number", "Weights", "Inputs", "Local", "Accumulated"}
    assert errors["Values clipped"]["Inputs"] == "0.2 %"
    assert errors["Error energy from clipping"]["Inputs"].startswith("99.")
    assert errors["RMS error (LSB, ideal 0.289)"]["Local"] == "–"
    assert grid["Shape"]["Weights"] == "32 × 16 × 3 × 3"
    assert grid["Codes used"]["Inputs"] == "164 of 255"
    assert "32 channels" in grid["Scale (one step)"]["Weights"]
    weights_only = make_report("int8_weights_only").layer(LAYER)
    assert {r["Inputs"] for r in grid_rows(weights_only)} == {"stays float"}
    exact = {r["Number"]: r for r in error_rows(make_report().layer(EXACT_LAYER))}
    assert exact["SQNR (higher is better)"]["Weights"] == "exact"


def test_text_that_a_spreadsheet_would_run_is_quoted_and_numbers_stay() -> None:
    rows = [
        {"layer": '=HYPERLINK("http://other.example")', "error": -1.5, "count": None},
        {"layer": "-2+3", "error": None, "count": -3},
        {"layer": "@x", "error": 0.0, "count": 4},
        {"layer": "+1", "error": 0.0, "count": 4},
        {"layer": "conv1", "error": float("inf"), "count": 5},
    ]

    data = tables.table(rows)
    read = list(csv.reader(io.StringIO(tables.to_csv(data).decode("utf-8-sig"))))

    assert [row[0] for row in read[1:]] == [
        """'=HYPERLINK("http://other.example")""", "'-2+3", "'@x", "+1", "conv1"
    ]  # fmt: skip
    assert [row[1] for row in read[1:]] == ["-1.5", "", "0.0", "0.0", "inf"]
    assert [row[2] for row in read[1:]] == ["", "-3", "4", "4", "5"]
    assert data["layer"][0].startswith("=")  # the table itself is as it was
