"""Two runs of one model side by side: what differs, why, where, and whose answers flipped.

One section, as plain data and figures: Start shows a story with it, and whatever else compares two
runs can draw the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dashboard.data.runs import Run
from dashboard.facts.accuracy import (
    agreement_text,
    change_text,
    compare_outputs,
    has_whole_answers,
    right_text,
)
from dashboard.facts.compare.differences import have_same_samples
from dashboard.facts.diagnosis.causes import cause_sentence
from dashboard.facts.diagnosis.culprit import OutputEffects, find_culprit, output_effects
from dashboard.facts.diagnosis.four_errors import rank_errors
from dashboard.facts.output_change import degradation_text
from dashboard.facts.outputs import answering_output, degradation_of, outputs_of, prefix_of
from dashboard.figures.kit.picture import Picture
from dashboard.figures.layers.four_errors import (
    BROKEN_MARK,
    REPAIRED_MARK,
    Mark,
    Series,
    four_errors_picture,
)
from dashboard.figures.tensor.cause import cause_picture
from dashboard.words.formatting import format_bytes, plural
from dashboard.words.recipes import describe_recipe
from quant_engine.report import Answers, ModelReport, OutputReport

MOST_FLIPPED = 8
MOST_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs in a few words.

    Attributes:
        label: "broken" or "repaired", or what the caller calls it.
        recipe: How the model was quantized.
        sentence: What happened, and how many answers are right.
        cost: Degradation with its interval, and bytes.
    """

    label: str
    recipe: str
    sentence: str
    cost: str = ""


