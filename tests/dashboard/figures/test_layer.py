"""Figures of the Layer page: their bars are the report's counts, whatever the report holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import plotly.graph_objects as go
import pytest

from dashboard.facts.layer_rows import grid_rows
from dashboard.facts.tensors import (
    best_choice,
    channel_sqnrs,
    channels_of,
    grid_range,
    tensors_of,
    why_no_choice,
    worst_channels,
)
from dashboard.figures.kit.axes import FILL
from dashboard.figures.kit.theme import CLIPPED, FLOAT, INT8, TEMPLATE
from dashboard.figures.layers.error_ridges import TALLEST, describe_errors, layer_errors_picture
from dashboard.figures.tensor.cause import weight_side
from dashboard.figures.tensor.channels import (
    MOST_BARS,
    channels_picture,
    worst_channels_picture,
)
from dashboard.figures.tensor.codes import codes_picture, describe_codes, end_code_share
from dashboard.figures.tensor.distributions import (
    lsb_picture,
    values_picture,
)
from dashboard.figures.tensor.range_choices import range_rows, ranges_picture
from dashboard.figures.tensor.worked_example import Step, worked_picture, worked_steps
from quant_engine.report import (
    CodeUsage,
    ErrorHistogram,
    TensorReport,
    ValueHistogram,
)
from quant_engine.scheme import TensorScheme
from tests.dashboard.factories import (
    EXACT_LAYER,
    WIDE_LAYER,
    figure_of,
    is_empty_figure,
    make_channels,
    make_report,
    replace_layer,
)

LAYER = "layer2.0.conv1"
layer_error_histograms = figure_of(layer_errors_picture)
value_histogram = partial(figure_of(values_picture), subject="Weights")
lsb_histogram = partial(figure_of(lsb_picture), subject="Weights")
code_usage = partial(figure_of(codes_picture), subject="Weights")
range_choices = partial(figure_of(ranges_picture), subject="Weights")
channel_ranges = figure_of(channels_picture)
worst_channel_bars = figure_of(worst_channels_picture)

PRESETS = ("int8_per_channel", "int8_per_tensor", "int8_entropy", "int4_weights")


def weight(preset: str = "int8_per_channel", layer: str = LAYER) -> TensorReport:
    tensor = make_report(preset).layer(layer).weight
    assert tensor is not None
    return tensor


def entry(preset: str = "int8_per_channel", layer: str = LAYER) -> TensorReport:
    tensor = make_report(preset).layer(layer).input
    assert tensor is not None
    return tensor


def steps_of(tensor: TensorReport) -> tuple[Step, ...]:
    return worked_steps(tensor, tensor.example)


def worked_number_line(tensor: TensorReport) -> go.Figure:
    return worked_picture(tensor, tensor.example).figure


def trace(figure: go.Figure, name: str) -> Any:
    (found,) = [t for t in figure.data if t.name == name]
    return found


def spec(figure: go.Figure) -> dict[str, Any]:
    """The figure as the browser gets it; NaN and infinity have no place in it."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"the figure holds {constant}")

    parsed: dict[str, Any] = json.loads(figure.to_json(), parse_constant=refuse)
    return parsed


TENSOR_FIGURES: dict[str, Callable[[TensorReport], go.Figure]] = {
    "values": value_histogram,
    "values_log": lambda t: value_histogram(t, is_log=True),
    "lsb": lsb_histogram,
    "lsb_log": lambda t: lsb_histogram(t, is_log=True),
    "codes": code_usage,
    "codes_log": lambda t: code_usage(t, is_log=True),
    "channels": channel_ranges,
    "worst_channels": worst_channel_bars,
    "ranges": range_choices,
    "example": worked_number_line,
}


