from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from dashboard.facts.sensitivity.curve import (
    float_layers,
    is_folded_first,
    measured_counts,
    most_quantized_without_loss,
    point_with_float_layers,
)
from dashboard.facts.sensitivity.metrics import METRICS, available_metrics
from dashboard.facts.sensitivity.proxies import PROXIES, Agreement, LayerPair, measure_agreement
from dashboard.facts.sensitivity.ranking import find_layers, layer_front, rank_layers
from dashboard.figures.kit.axes import SELECTED_MARK
from dashboard.figures.kit.point_labels import point_labels
from dashboard.figures.sensitivity.agreement import (
    agreement_picture,
    agreement_rows,
    describe_agreement,
)
from dashboard.figures.sensitivity.cumulative import (
    cumulative_picture,
    curve_rows,
    describe_curve,
    describe_point,
)
from dashboard.figures.sensitivity.ranking import (
    describe_ranking,
    ranking_picture,
    ranking_rows,
    setting_text,
)
from dashboard.figures.sensitivity.tradeoff import describe_front, tradeoff_picture
from quant_engine.report import CumulativePoint, NeighbourComparison, Ranking
from tests.dashboard.factories import EXACT_LAYER, figure_of, is_empty_figure, make_sensitivity
from tests.dashboard.factories import make_report as make_model_report
from tests.dashboard.small_sensitivity import make_layer, make_report

KL = METRICS["kl_divergence"]
SQNR = METRICS["sqnr_db"]

ranking_figure = figure_of(ranking_picture)
tradeoff_figure = figure_of(tradeoff_picture)
cumulative_figure = figure_of(cumulative_picture)
agreement_figure = figure_of(agreement_picture)


def three_layers(**settings):
    return make_report(
        [
            make_layer("a", 1e-3, (8e-4, 2e-3), float_bytes=4000, quantized_bytes=1000),
            make_layer("b", 1e-5, (5e-6, 2e-5), float_bytes=9000, quantized_bytes=2000),
            make_layer("c", 8e-4, (6e-4, 9e-4), float_bytes=2000, quantized_bytes=500),
        ],
        **settings,
    )


def trace(figure, name):
    (found,) = [t for t in figure.data if t.name == name]
    return found


def test_bars_carry_values_names_and_intervals_in_order():
    report = three_layers()
    bars = ranking_figure(report, rank_layers(report, KL), KL).data[0]
    assert list(bars.customdata) == ["a", "c", "b"]
    assert list(bars.x) == [1e-3, 8e-4, 1e-5]
    assert list(bars.error_x.array) == pytest.approx([1e-3, 1e-4, 1e-5])
    assert list(bars.error_x.arrayminus) == pytest.approx([2e-4, 2e-4, 5e-6])


def test_a_bracket_joins_tied_neighbours_only():
    report = three_layers()
    figure = ranking_figure(report, rank_layers(report, KL), KL)
    (bracket,) = [shape for shape in figure.layout.shapes if shape.type == "path"]
    assert bracket.path.startswith("M 4,-0.3")
    assert bracket.path.endswith("L 4,1.3")
    assert any("statistically tied" in (t.name or "") for t in figure.data)


def test_no_bracket_where_nothing_is_tied():
    report = make_report([make_layer("a", 0.1), make_layer("b", 0.2)])
    figure = ranking_figure(report, rank_layers(report, KL), KL)
    assert not figure.layout.shapes
    assert not any("tied" in (t.name or "") for t in figure.data)


def test_brackets_follow_the_rows_that_a_filter_leaves():
    report = make_report(
        [
            make_layer("x1", 1.0, (0.95, 1.05)),
            make_layer("y", 0.9, (0.89, 0.91)),
            make_layer("x2", 0.8, (0.6, 0.97)),
        ]
    )
    rows = find_layers(rank_layers(report, KL), "x", None)
    figure = ranking_figure(report, rows, KL)
    assert [row.position for row in rows] == [1, 3]
    assert len([shape for shape in figure.layout.shapes if shape.type == "path"]) == 1


