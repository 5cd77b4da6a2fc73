"""Figures of two runs: every mark is a number of the reports, and the words say what they show."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.stories import STORIES
from dashboard.facts.compare.compared_layers import (
    METRICS,
    available_metrics,
    common_layers,
    layer_changes,
)
from dashboard.facts.diagnosis.culprit import OutputEffects, output_effects
from dashboard.figures.compare.layers import MOST_ROWS, dumbbells_picture, scatter_picture
from dashboard.figures.compare.pair import pair as compare
from dashboard.figures.compare.pair import with_differing_samples
from dashboard.figures.compare.tensors import codes_picture, errors_picture, values_picture
from dashboard.work import service

STORY = STORIES[0]


def stored(settings: Settings) -> Run:
    run = service.find_example(settings)
    assert run is not None
    return run


@pytest.fixture(scope="module")
def pair() -> tuple[Run, Run]:
    return stored(STORY.broken), stored(STORY.repaired)


NO_EFFECTS = (None, None)


@pytest.mark.parametrize("key", [key for key in METRICS if key != "output"])
def test_every_dumbbell_goes_from_one_reports_number_to_the_others(
    pair: tuple[Run, Run], key: str
) -> None:
    metric = METRICS[key]
    changes = layer_changes(*pair, metric, NO_EFFECTS)
    sizes = [abs(one.change) for one in changes if one.change is not None]
    assert sizes == sorted(sizes, reverse=True)

    picture = dumbbells_picture(changes, metric, selected="classifier")

    traces = {trace.name: trace for trace in picture.figure.data if trace.name}
    assert len(traces["A"].x) == min(MOST_ROWS, len(sizes))
    for side, run in zip("AB", pair, strict=True):
        for name, x in zip(traces[side].customdata, traces[side].x, strict=True):
            value = metric.read(run.report.layer(name), None)
            assert value is not None
            assert x == pytest.approx(value) or (value == 0 and metric.is_log)
    assert len(picture.rows()) == len(pair[0].report.layers)
    assert scatter_picture(changes, metric).figure.data[-1].type == "scatter"


def test_green_is_better_for_errors_and_for_ratios_that_are_better_when_higher(
    pair: tuple[Run, Run],
) -> None:
    for key in ("weight", "weight_sqnr_db"):
        picture = dumbbells_picture(layer_changes(*pair, METRICS[key], NO_EFFECTS), METRICS[key])
        swapped = dumbbells_picture(
            layer_changes(pair[1], pair[0], METRICS[key], NO_EFFECTS), METRICS[key]
        )
        count = {t.name: len(t.x) for t in picture.figure.data}
        turned = {t.name: len(t.x) for t in swapped.figure.data}
        assert count["B is better"] > count["B is worse"]
        assert count["B is better"] == turned["B is worse"]
        assert count["B is worse"] == turned["B is better"]


def test_the_sentence_counts_layers() -> None:
    a, b = stored(STORY.broken), stored(STORY.repaired)
    changes = layer_changes(a, b, METRICS["accumulated"], NO_EFFECTS)
    better = sum(one.b < one.a for one in changes if one.a is not None and one.b is not None)

    said = dumbbells_picture(changes, METRICS["accumulated"]).alt

    assert f"better in {better} of {len(changes)} layers" in said
    assert changes[0].name in said


def test_effects_on_the_output_count_only_from_the_same_source(pair: tuple[Run, Run]) -> None:
    measured = tuple(output_effects(run.report, run.sensitivities) for run in pair)
    assert all(measured)
    assert "output" in [m.key for m in available_metrics(*pair, (measured[0], measured[1]))]
    predicted = OutputEffects("predicted", measured[1].values if measured[1] else {})
    assert "output" not in [m.key for m in available_metrics(*pair, (measured[0], predicted))]


def test_layers_of_two_models_are_matched_by_name_type_and_shape() -> None:
    a, b = stored(STORY.broken), stored(Settings("mlp"))
    assert common_layers(a, b) == ()
    assert len(common_layers(a, stored(Settings("mobilenet")))) > 0

    picture = dumbbells_picture(
        layer_changes(a, b, METRICS["weight"], NO_EFFECTS), METRICS["weight"]
    )
    assert not picture.figure.data
    assert "No layer" in picture.alt


def test_an_exact_layer_has_no_dumbbell_and_keeps_its_row(pair: tuple[Run, Run]) -> None:
    metric = METRICS["weight_sqnr_db"]
    changes = layer_changes(*pair, metric, NO_EFFECTS)
    exact = (replace(changes[0], b=math.inf), *changes[1:])

    picture = dumbbells_picture(exact, metric)

    assert changes[0].name not in picture.figure.data[0].customdata
    assert {"layer": changes[0].name}.items() <= picture.rows()[0].items()


@pytest.mark.parametrize("draw", [errors_picture, values_picture, codes_picture])
@pytest.mark.parametrize("part", ["weight", "input"])
def test_an_outline_holds_all_values_of_its_run(pair: tuple[Run, Run], draw, part: str) -> None:
    """The area below each outline is the share of values inside the bins: 1 where none is out."""
    layers = [run.report.layer("blocks.2.depthwise") for run in pair]
    first, second = (getattr(layer, part) for layer in layers)

    picture = draw(first, second, part)

    outlines = {trace.name: trace for trace in picture.figure.data}
    assert {"A", "B"} <= set(outlines)
    for label in outlines:
        x, y = outlines[label].x, outlines[label].y
        area = sum(h * (right - left) for h, left, right in zip(y[1:], x[1:], x[2:], strict=False))
        shares = sum(row["share"] for row in picture.rows() if row["run"] == label)
        assert area == pytest.approx(shares)
        assert 0.9 < shares <= 1.0 + 1e-9


def test_codes_of_other_widths_keep_their_own_places() -> None:
    a, b = (stored(s).report.layer("classifier").weight for s in (STORIES[2].broken,) * 2)
    b = stored(STORIES[2].repaired).report.layer("classifier").weight
    assert a is not None
    assert b is not None

    outlines = {trace.name: trace for trace in codes_picture(a, b, "Weights").figure.data}

    assert outlines["A"].x[0] == a.codes.qmin - 0.5
    assert outlines["B"].x[0] == b.codes.qmin - 0.5
    assert len(outlines["A"].y) == len(a.codes.counts) + 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy_quantized": None}, "not known without labels"),
        ({"accuracy_quantized": None, "top1_agreement": None}, "only an output with classes"),
    ],
)
def test_what_has_no_right_answers_says_why(
    pair: tuple[Run, Run], changes: dict[str, None], words: str
) -> None:
    runs = []
    for run in pair:
        assert run.report.output is not None
        output = replace(run.report.output, **changes)
        runs.append(replace(run, report=replace(run.report, output=output, outputs=(output,))))

    found = with_differing_samples(compare(*runs), *runs)

    assert words in found.difference
    assert bool(found.flipped_text) == ("top1_agreement" not in changes)
