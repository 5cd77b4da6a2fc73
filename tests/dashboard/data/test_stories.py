"""Stories say what their stored runs show, and a broken run looks broken in the first picture."""

from __future__ import annotations

from typing import Any

import pytest

from dashboard.data.runs import Run
from dashboard.data.stories import STORIES, Story, story_of, story_settings
from dashboard.facts.diagnosis.causes import (
    INPUT_CHANNELS,
    WEIGHT_CHANNELS,
    WEIGHT_VALUES,
    accumulated_relative,
    kind_of_cause,
    outlier_channels,
    weight_relative,
    zeros_of,
)
from dashboard.facts.diagnosis.culprit import MEASURED, find_culprit, output_effects
from dashboard.facts.diagnosis.four_errors import rank_errors
from dashboard.figures.compare.pair import MOST_FLIPPED, Pair, pair
from dashboard.figures.layers.four_errors import (
    ONE_MARK,
    Series,
    describe_four_errors,
    four_errors_picture,
)
from dashboard.work import prediction_service, service
from quant_engine.report import LayerReport

each_story = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.key)


def runs_of(story: Story) -> tuple[Run, Run]:
    broken, repaired = service.find_example(story.broken), service.find_example(story.repaired)
    assert broken is not None
    assert repaired is not None
    return broken, repaired


def pair_of(story: Story) -> Pair:
    broken, repaired = runs_of(story)
    return pair(broken, repaired, change=story.change)


def culprit_layer(run: Run) -> LayerReport:
    culprit = find_culprit(run.report, run.sensitivities)
    assert culprit is not None
    assert culprit.basis == MEASURED
    return run.report.layer(culprit.name)


def right(run: Run) -> float:
    output = run.report.output
    assert output is not None
    assert output.accuracy_quantized is not None
    return output.accuracy_quantized


@pytest.mark.parametrize("settings", story_settings(), ids=lambda s: f"{s.model_name}-{s.run_id}")
def test_every_run_of_a_story_is_stored_with_sensitivity_and_prediction(settings: Any) -> None:
    run = service.find_example(settings)

    assert run is not None
    assert run.settings == settings
    assert {s.direction for s in run.sensitivities} == {"one_at_a_time", "leave_one_out"}
    assert prediction_service.find_example(settings) is not None
    assert service.find_stored(settings.run_id) is run
    assert service.example_path(settings.model_name).stat().st_size < 200_000


@each_story
def test_the_first_breaks_and_the_second_does_not(story: Story) -> None:
    broken, repaired = runs_of(story)
    output = broken.report.output
    assert output is not None
    assert output.accuracy_float is not None

    assert right(broken) < output.accuracy_float - 0.1
    assert right(repaired) > output.accuracy_float - 0.02
    assert story_of(broken.id) is story_of(repaired.id) is story


def test_one_scale_zeroes_half_of_the_small_channels_and_one_for_each_none() -> None:
    broken, repaired = runs_of(STORIES[0])
    layer = culprit_layer(broken)
    before, after = zeros_of(layer.weight), zeros_of(repaired.report.layer(layer.name).weight)
    assert layer.weight is not None
    assert layer.weight.channels is not None
    reach = sorted(
        max(abs(a), abs(b))
        for a, b in zip(layer.weight.channels.lo, layer.weight.channels.hi, strict=True)
    )

    assert before is not None
    assert after is not None
    assert before.count > 0.45 * before.total
    assert before.silent > 0.4 * before.channels
    assert after.silent == 0
    assert after.count < 0.01 * after.total
    assert reach[-1] / reach[0] > 256
    assert kind_of_cause(layer) == WEIGHT_CHANNELS