@dataclass(frozen=True, slots=True)
class Flipped:
    """A sample that the first run answers otherwise than the float model.

    Attributes:
        index: Its index in the evaluation data.
        label: What is right; None without labels.
        float_answer: What the float model answers.
        a: What the first run answers.
        b: What the second run answers.
    """

    index: int
    label: int | None
    float_answer: int
    a: int
    b: int

    @property
    def right(self) -> int:
        """What is right; without labels, what the float model answers."""
        return self.float_answer if self.label is None else self.label


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs, compared.

    Attributes:
        a: The first, in words.
        b: The second.
        difference: How their answers differ, in one sentence.
        cause: The picture that shows why, of the first run's culprit.
        errors: The four errors of the layers in both.
        flipped: Samples whose answer the first run changes, those that the second keeps first.
        flipped_text: How many there are.
    """

    a: Side
    b: Side
    difference: str
    cause: Picture | None
    errors: Picture
    flipped: tuple[Flipped, ...]
    flipped_text: str


def pair(
    run_a: Run,
    run_b: Run,
    labels: tuple[str, str] = ("broken", "repaired"),
    *,
    change: str = "",
    predicted: tuple[OutputEffects | None, OutputEffects | None] = (None, None),
    marks: tuple[Mark, Mark] = (BROKEN_MARK, REPAIRED_MARK),
    layer: str = "",
) -> Pair:
    """Compare two runs of one model.

    Args:
        run_a: The first.
        run_b: The second.
        labels: What to call them.
        change: What the second does otherwise, in a few words; its recipe if empty.
        predicted: What predictions say of their layers, where there are some.
        marks: How each is drawn.
        layer: The layer whose cause is shown; the first run's culprit if empty.
    """
    effects = [
        output_effects(run.report, run.sensitivities, known)
        for run, known in zip((run_a, run_b), predicted, strict=True)
    ]
    culprit = find_culprit(run_a.report, run_a.sensitivities, predicted[0])
    selected = layer or (None if culprit is None else culprit.name)
    cause, why = None, describe_recipe(run_a.recipe)
    names = [{layer.name for layer in run.report.layers} for run in (run_a, run_b)]
    if selected is not None and all(selected in known for known in names):
        layers = [run.report.layer(selected) for run in (run_a, run_b)]
        cause, why = cause_picture(layers[0], layers[1], labels), cause_sentence(layers[0])
    series = [
        Series(label, rank_errors(run.report, known), known, mark)
        for label, run, known, mark in zip(labels, (run_a, run_b), effects, marks, strict=True)
    ]
    answers = answering_output(run_a.report), answering_output(run_b.report)
    flipped = flipped_samples(*answers)
    which = prefix_of(answers[0], run_a.report)
    change = change or describe_recipe(run_b.recipe)
    return Pair(
        a=_side(run_a, labels[0], why),
        b=_side(run_b, labels[1], change),
        difference=which + _difference(*answers, labels),
        cause=cause,
        errors=four_errors_picture(series, selected=selected, most=MOST_LAYERS),
        flipped=flipped[:MOST_FLIPPED],
        flipped_text=which + _flipped_text(flipped, answers[0], labels),
    )


def _side(run: Run, label: str, why: str) -> Side:
    sentence = f"{why[:1].upper()}{why[1:]}: {_accuracy(run.report)}"
    size = run.report.size
    cost = [] if size is None else [format_bytes(size.quantized_bytes)]
    degradation = degradation_text(run.report)
    cost += [f"degradation {degradation}"] if degradation else []
    return Side(label, describe_recipe(run.recipe), sentence, ", ".join(cost))


def _accuracy(report: ModelReport) -> str:
    """The right answers, the same answers, or the degradation, of every output."""
    parts = []
    for output in outputs_of(report):
        if output.accuracy_quantized is not None:
            text = f"{right_text(output.accuracy_quantized, output)} right"
        elif output.top1_agreement is not None:
            text = f"{agreement_text(output)} as float"
        else:
            measure, value, _ = degradation_of(output)
            text = measure.named(value)
        parts.append(prefix_of(output, report) + text)
    return "; ".join(parts) or "not evaluated"


def _difference(a: OutputReport | None, b: OutputReport | None, labels: tuple[str, str]) -> str:
    change = compare_outputs(a, b)
    if change is None:
        return _why_not_compared(a, b)
    return (
        f"{labels[1].capitalize()} against {labels[0]}: {change_text(change)} on the same "
        f"{plural(change.samples, 'test sample')}."
    )


def _why_not_compared(a: OutputReport | None, b: OutputReport | None) -> str:
    known = [output for output in (a, b) if output is not None]
    if any(output.top1_agreement is None for output in known):
        return "Right answers are not compared: only an output with classes has any."
    if any(output.accuracy_quantized is None for output in known):
        return "Right answers are not compared: they are not known without labels."
    if not all(map(has_whole_answers, known)):
        return "Right answers are not compared: tokens or pixels of one sample are not independent."
    return "The two cannot be compared by their right answers."


def _all_samples(a: Answers, b: Answers) -> list[Flipped]:
    """Return what every sample was answered, by runs that answered the same ones."""
    labels: Sequence[int | None] = a.labels or (None,) * len(a.float)
    rows = zip(labels, a.float, a.quantized, b.quantized, strict=True)
    return [Flipped(index, *answers) for index, answers in enumerate(rows)]


def flipped_samples(a: OutputReport | None, b: OutputReport | None) -> tuple[Flipped, ...]:
    """Return the samples that `a` answers otherwise than the float model, the telling ones first.

    Those come first that the float model and `b` get right; of these each digit once, then again.
    """
    if a is None or b is None or a.answers is None or b.answers is None:
        return ()
    if len(a.answers.quantized) != len(b.answers.quantized):
        return ()
    samples = _all_samples(a.answers, b.answers)
    found = [samples[index] for index in a.answers.flipped]
    seen: dict[int, int] = {}
    order = []
    for sample in found:
        is_telling = sample.float_answer == sample.b == sample.right
        seen[sample.right] = seen.get(sample.right, 0) + 1
        order.append((not is_telling, seen[sample.right], sample.index, sample))
    return tuple(sample for *_, sample in sorted(order, key=lambda entry: entry[:3]))


def with_differing_samples(found: Pair, run_a: Run, run_b: Run) -> Pair:
    """Return the pair with the samples on which the two runs differ, whatever float says of them.

    Those that one of them gets right come first.
    """
    a, b = answering_output(run_a.report), answering_output(run_b.report)
    if any(output is not None and output.top1_agreement is None for output in (a, b)):
        return replace(found, flipped=(), flipped_text="")
    if a is None or b is None or a.answers is None or b.answers is None:
        return replace(found, flipped=(), flipped_text=_no_answers(a))
    first, second = a.answers, b.answers
    if not have_same_samples(a, b) or len(first.quantized) != len(second.quantized):
        return replace(found, flipped=(), flipped_text="The two did not answer the same samples.")
    differing = [sample for sample in _all_samples(first, second) if sample.a != sample.b]
    won = sum(sample.b == sample.right for sample in differing)
    lost = sum(sample.a == sample.right for sample in differing)
    right = "right" if first.labels else "as float"
    text = prefix_of(a, run_a.report) + (
        f"{len(differing)} of {len(first.float)} answers differ: B is {right} in {won} of them, "
        f"A in {lost}."
    )
    differing.sort(key=lambda sample: sample.right not in (sample.a, sample.b))
    return replace(found, flipped=tuple(differing[:MOST_FLIPPED]), flipped_text=text)


def _no_answers(output: OutputReport | None) -> str:
    """Say why no samples are shown; nothing of an output without classes."""
    if output is not None and output.top1_agreement is None:
        return ""
    if output is not None and not has_whole_answers(output):
        return "Each sample has many answers, tokens or pixels: single ones are not shown."
    return "The answers to single samples were not kept."


def _flipped_text(
    flipped: tuple[Flipped, ...], output: OutputReport | None, labels: tuple[str, str]
) -> str:
    if output is None or output.answers is None:
        return _no_answers(output)
    total = len(output.answers.float)
    if not flipped:
        return f"{labels[0].capitalize()}: no answer of {total} changed."
    kept = sum(1 for sample in flipped if sample.b == sample.float_answer)
    return (
        f"{labels[0].capitalize()}: {len(flipped)} of {total} answers changed. {kept} of them are "
        f"the float model's again when {labels[1]}."
    )
