from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.cost.size import (
    bits_text,
    float_weight_bytes,
    layer_bytes,
    layer_items,
    reduction_text,
    size_steps,
)
from dashboard.figures.cost.size import (
    ITEMS,
    LEFTOVERS,
    WEIGHTS,
    describe_layers,
    describe_steps,
    layer_size_figure,
    layer_size_rows,
    model_size_picture,
    step_rows,
    waterfall_figure,
)
from quant_engine.report import SizeReport
from tests.dashboard.factories import is_empty_figure, make_partial_report, make_report

REPORT = make_report()


def test_the_items_of_a_layer_add_up_to_its_bytes():
    for layer in REPORT.layers:
        assert sum(layer_items(layer).values()) == layer.size.quantized_bytes


def test_all_of_a_float_layer_stays_float():
    items = layer_items(REPORT.layer("fc"))
    assert items[LEFTOVERS.key] == REPORT.layer("fc").size.quantized_bytes
    assert items[WEIGHTS.key] == 0


def test_the_steps_lead_from_float_to_quantized():
    first, *changes, last = size_steps(REPORT)
    assert REPORT.size is not None
    assert first.is_total
    assert last.is_total
    assert first.bytes == REPORT.size.float_bytes
    assert last.bytes == REPORT.size.quantized_bytes
    assert first.bytes + sum(step.bytes for step in changes) == last.bytes
    assert [step.label for step in changes] == ["weights as int8", "scales", "zero points"]


def test_what_nothing_explains_is_a_step_of_its_own():
    assert REPORT.size is not None
    larger = replace(REPORT, size=replace(REPORT.size, float_bytes=REPORT.size.float_bytes + 640))
    *_, other, _last = size_steps(larger)
    assert (other.label, other.bytes) == ("BatchNorm folded away", -640)
    *_, other, _last = size_steps(replace(larger, notes=()))
    assert other.label == "other changes"


def test_the_float_weight_is_the_layer_without_its_bias():
    layer = REPORT.layer("layer1.0.conv1")
    assert layer.weight_shape == (16, 16, 3, 3)
    assert float_weight_bytes(layer) == 4 * 16 * 16 * 9
    assert float_weight_bytes(replace(layer, parameters=0)) == 0


def test_widths_are_named():
    assert bits_text(REPORT) == "int8"
    assert "packed" not in " ".join(model_size_picture(REPORT).about)
    narrow = make_report("int4_weights")
    assert bits_text(narrow) == "int4"
    assert "packed without gaps" in " ".join(model_size_picture(narrow).about)
    mixed = replace(REPORT, layers=(*REPORT.layers[:2], *narrow.layers[2:]))
    assert bits_text(mixed) == "int4 to int8"
    assert bits_text(replace(REPORT, layers=())) == "integers"


def test_the_waterfall_hangs_every_step_on_the_one_before():
    steps = size_steps(REPORT)
    (bars,) = waterfall_figure(steps).data
    assert bars.base[0] == 0
    assert bars.base[0] + bars.x[0] == steps[0].bytes
    level = steps[0].bytes
    for step, base, length in list(zip(steps, bars.base, bars.x, strict=True))[1:-1]:
        assert length == abs(step.bytes)
        assert base == min(level, level + step.bytes)
        level += step.bytes
    assert (bars.base[-1], bars.x[-1]) == (0, steps[-1].bytes)


def test_a_model_that_grows_is_drawn_and_said_so():
    size = SizeReport(100, 0, 40, 10, 60, 0, 300, 400, 40.0, 36.0)
    report = replace(REPORT, layers=(), size=size, notes=())
    steps = size_steps(report)
    assert steps[0].bytes + sum(s.bytes for s in steps if not s.is_total) == 110
    (bars,) = waterfall_figure(steps).data
    assert min(bars.x) >= 0
    assert reduction_text(size) == "+10 %"


@pytest.mark.parametrize("float_bytes", [0, 100])
def test_reduction_of_nothing_does_not_divide_by_zero(float_bytes):
    assert reduction_text(SizeReport(float_bytes, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0)) == "0 B"


