"""Lessons 6 to 10: what they say is what the numbers say."""

from __future__ import annotations

import pytest
from torch import nn

from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.proxies import PROXIES, measure_agreement, predicted_proxy
from dashboard.views.learn.lessons.l06_loud import LESSON as LOUD
from dashboard.views.learn.lessons.l06_loud import _plain_words
from dashboard.views.learn.lessons.l06_loud import _right as right_of_loud
from dashboard.views.learn.lessons.l07_rounding import GPTQ, NEAREST
from dashboard.views.learn.lessons.l07_rounding import LESSON as ROUNDING
from dashboard.views.learn.lessons.l07_rounding import _right as right_of_rounding
from dashboard.views.learn.lessons.l08_fault import CARRIED, OWN
from dashboard.views.learn.lessons.l08_fault import LESSON as FAULT
from dashboard.views.learn.lessons.l08_fault import _right as right_of_fault
from dashboard.views.learn.lessons.l09_sum import LESSON as SUM
from dashboard.views.learn.lessons.l09_sum import _right as right_of_sum
from dashboard.views.learn.lessons.l10_size import LESSON as SIZE
from dashboard.views.learn.lessons.l10_size import _right as right_of_size
from dashboard.work import prediction_service, service
from dashboard.work.lessons import loud, rounding, sums
from dashboard.work.lessons.numbers import read_numbers
from quant_engine.scheme import TensorScheme
from sample_models import load_model
from tests.dashboard.shown_lessons import shown


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_makes_the_weights_worse_and_the_output_better(bits: int) -> None:
    nearest, gptq = rounding.round_layer(bits, False), rounding.round_layer(bits, True)

    assert nearest.beyond_nearest == 0
    assert 0.05 < gptq.beyond_nearest < 0.5
    assert gptq.weight_error > 1.5 * nearest.weight_error
    assert gptq.output_error < nearest.output_error / 4


def test_the_weight_error_of_the_nearest_mark_is_the_engines() -> None:
    model = service.example_run(rounding.MODEL)
    assert model is not None
    before = next(one for one in model.report.layers if one.name == rounding.LAYER).weight
    assert before is not None
    assert before.scheme == TensorScheme(granularity="per_channel")
    assert rounding.round_layer(8, False).weight_error == pytest.approx(before.error.nmse, rel=1e-3)


def test_the_rounding_lesson_says_what_it_computed() -> None:
    nearest, gptq = rounding.round_layer(4, False), rounding.round_layer(4, True)
    outcome = shown(ROUNDING)

    assert outcome.right == 1
    assert f"{nearest.output_error / gptq.output_error:.1f} times smaller" in outcome.truth
    assert f"{gptq.weight_error / nearest.weight_error:.1f} times as large" in outcome.truth
    assert shown(ROUNDING, rounding=NEAREST).pictures[1].alt.startswith("0 % of")
    assert not shown(ROUNDING, rounding=GPTQ).pictures[1].alt.startswith("0 % of")
    assert [right_of_rounding(1.0, farther) for farther in (2.0, 0.5, 1.0)] == [0, 1, 2]


def test_the_blamed_layer_is_measured_and_ties_are_said() -> None:
    run = service.example_run("vit")
    assert run is not None
    assert run.sensitivity is not None
    metric = METRICS[run.sensitivity.metric]
    agreement = measure_agreement(run.report, run.sensitivity, metric, PROXIES["local"])
    worst = max(run.sensitivity.layers, key=lambda layer: layer.kl_divergence or 0)
    outcome = shown(FAULT)

    assert agreement.spearman is not None
    assert abs(agreement.spearman) < 0.4
    assert outcome.right == 1
    assert worst.name in outcome.truth
    assert "statistically tied" in outcome.truth
    assert [right_of_fault(rho) for rho in (0.9, 0.1, -0.9, None)] == [0, 1, 2, 1]


def test_errors_carried_on_to_the_answers_order_the_layers_as_measured() -> None:
    run, prediction = service.example_run("vit"), prediction_service.example_prediction("vit")
    assert run is not None
    assert run.sensitivity is not None
    assert prediction is not None
    proxy = predicted_proxy(prediction, run.recipe, run.sensitivity.direction)
    metric = METRICS[run.sensitivity.metric]
    carried = measure_agreement(run.report, run.sensitivity, metric, proxy).spearman
    own, followed = shown(FAULT, clue=OWN), shown(FAULT, clue=CARRIED)

    assert carried is not None
    assert carried > 0.95
    assert f"give {carried:+.2f}" in own.insight
    assert f"ρ = {carried:+.2f}" in followed.pictures[0].alt
    assert f"ρ = {carried:+.2f}" not in own.pictures[0].alt


