"""Whose fault is it? A layer's own error says little about what it does to the answers."""

from __future__ import annotations

from dataclasses import replace

from dashboard.facts.sensitivity.metrics import METRICS
from dashboard.facts.sensitivity.proxies import (
    PROXIES,
    Agreement,
    correlation_text,
    measure_agreement,
    predicted_proxy,
)
from dashboard.facts.sensitivity.ranking import RankedLayer, rank_layers, rivals_of_first
from dashboard.figures.kit.picture import Picture
from dashboard.figures.sensitivity.agreement import agreement_picture
from dashboard.figures.sensitivity.ranking import ranking_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_db, plural
from dashboard.work import prediction_service, service
from quant_engine.report import SensitivityReport

_ASKED = "vit"
OWN, CARRIED = "its own error", "that error carried on to the answers"
_CLOSE = 0.7
"""From this rank correlation on two orders are alike."""
_DRAWN = 10
"""So many layers stand in the ranking."""
_SAME, _UNRELATED, _OPPOSITE = 0, 1, 2


def show(values: Values) -> Outcome:
    """Return the layers' own errors against what they do to the output."""
    agreement, report, ranked = _order(values["network"], values["clue"])
    asked, asked_report, asked_ranked = _order(_ASKED, OWN)
    carried, *_ = _order(_ASKED, CARRIED)
    first = asked_ranked[0]
    pair = next(pair for pair in asked.pairs if pair.name == first.name)
    rivals = rivals_of_first(asked_ranked)
    layers = len(asked.pairs)
    metric = METRICS[asked_report.metric]
    return Outcome(
        right=_right(asked.spearman),
        truth=(
            f"In this network the two orders have a rank correlation of "
            f"{correlation_text(asked.spearman)}: +1 is the same order, 0 is none. The layer that "
            f"was measured to move the answers most, {first.name}, is number "
            f"{pair.proxy_rank:.0f} of {layers} by its own error ({format_db(pair.proxy_value)})."
            + _ties(rivals)
        ),
        pictures=_pictures(agreement, report, ranked),
        insight=(
            f"A layer's own error does not know what the next layers do with it: the order it "
            f"gives has a rank correlation of {correlation_text(asked.spearman)} with the measured "
            f"one, the same errors carried on to the answers by the network's slopes (gradients) "
            f"give {correlation_text(carried.spearman)}, so look at the answers before you blame, "
            f"and do not rank what is tied."
        ),
        computed=(
            f"Read from the stored run of {values['network']}, 8 bits: each layer quantized alone "
            f"on {report.samples:,} test digits, {plural(len(agreement.pairs), 'layer')}. By "
            f"“{values['clue']}” the correlation is {correlation_text(agreement.spearman)}. "
            f"Sensitivity is {metric.label}; "
            f"whiskers are 95 % intervals."
        ),
    )


def _pictures(
    agreement: Agreement, report: SensitivityReport, ranked: tuple[RankedLayer, ...]
) -> tuple[Picture, Picture]:
    """The clue against the measurement, and the measurement; the worst layer is marked in both."""
    metric, worst = METRICS[report.metric], ranked[0].name
    ranking = ranking_picture(
        report, ranked, metric, rows=ranked[:_DRAWN], is_log=True, selected=worst
    )
    guess = agreement.proxy.label
    return (
        replace(
            agreement_picture(agreement, metric, selected=worst),
            about=(
                f"One point for each layer. Across: its rank by the guess, {guess}. Upwards: its "
                "measured rank. Rank 1 is to blame most, and the layer that is, is ringed.",
                "If the guess were right, all points would lie on the dotted line. Points below it "
                "are layers that the guess overlooks, points above it are blamed too much.",
            ),
        ),
        replace(
            ranking,
            about=(
                f"One dot for each of the {min(_DRAWN, len(ranked))} most sensitive layers, the "
                f"worst on top: the further right, the further the answers move. {metric.about}",
                "A whisker says how far chance may have moved its dot: with other digits it might "
                "lie anywhere on it. A bracket joins neighbours that are tied, compared on the "
                "same digits.",
            ),
        ),
    )


def _order(name: str, clue: str) -> tuple[Agreement, SensitivityReport, tuple[RankedLayer, ...]]:
    """What the stored run of a model says: both orders, and the ranking with its ties."""
    run = service.example_run(name)
    if run is None or run.sensitivity is None:
        raise FileNotFoundError(f"the stored run of {name} is needed, with its sensitivity")
    report = run.sensitivity
    metric = METRICS[report.metric]
    proxy = PROXIES["local"]
    if clue == CARRIED:
        prediction = prediction_service.example_prediction(name)
        if prediction is None:
            raise FileNotFoundError(f"the stored prediction of {name} is needed")
        proxy = predicted_proxy(prediction, run.recipe, report.direction)
    agreement = measure_agreement(run.report, report, metric, proxy)
    return agreement, report, rank_layers(report, metric)


def _right(correlation: float | None) -> int:
    """Which answer a rank correlation fits."""
    if correlation is None or abs(correlation) < _CLOSE:
        return _UNRELATED
    return _SAME if correlation > 0 else _OPPOSITE


def _ties(rivals: tuple[str, ...]) -> str:
    """Say which layers may be first as well."""
    if not rivals:
        return ""
    names = ", ".join(rivals)
    return (
        f" Nor is it alone: {names} may be first as well, for on these digits they are "
        "statistically tied with it."
    )


LESSON = Lesson(
    name="fault",
    title="Whose fault is it?",
    text=(
        "A quantized network answers a little worse. Which layer is to blame? For each layer we "
        "can compare its rounded output with its exact output. **SQNR** says how much larger the "
        "signal is than the error, in decibels (dB): a low SQNR is a large error.\n\n"
        "That is quick: no answer of the network is needed. The slow way is to round **one layer "
        "only**, run the whole network, and see how far its answers move (as *KL divergence*, in "
        "nats; 0 is not at all). That is the layer's **sensitivity**.\n\n"
        "Both ways give an order of the layers. This network looks at an image in small patches; "
        "it has 26 layers, rounded to 8 bits."
    ),
    question="Do both ways put the layers in the same order?",
    answers=(
        "Yes: a layer with a larger error of its own moves the answers further",
        "No: the two orders have little to do with each other",
        "They are opposite: layers with smaller errors move the answers further",
    ),
    controls=(
        Control(
            "network",
            "Network",
            ("mlp", "resnet", "mobilenet", "transformer", "vit"),
            _ASKED,
            "The same measurement on other trained networks, all with 8 bits.",
        ),
        Control(
            "clue",
            "What the guess looks at",
            (OWN, CARRIED),
            OWN,
            "The error in each layer's output, or where that error moves the answers, computed "
            "from slopes without running the network anew for every layer.",
        ),
    ),
    show=show,
    page="views/sensitivity/sensitivity.py",
    link={"run": "vit int8_per_channel", "layer": "patch_embedding"},
    terms=("sensitivity", "SQNR", "tie", "rank correlation"),
)