def odd_tensors() -> dict[str, TensorReport]:
    """Tensors at the edges of what a report can hold."""
    plain, narrow = weight("int8_per_tensor"), entry()
    unknown = replace(
        plain.error,
        rmse_over_scale=None,
        rounding_mse=None,
        clipping_mse=None,
        clipped_fraction=None,
    )
    count = len(plain.channels.lo) if plain.channels else 0
    return {
        "exact": weight(layer=EXACT_LAYER),
        "wide": weight(layer=WIDE_LAYER),
        "unknown_split": replace(plain, error=unknown),
        "constant": replace(
            plain,
            lo=5.0,
            hi=5.0,
            values=ValueHistogram(4.5, 5.5, (0, 9, 0), (0, 9, 0), 0, 0, 0, 0),
            lsb_error=ErrorHistogram(-1.0, 1.0, (0, 0, 9, 0), 0, 0),
        ),
        "zeros": replace(
            plain,
            lo=0.0,
            hi=0.0,
            error=replace(plain.error, sqnr_db=math.inf, mse=0.0),
            channels=make_channels((0.0,) * count, (0.0,) * count, (math.inf,) * count),
        ),
        "lost_channel": replace(
            plain, channels=make_channels((0.0, -1.0), (0.0, 1.0), (-math.inf, 20.0))
        ),
        "one_channel": replace(plain, channels=make_channels((-1.0,), (1.0,), (40.0,))),
        "empty_codes": replace(narrow, codes=CodeUsage(-128, (0,) * 256)),
        "exact_choice": replace(
            narrow,
            range_choices=tuple(replace(c, sqnr_db=math.inf) for c in narrow.range_choices),
        ),
        "input": narrow,
        "clipped_input": entry("int8_entropy"),
        "4_bits": weight("int4_weights"),
    }


@pytest.mark.parametrize("tensor", odd_tensors().values(), ids=list(odd_tensors()))
@pytest.mark.parametrize("draw", TENSOR_FIGURES.values(), ids=list(TENSOR_FIGURES))
def test_every_figure_of_a_tensor_is_valid_and_labelled(
    draw: Callable[[TensorReport], go.Figure], tensor: TensorReport
) -> None:
    figure = draw(tensor)

    assert_valid(figure)


def assert_valid(figure: go.Figure) -> None:
    layout = spec(figure)["layout"]
    assert layout["title"]["text"]
    assert layout["template"]["layout"]["font"] == TEMPLATE["layout"]["font"]
    if is_empty_figure(figure):
        assert figure.layout.annotations[0].text
        return
    titles = [layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]]
    assert any(titles), "no axis has a title"
    for kind in ("histogram", "violin", "heatmap"):
        assert all(t.type != kind for t in figure.data), "raw values do not belong in a figure"


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_value_bars_are_the_reports_counts(preset: str) -> None:
    tensor = entry(preset)
    figure = value_histogram(tensor)

    histogram = tensor.values
    width = (histogram.hi - histogram.lo) / len(histogram.float_counts)
    before, after = trace(figure, "float"), trace(figure, "dequantized")
    assert tuple(before.y) == histogram.float_counts
    assert tuple(after.y) == histogram.quantized_counts
    assert before.x[0] == pytest.approx(histogram.lo + width / 2)
    assert before.x[-1] == pytest.approx(histogram.hi - width / 2)
    assert before.width == pytest.approx(width)
    assert after.width < before.width, "the two differ in width, not by colour alone"
    assert (before.marker.color, after.marker.color) == (FLOAT, INT8)


def test_values_beyond_the_bins_have_labelled_bars_outside_them() -> None:
    histogram = replace(
        entry().values, float_below=3, float_above=5, quantized_below=0, quantized_above=7
    )
    figure = value_histogram(replace(entry(), values=histogram))

    open_bars = [t for t in figure.data if "below" in t.name or "above" in t.name]
    assert sorted(t.y[0] for t in open_bars) == [3, 5, 7]
    for bar in open_bars:
        assert bar.marker.pattern.shape is None, "hatches flicker"
        is_clipped = bar.name.startswith("float")
        assert list(bar.text) == ["clipped" if is_clipped else "beyond"]
        x, (low, high) = bar.x[0], figure.layout.xaxis.range
        assert low < x - bar.width / 2
        assert x + bar.width / 2 < high
        is_left = "below" in bar.name
        assert (x + bar.width / 2 < histogram.lo) if is_left else (x - bar.width / 2 > histogram.hi)