def test_adding_arrows_finds_a_better_plan_than_adding_bills() -> None:
    values, prediction = read_numbers("sum").values, prediction_service.example_prediction("resnet")
    assert prediction is not None
    plans = {
        sums.BY_SUMS: sums.plan_by_sums(prediction),
        sums.BY_ARROWS: sums.plan_by_arrows(prediction),
    }
    sum_of_alone = {
        name: sum(prediction.alone[pair] for pair in plan.items()) for name, plan in plans.items()
    }
    costs = [values["sets"][sums.ALL], *(values["plans"][name] for name in plans)]

    for name, plan in plans.items():
        assert plan == prediction.from_text(values["plans"][name]["letters"])
        assert prediction.score(plan).size.model_bytes <= sums.budget_of(prediction)
    for key in ("measured", "predicted"):
        assert costs[0][key] > 10 * costs[1][key] > 20 * costs[2][key]
    assert sum_of_alone[sums.BY_SUMS] < sum_of_alone[sums.BY_ARROWS]
    assert costs[1]["interval"][0] < costs[2]["interval"][1]
    assert "intervals overlap" in shown(SUM).pictures[1].alt


def test_the_loud_channels_are_repaired_and_the_plain_network_is_not_told_apart() -> None:
    values = read_numbers("loud").values
    images, cases = values["test_images"], values["cases"]
    moves, plain = cases[loud.LOUD]["moves"], cases[loud.PLAIN]["moves"]
    outcome = shown(LOUD)

    assert outcome.right == 1
    assert moves[loud.NOTHING]["right"] / images < 0.9
    for alpha in loud.ALPHAS:
        assert moves[str(alpha)]["right"] == cases[loud.LOUD]["float_right"]
        low, high = plain[str(alpha)]["kl_change"]
        assert low <= 0 <= high
    assert "by more than chance explains" in outcome.insight
    assert "The other α give 99 %." in outcome.truth
    worse = {name: {**one, "kl_change": [0.1, 0.2]} for name, one in plain.items()}
    assert "5 of 5 α move the answers further" in _plain_words(worse)
    assert [right_of_loud(0.8, after) for after in (0.81, 0.99, 0.5)] == [0, 1, 2]


def test_alpha_moves_the_same_factor_from_inputs_to_weights() -> None:
    moves = read_numbers("loud").values["cases"][loud.LOUD]["moves"]
    before, after = moves[loud.NOTHING], moves["0.5"]

    for i in range(len(before["inputs"])):
        product = before["inputs"][i] * before["weights"][i]
        assert after["inputs"][i] * after["weights"][i] == pytest.approx(product, rel=0.01)


def test_the_stored_answers_of_the_loud_network_are_what_the_engine_computes() -> None:
    logits = loud.logits_of(loud.case_settings(loud.LOUD, loud.NOTHING))
    batches = service.evaluation_batches(loud.CASES[loud.LOUD][0])
    labels = [int(label) for _, wanted in batches for label in wanted]
    right = sum(a == b for a, b in zip(logits.argmax(1).tolist(), labels, strict=True))

    stored = read_numbers("loud").values["cases"][loud.LOUD]["moves"][loud.NOTHING]["right"]
    # Sums in another order (oneDNN on or off, one image or 100 at a time) tip codes, and moved
    # logits by up to 0.07: only answers as close as that may differ on another processor.
    best, second = logits.topk(2, dim=1).values.T
    may_tip = int((best - second < 2 * 0.07).sum())
    assert may_tip <= 4
    assert right == pytest.approx(stored, abs=may_tip)


def test_one_pair_cancels_and_another_adds_by_run_and_by_prediction() -> None:
    values = read_numbers("sum").values
    prediction = prediction_service.example_prediction(sums.MODEL)
    assert prediction is not None
    chosen = sums.choose_sets(prediction)

    assert shown(SUM).right == 3
    assert {name: list(layers) for name, layers in chosen.items()} == {
        name: one["layers"] for name, one in values["sets"].items()
    }
    for key in ("measured", "predicted"):
        for name, is_less in ((sums.CANCEL, True), (sums.ADD, False)):
            one = values["sets"][name]
            total = sum(values["alone"][layer][key] for layer in one["layers"])
            assert (one[key] < total / 1.3) if is_less else (one[key] > 1.3 * total)
    assert [right_of_sum(r) for r in ([1.0, 1.1], [0.5, 1.0], [1, 2], [0.5, 2])] == [0, 1, 2, 3]


def test_the_size_lesson_says_what_is_stored() -> None:
    run = service.example_run("mobilenet")
    assert run is not None
    assert run.report.size is not None
    size = run.report.size
    outcome = shown(SIZE)

    assert outcome.right == 3
    assert size.float_bytes / size.quantized_bytes < 3.9
    assert f"{size.float_bytes / size.quantized_bytes:.2f} times" in outcome.truth
    assert "in 3 of 10 cases" in outcome.insight
    # The folded BatchNorms: a scale, a shift, a mean and a variance of every channel, and a count.
    norms = [m for m in load_model("mobilenet").modules() if isinstance(m, nn.BatchNorm2d)]
    in_norms = sum(16 * norm.num_features + 8 for norm in norms)
    in_biases = sum(4 * norm.num_features for norm in norms)
    codes_alone = (size.float_bytes - in_norms + in_biases) / size.quantized_bytes
    assert f"codes alone give {codes_alone:.2f} times" in outcome.truth
    assert len(run.report.layers) == 24
    assert "24 layers" in SIZE.text
    assert [right_of_size(*one) for one in ((4.0, 0.5), (4.0, 2), (3.5, 0.5), (3.5, 2))] == [
        *(0, 1, 2, 3)
    ]
