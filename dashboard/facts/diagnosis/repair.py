"""Repair of a whole model: what its diagnosis proposes, step by step, each kept only if it counts.

Every step is a run of its own. A step begins from the last one that was better, and the diagnosis
is made anew on that one's report. The chain ends when nothing is proposed that was not tried, or
when the answers barely move any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.diagnosis import findings as rules
from dashboard.facts.diagnosis.findings import find_findings
from dashboard.facts.diagnosis.remedies import offers
from dashboard.facts.diagnosis.thresholds import MATTERS
from dashboard.facts.output_change import effect_on_all
from dashboard.facts.outputs import degradation_of, outputs_of
from quant_engine.remedies import Targets
from quant_engine.report import ModelReport
from quant_engine.scheme import Recipe

STEPS = {
    rules.ASYMMETRIC: "Zero points for inputs",
    rules.INPUT_RANGE: "Other input ranges",
    rules.WEIGHT_RANGE: "Other weight ranges",
    rules.EQUALIZE: "Equalize layers",
    rules.SMOOTH: "Smooth inputs",
    rules.PER_CHANNEL: "Scale per channel",
    rules.GPTQ: "Round by GPTQ",
    rules.BIAS: "Correct biases",
    rules.ADAROUND: "Round by AdaRound",
}
"""What a repair tries, in this order, and what to call it; no step adds bits or float layers."""

_VERDICTS = {"better": "kept", "none": "no effect, undone", "worse": "worse, undone"}
_OF_SINGLE_LAYERS = (rules.INPUT_RANGE, rules.WEIGHT_RANGE)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A remedy for all layers, because findings of some point to it.

    Attributes:
        remedy: Its key, one of `STEPS`.
        layers: The layers whose findings point to it.
        recipe: The run's recipe with it.
    """

    remedy: str
    layers: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Step:
    """One remedy of a chain.

    Attributes:
        label: What was tried.
        layers: How many layers' findings pointed to it.
        settings: Its run's settings.
        run: Its run; None while that is not known.
        verdict: "better", and then kept; "none", "worse" or "unknown", and then undone; empty
            without a run.
    """

    label: str
    layers: int
    settings: Settings
    run: Run | None
    verdict: str

    @property
    def is_kept(self) -> bool:
        """Whether the next step begins from this one."""
        return self.verdict == "better"


def proposals(report: ModelReport, targets: Targets) -> tuple[Proposal, ...]:
    """Return the remedies that findings of any layer point to, in the order of `STEPS`.

    Ranges are changed for the layers with the finding, everything else for all layers.
    """
    recipes: dict[str, Recipe] = {}
    layers: dict[str, list[str]] = {}
    for layer in report.quantized_layers:
        for finding in find_findings(layer, report, upstream=targets.upstream):
            for offer in offers(finding, layer, report.recipe, targets):
                remedy = offer.remedy
                layers.setdefault(remedy, []).append(layer.name)
                if remedy in _OF_SINGLE_LAYERS:
                    base = recipes.get(remedy, report.recipe)
                    scheme = offer.recipe.layer_scheme(layer.name)
                    assert scheme is not None
                    recipes[remedy] = base.with_override(layer.name, scheme)
                else:
                    recipes[remedy] = offer.whole or offer.recipe
    return tuple(
        Proposal(remedy, tuple(dict.fromkeys(layers[remedy])), recipes[remedy])
        for remedy in STEPS
        if remedy in recipes
    )


def repair_steps(
    start: Run, targets: Targets, find: Callable[[Settings], Run | None]
) -> tuple[Step, ...]:
    """Return the steps of a repair as far as their runs are known; the last may have none yet.

    Args:
        start: The run to repair.
        targets: What equalization and smoothing can treat in the model.
        find: Returns the run of some settings, or None where it is not known.
    """
    base, steps, tried = start, list[Step](), set[str]()
    while not is_repaired(base):
        untried = [p for p in proposals(base.report, targets) if p.remedy not in tried]
        if not untried:
            break
        proposal = untried[0]
        tried.add(proposal.remedy)
        settings = replace(base.settings, recipe=proposal.recipe)
        run = find(settings)
        is_known = run is not None and not run.report.is_partial
        verdict = effect_on_all(base.report, run.report) if run and is_known else ""
        label, count = STEPS[proposal.remedy], len(proposal.layers)
        steps.append(Step(label, count, settings, run if is_known else None, verdict))
        if not is_known:
            break
        if run is not None and verdict == "better":
            base = run
    return tuple(steps)


def is_repaired(run: Run) -> bool:
    """Whether no output moves by more than `MATTERS`, in nats, as NMSE or as 1 − cosine."""
    moved = [degradation_of(output)[1] for output in outputs_of(run.report)]
    return bool(moved) and all(value is not None and value < MATTERS for value in moved)


def repaired_run(start: Run, steps: tuple[Step, ...]) -> Run:
    """Return the last run of a repair that was better than the one before it; else the start."""
    kept = [step.run for step in steps if step.is_kept and step.run is not None]
    return kept[-1] if kept else start


def describe_repair(start: Run, steps: tuple[Step, ...]) -> str:
    """Return in a sentence how far a repair is, and what became of its steps."""
    done = [step for step in steps if step.run is not None]
    kept = [step.label for step in done if step.is_kept]
    whys = {"none": "no effect", "worse": "worse", "unknown": "cannot be compared"}
    undone = {why: [x.label for x in done if x.verdict == key] for key, why in whys.items()}
    if not done:
        return "No step has been run yet."
    parts = [f"kept: {', '.join(kept)}" if kept else "no step repairs it"]
    parts += [f"{why}, undone: {', '.join(labels)}" for why, labels in undone.items() if labels]
    if is_repaired(repaired_run(start, steps)):
        parts.append(f"the answers move by less than {MATTERS:g}, so nothing more is tried")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def verdict_words(step: Step) -> str:
    """Return what became of a step."""
    return _VERDICTS.get(step.verdict, "cannot be compared, undone")