def test_the_end_of_the_grid_is_marked_where_values_lie_beyond_it() -> None:
    clipped = replace(entry("int8_entropy").values, float_above=4, float_below=0, quantized_below=0)
    tensor = replace(entry("int8_entropy"), values=clipped)
    grid = grid_range(tensor)
    assert grid is not None

    lines = [s for s in value_histogram(tensor).layout.shapes if s.type == "line"]
    assert [line.x0 for line in lines] == [grid[1]]
    assert not value_histogram(weight()).layout.shapes, "channels with own grids have no one end"
    assert grid_range(weight()) is None


# --- Errors in LSB --------------------------------------------------------------------------------


def test_lsb_bars_are_the_reports_counts_split_at_half_a_step() -> None:
    histogram = ErrorHistogram(-1.0, 1.0, (1, 2, 30, 40, 50, 60, 3, 4), below=6, above=7)
    figure = lsb_histogram(replace(entry(), lsb_error=histogram))

    inside, outside = trace(figure, "rounding"), trace(figure, "clipped: beyond ±0.5 LSB")
    assert list(inside.x) == [-0.375, -0.125, 0.125, 0.375]
    assert list(inside.y) == [30, 40, 50, 60]
    assert list(outside.y) == [1, 2, 3, 4]
    assert outside.marker.color == CLIPPED
    assert outside.marker.pattern.shape is None
    assert trace(figure, "below -1 LSB").y[0] == 6
    assert trace(figure, "above 1 LSB").y[0] == 7
    low, high = figure.layout.xaxis.range
    for name in ("below -1 LSB", "above 1 LSB"):
        assert low < trace(figure, name).x[0] < high


def test_the_ideal_holds_as_many_values_as_there_are() -> None:
    histogram = ErrorHistogram(-1.0, 1.0, (0, 0, 30, 40, 50, 60, 0, 0), below=10, above=10)
    figure = lsb_histogram(replace(entry(), lsb_error=histogram))

    ideal = trace(figure, "ideal rounding")
    assert list(ideal.x) == [-0.5, -0.5, 0.5, 0.5]
    bins_inside, total = 4, 200
    assert ideal.y[1] * bins_inside == pytest.approx(total)


def test_a_spike_is_cut_and_says_its_count() -> None:
    counts = (0, 0, 10, 11, 9000, 12, 0, 0)
    histogram = ErrorHistogram(-1.0, 1.0, counts, below=0, above=0)
    tensor = replace(entry(), lsb_error=histogram)
    cut, full = lsb_histogram(tensor), lsb_histogram(tensor, is_log=True)

    assert list(trace(cut, "rounding").y) == [10, 11, 9000, 12], "the bars stay true"
    assert "9,000" in cut.layout.annotations[0].text
    ideal = trace(cut, "ideal rounding").y[1]
    assert ideal < cut.layout.yaxis.range[1] < 9000, "the ideal stays in view"
    assert full.layout.yaxis.type == "log"
    assert not full.layout.annotations


# --- All layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["weight", "input"])
@pytest.mark.parametrize("preset", PRESETS)
def test_ridges_hold_every_count_of_every_layer(preset: str, part: str) -> None:
    report = make_report(preset)
    figure = layer_error_histograms(report, part)

    assert_valid(figure)
    drawn: dict[str, int] = {}
    for bars in (t for t in figure.data if t.type == "bar"):
        for name, _, count, _ in bars.customdata:
            drawn[name] = drawn.get(name, 0) + count
    expected = {
        name: sum(t.lsb_error.counts) + t.lsb_error.below + t.lsb_error.above
        for name, t in tensors_of(report, part).items()
    }
    assert drawn == expected


def test_ridge_rows_stand_in_the_order_the_layers_run_and_stay_in_their_row() -> None:
    figure = layer_error_histograms(make_report("int8_entropy"), "input")

    bases: dict[str, int] = {}
    for bars in (t for t in figure.data if t.type == "bar"):
        for base, height, custom in zip(bars.base, bars.y, bars.customdata, strict=True):
            assert bases.setdefault(custom[0], base) == base
            assert 0 < height <= FILL
    names = [name for name, _ in sorted(bases.items(), key=lambda item: -item[1])]
    assert names == list(tensors_of(make_report(), "input"))