def test_a_model_without_size_says_so():
    assert size_steps(make_partial_report()) == ()
    assert is_empty_figure(waterfall_figure(()))
    assert "not measured" in describe_steps(())


def test_rows_are_the_largest_layers_and_the_rest_together():
    rows = layer_bytes(REPORT.layers, top=3)
    biggest = sorted((layer.size.float_bytes for layer in REPORT.layers), reverse=True)
    assert [row.float_bytes for row in rows[:3]] == biggest[:3]
    assert rows[3].name == ""
    assert rows[3].label == f"{len(REPORT.layers) - 3} smaller layers"
    assert sum(row.float_bytes for row in rows) == sum(biggest)
    assert sum(row.quantized_bytes for row in rows) == sum(
        layer.size.quantized_bytes for layer in REPORT.layers
    )


def test_rows_can_keep_the_order_in_which_layers_run():
    everything = layer_bytes(REPORT.layers, is_sorted=False)
    assert [row.name for row in everything] == [layer.name for layer in REPORT.layers]
    few = [row.name for row in layer_bytes(REPORT.layers, top=3, is_sorted=False) if row.name]
    assert few == [layer.name for layer in REPORT.layers if layer.name in few]


def test_layer_bars_stack_the_items_and_carry_the_names():
    rows = layer_bytes(REPORT.layers, top=4)
    figure = layer_size_figure(rows, selected=rows[1].name)
    floats, *items, targets = figure.data
    assert list(targets.customdata) == list(floats.customdata)
    assert list(floats.x) == [row.float_bytes for row in rows]
    assert list(floats.customdata) == [row.name for row in rows]
    assert figure.layout.barmode == "stack"
    for index, row in enumerate(rows):
        assert sum(trace.x[index] for trace in items) == row.quantized_bytes
    assert {tuple(trace.y) for trace in items}.isdisjoint({tuple(floats.y)})
    assert figure.layout.yaxis.ticktext[1].startswith("▶")


def test_items_are_told_apart_by_their_colour_and_stand_in_the_order_of_the_legend():
    assert len({item.color for item in ITEMS}) == len(ITEMS)
    _, *items, _ = layer_size_figure(layer_bytes(REPORT.layers)).data
    order = [item.label for item in ITEMS]
    assert [trace.name for trace in items] == [name for name in order if name in order]
    assert not [trace for trace in items if trace.marker.pattern.shape]


def test_items_that_no_layer_has_are_not_in_the_legend():
    rows = layer_bytes([REPORT.layer("fc")])
    shown = [trace.name for trace in layer_size_figure(rows).data if trace.showlegend is not False]
    assert shown == ["float", LEFTOVERS.label]


def test_many_long_names_stay_apart():
    layers = [
        replace(REPORT.layers[0], name=f"encoder.blocks.{i}.attention.out_projection.inner")
        for i in range(120)
    ]
    figure = layer_size_figure(layer_bytes(layers))
    assert len(set(figure.data[0].y)) == 120
    assert figure.layout.height > 120 * 25
    assert max(len(text) for text in figure.layout.yaxis.ticktext) < 40
    assert len(set(figure.layout.yaxis.ticktext)) == 120


def test_no_layers_say_so():
    assert is_empty_figure(layer_size_figure(()))
    assert describe_layers(()) == "The report holds no layers."


def test_words_name_the_figures():
    assert REPORT.size is not None
    assert "188 kB in float" in describe_steps(size_steps(REPORT))
    assert "layer3.0.conv1" in describe_layers(layer_bytes(REPORT.layers))


def test_tables_hold_what_the_figures_show():
    rows = layer_size_rows(layer_bytes(REPORT.layers, is_sorted=False))
    assert [row["layer"] for row in rows] == [layer.name for layer in REPORT.layers]
    assert rows[0]["weight_bytes"] == REPORT.layers[0].size.weight_bytes
    assert [row["bytes"] for row in step_rows(size_steps(REPORT))] == [
        step.bytes for step in size_steps(REPORT)
    ]