def test_a_zero_is_not_drawn_on_a_logarithmic_axis_but_its_number_stands_beside():
    report = make_report([make_layer("a", 1e-4), make_layer("zero", 0.0)])
    figure = ranking_figure(report, rank_layers(report, KL), KL, is_log=True)
    bars = figure.data[0]
    assert bars.x[1] is None
    assert bars.x[0] == pytest.approx(1e-4)
    assert bars.type == "scatter"  # a bar has no beginning on a logarithmic axis
    targets = figure.data[-1]
    assert targets.marker.color == "rgba(0,0,0,0)"
    assert not [t for t in figure.data if t.type == "bar" and t is not targets]
    assert [note.text for note in figure.layout.annotations] == ["1e-04 nats", "0 nats"]


@pytest.mark.parametrize("is_log", [True, False])
def test_every_row_can_be_clicked_even_without_a_bar(is_log):
    report = make_report([make_layer("a", 1e-4, (1e-5, 3e-4)), make_layer("zero", 0.0)])
    figure = ranking_figure(report, rank_layers(report, KL), KL, is_log=is_log)
    targets = figure.data[-1]
    assert list(targets.customdata) == ["a", "zero"]
    assert [targets.base + length for length in targets.x] == pytest.approx([3e-4, 3e-4])
    assert targets.base > 0 or not is_log
    assert "zero" in targets.hovertext[1]
    assert targets.marker.color == "rgba(0,0,0,0)"


def test_all_zero_on_a_logarithmic_axis_still_draws():
    report = make_report([make_layer("a", 0.0), make_layer("b", 0.0)])
    figure = ranking_figure(report, rank_layers(report, KL), KL, is_log=True)
    assert list(figure.data[0].x) == [None, None]


def test_one_tiny_interval_end_does_not_stretch_the_logarithmic_axis():
    report = make_report([make_layer("a", 1e-3, (1e-40, 2e-3))])
    low, high = ranking_figure(report, rank_layers(report, KL), KL, is_log=True).layout.xaxis.range
    assert low >= -6
    assert high > math.log10(2e-3)


def test_infinite_sqnr_is_named_not_drawn():
    report = make_report([make_layer("a", sqnr_db=20.0), make_layer("b", sqnr_db=math.inf)])
    figure = ranking_figure(report, rank_layers(report, SQNR), SQNR)
    assert list(figure.data[0].x) == [20.0, None]
    assert figure.layout.annotations[1].text == "exact"


def test_a_measure_that_has_no_logarithm_ignores_the_wish_for_one():
    report = three_layers()
    figure = ranking_figure(report, rank_layers(report, SQNR), SQNR, is_log=True)
    assert figure.layout.xaxis.type != "log"


def test_the_selected_layer_is_marked_by_a_sign_and_not_by_colour_alone():
    report = three_layers()
    figure = ranking_figure(report, rank_layers(report, KL), KL, selected="c")
    marked = [text for text in figure.layout.yaxis.ticktext if text.startswith(SELECTED_MARK)]
    assert marked == [f"{SELECTED_MARK}2. c"]
    assert list(figure.data[0].marker.line.width) == [1, 3, 1]