def test_ridge_heights_are_densities_against_ideal_rounding() -> None:
    ideal = ErrorHistogram(-1.0, 1.0, (0,) * 4 + (5,) * 8 + (0,) * 4, 0, 0)
    spike = ErrorHistogram(-1.0, 1.0, (0,) * 8 + (40,) + (0,) * 7, 0, 0)
    report = make_report()
    for name, histogram in (("conv1", ideal), (LAYER, spike)):
        layer = report.layer(name)
        assert layer.weight is not None
        report = replace_layer(report, name, weight=replace(layer.weight, lsb_error=histogram))
    figure = layer_error_histograms(report)

    rows = trace(figure, "rounding")
    heights = {
        name: [y for y, c in zip(rows.y, rows.customdata, strict=True) if c[0] == name]
        for name in ("conv1", LAYER)
    }
    assert heights["conv1"] == pytest.approx([FILL / TALLEST] * 8)
    assert heights[LAYER] == [FILL], "the spike is eight times the ideal, and cut"
    cut = trace(figure, f"cut at {TALLEST:g} × ideal")
    assert [row[0] for row in cut.customdata if row[0] == LAYER] == [LAYER]


def test_few_clipped_values_are_still_visible() -> None:
    figure = layer_error_histograms(make_report("int8_entropy"), "input")

    clipped = trace(figure, "clipping")
    assert clipped.marker.pattern.shape is None
    assert min(clipped.y) > 0.1
    low, high = figure.layout.xaxis.range
    assert all(low < x < high for x in clipped.x)


def test_worst_keeps_the_lowest_local_sqnr_and_the_selected_layer() -> None:
    report = make_report()
    tensors = tensors_of(report, "input")
    local = {x.name: x.local_error.sqnr_db for x in report.layers if x.local_error is not None}
    order = sorted(tensors, key=lambda name: local[name])
    figure = layer_error_histograms(report, "input", worst=3, selected=order[-1])

    shown = {row[0] for t in figure.data if t.type == "bar" for row in t.customdata}
    assert shown == {*order[:2], order[-1]}
    assert sum("▶" in text for text in figure.layout.yaxis.ticktext) == 1
    assert f"3 of {len(tensors)} layers" in figure.layout.title.text


def test_the_title_counts_layers_only_where_some_are_left_out() -> None:
    report = make_report()
    count = len(tensors_of(report, "weight"))
    figure = layer_error_histograms(report, "weight", worst=count)
    assert "Error of every layer's weights" in figure.layout.title.text
    assert len(figure.layout.yaxis.ticktext) == count


def test_ridges_say_why_they_are_empty() -> None:
    weights_only = make_report("int8_weights_only")
    nothing = make_report(exclude=("*",))
    texts = [
        (layer_error_histograms(weights_only, "input"), "weights only"),
        (layer_error_histograms(nothing), "No layer is quantized"),
        (layer_error_histograms(replace(nothing, is_partial=True)), "stopped"),
        (layer_error_histograms(replace(nothing, layers=())), "No layer is quantized"),
    ]
    for figure, words in texts:
        assert is_empty_figure(figure)
        assert words in figure.layout.annotations[0].text.replace("<br>", " ")
    assert "weights only" in describe_errors(weights_only, "input")


def test_the_takeaway_names_the_worst_layer_and_the_clipping() -> None:
    assert "rounding alone" in describe_errors(make_report(), "weight")
    text = describe_errors(make_report("int8_entropy"), "input")
    assert WIDE_LAYER in text
    assert "10 of 10 layers clip" in text


# --- Channels -------------------------------------------------------------------------------------


def test_few_channels_are_bars_and_many_are_a_band() -> None:
    few, many = channel_ranges(weight()), channel_ranges(weight(layer=WIDE_LAYER))

    assert trace(few, "weights").type == "bar"
    assert len(trace(few, "weights").x) == 32 <= MOST_BARS
    band = trace(many, "weights")
    assert (band.type, band.fill, len(band.x)) == ("scatter", "tonexty", 2048)
    assert len(many.to_json()) < 600_000


@pytest.mark.parametrize("layer", [LAYER, WIDE_LAYER])
def test_channels_are_sorted_by_width_and_carry_their_own_range(layer: str) -> None:
    tensor = weight(layer=layer)
    figure = channel_ranges(tensor)

    assert tensor.channels is not None
    shown = trace(figure, "weights").customdata
    widths = [max(-tensor.channels.lo[c[0]], tensor.channels.hi[c[0]]) for c in shown]
    assert widths == sorted(widths, reverse=True)
    assert sorted(c[0] for c in shown) == list(range(len(widths)))


