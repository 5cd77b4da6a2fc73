"""Do errors add up? They have directions: two may cancel, or push the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dashboard.data.prediction import Prediction
from dashboard.figures.kit.picture import Picture
from dashboard.figures.learn.sums import Cost, sums_picture
from dashboard.figures.what_if.frontier import frontier_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_bytes, format_nats, format_number
from dashboard.work import prediction_service, service
from dashboard.work.lessons import sums
from dashboard.work.lessons.numbers import read_numbers

_SETS = {
    "a pair that cancels": sums.CANCEL,
    "a pair that adds": sums.ADD,
    "the four that cost most": sums.FOUR,
    "all layers": sums.ALL,
}
"""Which layers a learner may look at, and their stored name."""
_ALIKE = 1.15
"""Together and sum count as the same where neither is larger by this factor."""
_SUM, _LESS, _MORE, _EITHER = 0, 1, 2, 3


def show(values: Values) -> Outcome:
    """Return what a set of layers costs one by one and together."""
    stored = read_numbers("sum")
    sets: Mapping[str, Mapping[str, Any]] = stored.values["sets"]
    alone: Mapping[str, Mapping[str, Any]] = stored.values["alone"]
    chosen = sets[_SETS[values["layers"]]]
    ratios = {name: _ratio(one, alone) for name, one in sets.items()}
    low, high = sets[sums.CANCEL], sets[sums.ADD]
    largest = max(low["layers"], key=lambda layer: alone[layer]["measured"])
    return Outcome(
        right=_right([ratios[sums.CANCEL], ratios[sums.ADD]]),
        truth=(
            f"{_names(low)} together move the answers {_times(ratios[sums.CANCEL])} the sum of "
            f"both alone; {_names(high)} {_times(ratios[sums.ADD])} the sum. For all "
            f"{len(alone)} layers it is {_times(ratios[sums.ALL])} the sum."
        ),
        pictures=(
            sums_picture(
                [
                    Cost(layer, alone[layer]["measured"], tuple(alone[layer]["interval"]))
                    for layer in chosen["layers"]
                ],
                Cost("together", chosen["measured"], tuple(chosen["interval"])),
                chosen["predicted"],
                f"{sums.MODEL}, weights of these layers in {sums.BITS} bits, the rest in float",
            ),
            _frontier(chosen["layers"], stored.values),
        ),
        insight=_insight(largest, alone, low),
        computed=(
            "Each set, each layer alone and both plans were run on "
            f"{stored.values['test_images']:,} test digits; {stored.origin}. "
            "The two pairs are the extremes that were predicted among "
            f"the {sums.COSTLIEST} layers that cost most alone, on these digits: by prediction all "
            "others lie closer to their sum. Intervals of single costs are wide and overlap. The "
            "second figure shows the stored prediction for the same digits."
        ),
    )


def _insight(largest: str, alone: Mapping[str, Mapping[str, Any]], pair: Mapping[str, Any]) -> str:
    """Errors are vectors; say more if run and prediction agree that both cost less than one."""
    text = "An error has a direction as well as a size, so errors add like arrows, not like bills"
    own, together = float(alone[largest]["measured"]), float(pair["measured"])
    if together >= own or pair["predicted"] >= alone[largest]["predicted"]:
        return f"{text}: some cancel in part, others push the same way."
    other = next(layer for layer in pair["layers"] if layer != largest)
    return (
        f"{text}: rounding {largest} alone costs {format_nats(own, 2)}, rounding {other} as well "
        f"brings it down to {format_nats(together, 2)}, and the prediction agrees."
    )


def _prediction() -> Prediction:
    prediction = prediction_service.example_prediction(sums.MODEL)
    if prediction is None:
        raise FileNotFoundError(f"the stored prediction of {sums.MODEL} is needed")
    return prediction


def _frontier(layers: list[str], values: Mapping[str, Any]) -> Picture:
    """Where a set stands beside what a search finds for every size."""
    prediction = _prediction()
    option = sums.option_of(prediction)
    run = service.example_run(sums.MODEL)
    if run is None:
        raise FileNotFoundError(f"the stored run of {sums.MODEL} is needed")
    own, _ = prediction.configuration_of(run.recipe)
    configuration = dict.fromkeys(layers, option)
    score = prediction.score(configuration)
    size = score.size.model_bytes
    return replace(
        frontier_picture(prediction, configuration, own),
        alt=(
            f"With this set in {sums.BITS} bits the network takes {format_bytes(size)}, at a "
            f"predicted cost of {format_nats(score.degradation, 2)}. {_plans(values)}"
        ),
        about=(
            "Each point is a choice of bits for every layer. Further left: a smaller network. "
            "Lower: a smaller cost; each grid line is ten times the one before. The star is the "
            "set chosen above.",
            "The line is what a search finds for every size, with 2 to 8 bits or float in each "
            "layer. Diamonds give all layers the same bits, the square is 8 bits for all. These "
            "costs are predicted; a green × is what a run gave. On the grey ground predictions do "
            "not hold.",
        ),
    )


def _plans(values: Mapping[str, Any]) -> str:
    """What choosing bits for every layer gains in the bytes of all layers at 4 bits, run."""
    plans, whole = values["plans"], values["sets"][sums.ALL]
    by_sums, by_arrows = (plans[name] for name in (sums.BY_SUMS, sums.BY_ARROWS))
    overlap = by_sums["interval"][0] <= by_arrows["interval"][1]
    return (
        f"All layers in {sums.BITS} bits: {format_bytes(sums.budget_of(_prediction()))} at a cost "
        f"of {format_nats(whole['measured'], 2)}. In no more bytes, with bits of its own for each "
        f"layer, the best plan by bills costs {format_nats(by_sums['measured'], 2)}, that by "
        f"arrows {format_nats(by_arrows['measured'], 2)}"
        f"{' (their 95 % intervals overlap)' if overlap else ''}."
    )


def _ratio(one: Mapping[str, Any], alone: Mapping[str, Mapping[str, Any]]) -> float:
    return float(one["measured"]) / sum(float(alone[name]["measured"]) for name in one["layers"])


def _right(ratios: list[float]) -> int:
    """Which answer the ratios of together to sum fit."""
    is_less, is_more = min(ratios) < 1 / _ALIKE, max(ratios) > _ALIKE
    if is_less and is_more:
        return _EITHER
    return _LESS if is_less else _MORE if is_more else _SUM


def _names(one: Mapping[str, Any]) -> str:
    return " and ".join(one["layers"])


def _times(ratio: float) -> str:
    return f"{format_number(ratio, 2)} times"


LESSON = Lesson(
    name="sum",
    title="Do errors add up?",
    text=(
        "To make a network smaller, we store the weights of some layers in 4 bits. The rest stays "
        "exact. We measure how far the answers move from those of the exact network. The measure "
        "is called *KL divergence*: 0 means that nothing moved; its unit is the *nat*. Here we "
        "call it the **cost**.\n\n"
        "First we round one layer only and note its cost. We do the same with a second layer. "
        "Then we round **both**.\n\n"
        "If costs were like bills, we could add them, and the best plan would be easy: always "
        "round the layers that cost least."
    ),
    question="What do two layers cost together?",
    answers=(
        "The sum of what each costs alone",
        "Always less than the sum: errors partly cancel",
        "Always more than the sum: an error in one layer makes the next one worse",
        "It depends on the pair: less than the sum for some, more for others",
    ),
    controls=(
        Control(
            "layers",
            "Layers in 4 bits",
            tuple(_SETS),
            "a pair that cancels",
            "Every set was run as a whole, and each of its layers alone.",
        ),
    ),
    show=show,
    page="views/what_if/what_if.py",
    link={"run": "resnet int8_per_channel", "whatif": "f44" + "f" * 19},
    terms=("KL divergence", "degradation", "nat"),
)