def test_leave_one_out_draws_what_sparing_a_layer_gains():
    layers = [
        replace(make_layer("little", 4.5e-3), gain_interval=(2e-4, 8e-4)),
        replace(make_layer("much", 1e-3), gain_interval=(3e-3, 5e-3)),
        replace(make_layer("worse", 5.5e-3), gain_interval=(-8e-4, 1e-4)),
    ]
    reference = make_layer("", 5e-3)
    report = make_report(layers, direction="leave_one_out", reference=reference)
    names = ("much", "little", "worse")
    pairs = tuple(
        NeighbourComparison(above, below, 1e-3, (1e-4, 2e-3), is_tied=False)
        for above, below in pairwise(names)
    )
    report = replace(report, rankings=(Ranking("", names, pairs),))
    ranked = rank_layers(report, KL)
    figure = ranking_figure(report, ranked, KL, is_log=True)

    dots = figure.data[0]
    assert list(dots.customdata) == list(names)
    assert list(dots.x) == pytest.approx([4e-3, 5e-4, -5e-4])
    assert list(dots.error_x.array) == pytest.approx([1e-3, 3e-4, 6e-4])
    assert figure.layout.xaxis.type != "log"  # a gain may be negative
    assert figure.layout.title.text.startswith("What sparing one layer gains")
    assert "but this one" in figure.layout.title.text
    text = describe_ranking(report, ranked, KL)
    assert text.startswith("Sparing much gains most of 3 layers: 0.004 nats of KL divergence")
    assert "from 0.005 nats with all layers quantized" in text


def test_the_ranking_says_first_whether_an_answer_changes():
    report = make_report([make_layer("a", 2.94e-5, top1=1.0), make_layer("b", 1e-6, top1=0.97)])
    text = describe_ranking(report, rank_layers(report, KL), KL)
    assert "no answer changes, KL divergence 2.94e-05 nats" in text
    report = make_report([make_layer("a", 0.3, top1=0.97)])
    assert "3 of 100 answers change, " in describe_ranking(report, rank_layers(report, KL), KL)


def test_a_large_reference_does_not_flatten_linear_bars_of_single_layers():
    report = three_layers(reference=make_layer("", 5.0))
    figure = ranking_figure(report, rank_layers(report, KL), KL)
    assert not [shape for shape in figure.layout.shapes if shape.type == "line"]


def test_names_of_any_length_and_number_stay_apart():
    names = [f"encoder.blocks.{i}.attention.out_projection.inner" for i in range(150)]
    report = make_report([make_layer(name, 1e-3 + i * 1e-6) for i, name in enumerate(names)])
    figure = ranking_figure(report, rank_layers(report, KL), KL, is_log=True)
    assert sorted(figure.data[0].customdata) == sorted(names)
    assert len(set(figure.data[0].y)) == 150
    assert figure.layout.height > 150 * 20
    assert max(len(text) for text in figure.layout.yaxis.ticktext) < 40


def test_nothing_found_says_so():
    report = three_layers()
    assert find_layers(rank_layers(report, KL), "nowhere", 5) == []
    figure = ranking_figure(report, [], KL)
    assert is_empty_figure(figure)
    assert "filter" in figure.layout.annotations[0].text


def test_find_layers_ignores_case_and_cuts():
    ranked = rank_layers(make_sensitivity(), KL)
    found = find_layers(ranked, " LAYER1 ", None)
    assert {row.name for row in found} == {"layer1.0.conv1", "layer1.0.conv2"}
    assert find_layers(ranked, "", 3) == list(ranked[:3])


def test_the_table_holds_what_the_bars_show():
    report = three_layers()
    rows = ranking_rows(rank_layers(report, KL), KL)
    assert rows[0]["layer"] == "a"
    assert rows[0]["kl_divergence"] == 1e-3
    assert (rows[0]["interval_low"], rows[0]["interval_high"]) == (8e-4, 2e-3)
    assert [row["is_tied_with_next"] for row in rows] == [True, False, False]


@pytest.mark.parametrize("direction", ["one_at_a_time", "leave_one_out"])
@pytest.mark.parametrize("is_log", [True, False])
@pytest.mark.parametrize("has_logits", [True, False])
def test_every_measure_draws_finite_json(direction, is_log, has_logits):
    report = make_sensitivity(direction, has_logits=has_logits, has_labels=has_logits)
    for metric in available_metrics(report):
        ranked = rank_layers(report, metric)
        for draw in (ranking_figure, tradeoff_figure):
            figure = draw(report, ranked, metric, is_log=is_log, selected="head.0")
            text = figure.to_json()
            assert "NaN" not in text
            assert "Infinity" not in text
            assert EXACT_LAYER in text
            json.loads(text)