def test_a_channels_bar_spans_its_range_inside_its_grid() -> None:
    figure = channel_ranges(weight())

    bars, grid = trace(figure, "weights"), [t for t in figure.data if t.name == "grid"]
    assert len(grid) == 2
    highs, lows = (list(t.y)[1:-1] for t in grid)
    for base, height, high, low in zip(bars.base, bars.y, highs, lows, strict=True):
        assert low - 1e-9 <= base
        assert base + height <= high + 1e-9
    one = channel_ranges(weight("int8_per_tensor"))
    assert len(set(trace_group(one, "grid (one scale)")[0].y)) == 1


@pytest.mark.parametrize("channels", [2, 32])
def test_weights_in_groups_have_no_grid_of_a_channel_to_draw(channels: int) -> None:
    # The smallest and the largest step of a group: two entries, also where channels are two.
    plain = weight()
    assert plain.channels is not None
    picked = {
        name: getattr(plain.channels, name)[:channels]
        for name in ("lo", "hi", "sqnr_db", "became_zero")
    }
    scheme = TensorScheme(4, False, "per_group", group_size=64)
    tensor = replace(
        plain,
        scheme=scheme,
        scale=(0.01, 0.03),
        zero_point=(-1, 2),
        channels=replace(plain.channels, **picked),
    )

    figure = channel_ranges(tensor)

    assert not [t for t in figure.data if (t.name or "").startswith("grid")]
    assert {row["scale"] for row in channels_picture(tensor).rows()} == {None}
    assert grid_range(tensor) is None
    layer = replace_layer(make_report(), LAYER, weight=tensor).layer(LAYER)
    side = weight_side(layer)
    assert side.half_step is None
    assert "every group of 64 weights has its own step" in side.words
    grid = {row["Number"]: row["Weights"] for row in grid_rows(layer)}
    groups = channels * math.ceil(tensor.channels.channel_size / 64)
    assert grid["Scale (one step)"] == f"0.01 to 0.03 ({groups} groups)"
    assert "per group of 64" in grid["Scheme"]
    assert "Every group of 64 weights" in why_no_choice(tensor)
    for picture in (channels_picture(tensor), values_picture(tensor, "Weights")):
        assert "Every group of 64 weights has a grid of its own" in " ".join(picture.about)
        spec(picture.figure)


def trace_group(figure: go.Figure, name: str) -> list[Any]:
    return [t for t in figure.data if t.name == name]


def test_worst_channels_are_the_lowest_sqnrs() -> None:
    tensor = weight("int8_per_tensor", WIDE_LAYER)
    assert tensor.channels is not None
    worst = worst_channels(tensor)

    assert [c.sqnr_db for c in worst] == sorted(tensor.channels.sqnr_db)[:10]
    figure = worst_channel_bars(tensor)
    sqnr = next(t for t in figure.data if t.xaxis == "x2")
    assert list(sqnr.x) == [c.sqnr_db for c in worst if math.isfinite(c.sqnr_db)]
    assert f"channel {worst[0].index}<br>" in sqnr.y[0]
    assert channels_of(entry()) == ()
    assert "exact" in worst_channel_bars(weight(layer=EXACT_LAYER)).layout.annotations[0].text


# --- Codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_code_bars_are_the_reports_counts(preset: str) -> None:
    tensor = weight(preset)
    figure = code_usage(tensor)

    inner = trace(figure, "values")
    ends = trace(figure, "end codes: clipped values land here")
    codes = dict(zip([*inner.x, *ends.x], [*inner.y, *ends.y], strict=True))
    expected = dict(enumerate(tensor.codes.counts, start=tensor.codes.qmin))
    assert codes == expected
    assert len(inner.x) + len(ends.x) == len(expected), "no code is drawn twice"
    assert set(ends.x) == {tensor.scheme.qmin, tensor.scheme.qmax}
    assert ends.marker.pattern.shape is None
    assert f"{tensor.codes.codes_used} of {len(tensor.codes.counts)}" in figure.layout.title.text