def test_two_input_channels_are_loud_and_float_inputs_keep_the_rest() -> None:
    broken, repaired = runs_of(STORIES[1])
    layer = culprit_layer(broken)
    outliers = outlier_channels(layer)

    assert outliers is not None
    assert len(outliers.indices) == 2
    assert outliers.ratio > 50
    assert layer.input is not None
    assert repaired.report.layer(layer.name).input is None
    assert kind_of_cause(layer) == INPUT_CHANNELS


def test_two_bits_are_three_values_and_four_bits_fifteen() -> None:
    broken, repaired = runs_of(STORIES[2])
    layer = culprit_layer(broken)
    same = repaired.report.layer(layer.name)
    assert layer.weight is not None
    assert same.weight is not None

    assert layer.weight.codes.codes_used == 3
    assert same.weight.codes.codes_used == 15
    assert kind_of_cause(layer) == WEIGHT_VALUES


@each_story
def test_the_pair_says_and_draws_the_difference(story: Story) -> None:
    broken, repaired = runs_of(story)
    found = pair_of(story)

    assert found.a.sentence != found.b.sentence
    assert f"{100 * right(broken):g} %" in found.a.sentence
    assert f"{100 * right(repaired):g} %" in found.b.sentence
    assert "Repaired against broken: +" in found.difference
    assert "no difference" not in found.difference
    assert found.cause is not None
    assert culprit_layer(broken).name in found.errors.alt
    for sample in found.flipped:
        assert sample.a != sample.float_answer == sample.b == sample.label
    assert len(found.flipped) == MOST_FLIPPED
    assert len({sample.label for sample in found.flipped}) >= 5


@each_story
def test_a_broken_and_a_healthy_run_differ_in_the_first_picture(story: Story) -> None:
    broken, repaired = runs_of(story)
    name = culprit_layer(broken).name
    layers = [run.report.layer(name) for run in (broken, repaired)]

    accumulated = [accumulated_relative(layer) for layer in layers]
    assert accumulated[0] is not None
    assert accumulated[1] is not None
    assert accumulated[0] > 3 * accumulated[1]
    if story.key == "one_scale":
        weights = [weight_relative(layer) or 0.0 for layer in layers]
        assert weights[0] > 0.7 > 0.01 > weights[1]
    effects = [output_effects(run.report, run.sensitivities) for run in (broken, repaired)]
    assert effects[0] is not None
    assert effects[1] is not None
    assert effects[0].values[name] > 10 * effects[1].values[name]
    figures = [
        four_errors_picture([Series("", rank_errors(run.report, e), e, ONE_MARK)]).figure
        for run, e in zip((broken, repaired), effects, strict=True)
    ]
    places = [
        [
            trace.x[trace.customdata.index([name, trace.customdata[i][1]])]
            for trace in figure.data
            for i in range(len(trace.customdata))
            if trace.customdata[i][0] == name
        ]
        for figure in figures
    ]
    assert len(places[0]) == len(places[1]) == 4
    assert places[0][3] > 10 * places[1][3]


def test_rows_are_ranked_by_the_output_else_by_what_they_add() -> None:
    broken, _ = runs_of(STORIES[0])
    effects = output_effects(broken.report, broken.sensitivities)
    assert effects is not None
    by_output = rank_errors(broken.report, effects)
    by_increase = rank_errors(broken.report)

    measured = [row.output for row in by_output if row.output is not None]
    assert measured == sorted(measured, reverse=True)
    increases = [row.increase for row in by_increase]
    assert increases == sorted(increases, reverse=True)
    titles = [
        four_errors_picture([Series("", rows, e, ONE_MARK)]).figure.layout.title.text
        for rows, e in ((by_output, effects), (by_increase, None))
    ]
    assert "ranked by the measured output error" in titles[0]
    assert "ranked by the increase of the accumulated error" in titles[1]
    figure = four_errors_picture([Series("", by_increase, None, ONE_MARK)]).figure
    assert "not measured yet" in [note.text for note in figure.layout.annotations]
    assert "adds most error" in describe_four_errors([Series("", by_increase, None, ONE_MARK)])