def test_tradeoff_points_and_front():
    report = three_layers()
    ranked = rank_layers(report, KL)
    figure = tradeoff_figure(report, ranked, KL)
    # b saves 7,000 for the least error: it beats both others.
    assert [ranked[i].name for i in layer_front(report, ranked, KL)] == ["b"]
    front = trace(figure, "on the front")
    assert list(front.customdata) == ["b"]
    assert list(front.x) == [7000]
    assert sorted(trace(figure, "other layers").customdata) == ["a", "c"]


def test_leave_one_out_front_wants_few_bytes_and_little_error():
    report = three_layers(direction="leave_one_out")
    ranked = rank_layers(report, KL)
    # b leaves least error for 7,000 bytes, c leaves less than a for fewer bytes.
    assert {ranked[i].name for i in layer_front(report, ranked, KL)} == {"b", "c"}


def test_left_out_tradeoff_draws_what_sparing_a_layer_gains():
    report = replace(three_layers(direction="leave_one_out"), reference=make_layer("", 1.0))
    ranked = rank_layers(report, KL)
    figure = tradeoff_figure(report, ranked, KL, is_log=True)
    front = trace(figure, "on the front")
    gains = {layer.name: 1.0 - layer.kl_divergence for layer in report.layers}

    assert list(front.y) == pytest.approx([gains[name] for name in front.customdata])
    assert figure.layout.yaxis.type != "log"
    assert figure.layout.yaxis.title.text == "KL divergence gained (nats)"
    assert "gains" in figure.layout.title.text
    best = max(gains, key=gains.get)
    assert describe_front(report, ranked, KL).startswith(f"Keeping {best} in float gains most, ")


def test_agreement_says_in_one_sentence_how_far_the_orders_agree():
    report = make_report(
        [make_layer(name, kl) for name, kl in zip("abcd", (4, 3, 2, 1), strict=True)]
    )
    ranks = dict(zip("abcd", (4, 1, 2, 3), strict=True))
    pairs = tuple(
        LayerPair(layer.name, 0.0, layer.kl_divergence, ranks[layer.name], place)
        for place, layer in enumerate(report.layers, start=1)
    )
    agreement = Agreement(PROXIES["weight"], pairs, 0.93, 0.8)

    assert describe_agreement(agreement, KL) == (
        "Weight SQNR against measured KL divergence: nearly the same order (ρ = +0.93), furthest "
        "apart at a, rank 4 by Weight SQNR and 1 measured."
    )
    assert "Too few" in describe_agreement(replace(agreement, spearman=None), KL)


def test_names_cover_neither_points_nor_each_other():
    crowd = [(0.30 + 0.004 * i, 0.5 + 0.002 * i) for i in range(20)]
    points = [*crowd, (1.0, 1.0), (0.0, 0.0)]
    names = [f"layer{i}" for i in range(22)]
    notes = point_labels(points, names, [20, 10, 0, 21])
    texts = {note["text"]: note for note in notes}
    assert "layer10" not in texts  # in the middle of the crowd
    assert {"layer20", "layer21"} <= texts.keys()
    assert texts["layer20"]["xanchor"] == "right"  # no room right of the last point
    assert texts["layer21"]["xanchor"] == "left"


def test_no_more_names_than_asked_for():
    points = [(float(i), float(i)) for i in range(9)]
    assert len(point_labels(points, [str(i) for i in range(9)], range(9), most=2)) == 2
    assert point_labels([], [], []) == []


def test_points_on_each_other_share_a_name():
    report = make_report([make_layer(name, 1e-3) for name in "abc"])
    figure = tradeoff_figure(report, rank_layers(report, KL), KL)
    assert [note.text for note in figure.layout.annotations] == ["a and 2 more"]