def test_the_share_of_end_codes() -> None:
    tensor = replace(entry(), codes=CodeUsage(-2, (1, 6, 0, 3)))

    assert end_code_share(tensor) == pytest.approx(0.4)
    assert describe_codes(tensor) == "3 of 4 codes are used; 40 % of the values have an end code."


# --- Ranges ---------------------------------------------------------------------------------------


def test_each_rule_has_its_range_and_its_sqnr() -> None:
    tensor = entry()
    figure = range_choices(tensor)

    ranges, sqnrs = figure.data
    for i, choice in enumerate(tensor.range_choices):
        assert ranges.base[i] == choice.lo
        assert ranges.base[i] + ranges.x[i] == pytest.approx(choice.hi)
        assert sqnrs.x[i] == choice.sqnr_db
    used = [i for i, name in enumerate(ranges.y) if "in use" in name]
    assert [tensor.range_choices[i].observer for i in used] == [tensor.scheme.observer]
    assert [ranges.marker.pattern.shape[i] for i in used] == [""], "the rule in use is solid"
    best = best_choice(tensor.range_choices)
    assert best is not None
    assert best.sqnr_db == max(c.sqnr_db for c in tensor.range_choices)
    assert best_choice(()) is None


def test_one_scale_is_compared_with_one_per_channel() -> None:
    channels = weight().channels
    assert channels is not None
    channels = replace(channels, sqnr_db=(10.0, 30.0))
    tensor = replace(entry(), channels=channels, per_channel_sqnr_db=40.0)

    own = -10 * math.log10((0.1 + 0.001) / 2)
    assert channel_sqnrs(tensor) == (pytest.approx(own), 40.0)
    bars = range_choices(tensor).data[-1]
    assert list(bars.x) == [pytest.approx(own), 40.0]
    assert "per channel" in bars.y[1]
    assert [row["estimated_sqnr_db"] for row in range_rows(tensor)][-2:] == [
        pytest.approx(own),
        40.0,
    ]
    assert channel_sqnrs(weight()) is None, "it has a scale per channel already"


def test_channels_with_own_ranges_say_why_nothing_is_compared() -> None:
    figure = range_choices(weight())

    assert is_empty_figure(figure)
    assert "range of its own" in figure.layout.annotations[0].text.replace("<br>", " ")


# --- One value ------------------------------------------------------------------------------------


def example(**changes: Any) -> TensorReport:
    tensor = entry()
    fields = {"value": 1.23, "scale": 0.1, "zero_point": -28, "code": -16, "dequantized": 1.2}
    worked = replace(tensor.example, **(fields | changes))
    return replace(tensor, example=worked)


def test_the_steps_follow_the_arithmetic() -> None:
    steps = steps_of(example())

    assert [step.result for step in steps] == ["12.3", "12", "−16", "−16", "1.2", "−0.03"]
    assert "already inside" in steps[3].meaning
    assert steps[5].meaning.startswith("−0.3 LSB")


def test_a_clipped_value_is_called_so() -> None:
    steps = steps_of(example(value=20.0, code=127, dequantized=15.5))

    assert [step.result for step in steps[:4]] == ["200", "200", "172", "127"]
    assert "clipped" in steps[3].meaning
    assert steps[5].meaning == "−45 LSB"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("layer", [LAYER, WIDE_LAYER, EXACT_LAYER])
def test_the_steps_agree_with_the_report(preset: str, layer: str) -> None:
    for tensor in (weight(preset, layer), entry(preset, layer)):
        steps = {step.name: step for step in steps_of(tensor)}
        code = tensor.example.code
        assert steps["Clamp"].result == str(code).replace("-", "−")


def test_the_number_line_shows_the_value_among_its_neighbours() -> None:
    figure = worked_number_line(example())

    grid = trace(figure, "codes of the grid")
    assert list(grid.text) == ["−19", "−18", "−17", "−16", "−15", "−14", "−13"]
    assert grid.x[3] == pytest.approx(1.2)
    assert list(trace(figure, "float value x").x) == [1.23]
    far = worked_number_line(example(value=20.0, code=127, dequantized=15.5))
    assert [text for text in trace(far, "codes of the grid").text if text] == ["127"]
    low, high = far.layout.xaxis.range
    assert low < 15.5
    assert high > 20.0