def test_points_beyond_the_axis_are_triangles_at_its_edge():
    report = make_report([make_layer("a", 1e-3), make_layer("b", 1e-4), make_layer("zero", 0.0)])
    edge = trace(
        tradeoff_figure(report, rank_layers(report, KL), KL, is_log=True), "beyond the axis"
    )
    assert list(edge.customdata) == ["zero"]
    assert 0 < edge.y[0] < 1e-4
    assert list(edge.marker.symbol) == ["triangle-down"]


def test_the_curve_runs_from_float_to_all_quantized():
    report = make_sensitivity()
    error, accuracy = cumulative_figure(report).data[:2]
    assert list(error.x) == [point.model_bytes for point in report.cumulative]
    assert error.customdata[0] == ""
    assert error.y[0] is None  # the float model's 0 has no place on a logarithmic axis
    assert list(accuracy.y) == pytest.approx([100 * p.accuracy for p in report.cumulative])
    assert cumulative_figure(report).layout.xaxis.autorange == "reversed"


def test_a_share_of_tokens_or_pixels_has_no_interval_as_samples_have():
    report = make_sensitivity()
    tokens = replace(report, has_whole_answers=False)
    layer, point = report.layers[0], report.cumulative[-1]

    for found, has_interval in ((report, True), (tokens, False)):
        accuracy = cumulative_figure(found).data[1]
        assert ("95 %" in accuracy.name) == has_interval
        assert any(accuracy.error_y.array) == has_interval
        assert ("(" in describe_point(point, found).partition("accuracy: ")[2]) == has_interval
        for key in ("top1_agreement", "accuracy_drop"):
            assert (METRICS[key].interval(layer, found) is not None) == has_interval


def test_the_curve_without_logits_and_labels_shows_sqnr_alone():
    report = make_sensitivity(has_logits=False, has_labels=False)
    figure = cumulative_figure(report)
    assert len(figure.data) == 1
    assert figure.layout.yaxis.title.text == "Output SQNR (dB)"
    assert figure.data[0].y[0] is None


def test_a_curve_that_was_not_measured_says_so():
    assert is_empty_figure(cumulative_figure(three_layers()))


def test_the_curve_marks_the_selected_layer_and_the_chosen_split():
    report = make_sensitivity()
    figure = cumulative_figure(report, selected=report.cumulative[-1].layer, kept=3)
    assert trace(figure, "selected layer").x[0] == report.cumulative[-1].model_bytes
    assert trace(figure, "chosen split").x[0] == report.cumulative[-4].model_bytes


def curve(*accuracies):
    points = [
        CumulativePoint(
            count=i,
            layer=f"l{i}" if i else "",
            kl_divergence=i * 0.1,
            sqnr_db=50.0 - i,
            accuracy=accuracy,
            model_bytes=1000 - 100 * i,
            top1_agreement=None,
            value=i * 0.1,
            added=(f"l{i}",) if i else (),
        )
        for i, accuracy in enumerate(accuracies)
    ]
    return make_report([], cumulative=points, accuracy_float=0.9)


def test_the_split_quantizes_the_least_sensitive_layers():
    report = curve(0.9, 0.9, 0.88, 0.87)
    assert float_layers(report, 2) == ("l2", "l3")
    assert float_layers(report, 0) == ()
    point = point_with_float_layers(report, 2)
    assert point is not None
    assert point.layer == "l1"
    assert point_with_float_layers(report, 9) is None


def test_a_curve_of_some_counts_says_which_and_keeps_the_order_of_all_layers():
    full = curve(0.9, 0.9, 0.88, 0.87, 0.5)
    zero, _, _, third, fourth = full.cumulative
    points = (zero, replace(third, added=("l1", "l2", "l3")), replace(fourth, added=("l4",)))
    some = replace(full, cumulative=points)

    assert float_layers(some, 3) == ("l2", "l3", "l4")
    assert point_with_float_layers(some, 2) is None
    assert measured_counts(some) == "0, 3 and all 4 layers"
    assert measured_counts(full) == "all counts from 0 to 4 layers"
    assert "Measured at 0, 3 and all 4 layers." in describe_curve(some)
    figure = cumulative_figure(some, selected="l2")
    assert list(trace(figure, "selected layer").x) == [third.model_bytes]
    assert "l3, after 2 others" in figure.data[0].hovertext[1]
    assert curve_rows(some)[1]["layers_added"] == "l1, l2, l3"


def test_most_quantized_without_loss():
    # 100 samples: one fewer right is no loss that they show, and after a loss no step counts.
    best = most_quantized_without_loss(curve(0.9, 0.89, 0.6, 0.9))
    assert best is not None
    assert best.count == 1
    assert most_quantized_without_loss(make_report([], accuracy_float=None)) is None


def test_agreement_figure_draws_ranks_and_names():
    sensitivity, report = make_sensitivity(), make_model_report()
    agreement = measure_agreement(report, sensitivity, KL, PROXIES["local"])
    diagonal, points = agreement_figure(agreement, KL, selected="head.0").data
    assert list(points.customdata) == [layer.name for layer in sensitivity.layers]
    assert sorted(points.y) == list(range(1, len(sensitivity.layers) + 1))
    assert list(diagonal.x) == [1, len(sensitivity.layers)]
    assert agreement_rows(agreement, KL)[0]["local_sqnr_db"] == agreement.pairs[0].proxy_value


def test_agreement_without_common_layers_says_so():
    agreement = measure_agreement(make_model_report(), three_layers(), KL, PROXIES["local"])
    assert is_empty_figure(agreement_figure(agreement, KL))


def test_a_curve_without_any_change_of_bytes_stands_against_the_number_of_layers():
    points = [replace(point, model_bytes=1000) for point in curve(0.9, 0.9, 0.8).cumulative]
    figure = cumulative_figure(make_report([], cumulative=points), selected="l2", kept=1)

    assert list(figure.data[0].x) == [0, 1, 2]
    assert list(trace(figure, "selected layer").x) == [2]
    assert list(trace(figure, "chosen split").x) == [1]
    assert figure.layout.xaxis.title.text == "Layers with rounded inputs"
    assert figure.layout.xaxis.autorange is True


@pytest.mark.parametrize(
    ("parts", "direction", "text"),
    [
        ("both", "one_at_a_time", "only this layer quantized"),
        ("weights", "one_at_a_time", "only this layer's weights quantized"),
        ("activations", "leave_one_out", "all layers' inputs rounded but this one's"),
    ],
)
def test_titles_say_what_was_switched(parts, direction, text):
    report = replace(three_layers(), parts=parts, direction=direction)
    assert setting_text(report) == text
    one = replace(report, rankings=(Ranking("int4 weights + int8 inputs", (), ()),))
    assert setting_text(one) == f"{text}: int4 weights + int8 inputs"


@pytest.mark.parametrize(("more", "expected"), [(0, False), (18_328, True)])
def test_the_first_step_of_the_curve_may_fold_batchnorms(more: int, expected: bool) -> None:
    report = make_sensitivity()
    given, *others = report.cumulative
    given = replace(given, model_bytes=given.model_bytes + more)
    assert is_folded_first(replace(report, cumulative=(given, *others))) is expected
    assert not is_folded_first(replace(report, cumulative=(given,)))


def test_the_curve_says_once_what_one_sample_is_where_each_has_one_answer() -> None:
    report = make_sensitivity()
    said = " ".join(cumulative_picture(report).about)
    assert said.count(f"One of the {report.samples} samples is") == 1
    many = replace(report, has_whole_answers=False)
    assert "samples is" not in " ".join(cumulative_picture(many).about)
