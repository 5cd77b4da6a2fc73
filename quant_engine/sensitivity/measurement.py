"""A sensitivity measurement under way: what is run, and what is known so far."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from quant_engine.judging.judged import JudgedOutput
from quant_engine.metrics.catalogue import KL_DIVERGENCE, TOP1_AGREEMENT, value_of
from quant_engine.metrics.energies import to_nmse, to_sqnr_db
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.progress import ProgressMeter
from quant_engine.report import CumulativePoint, LayerSensitivity, SensitivityReport
from quant_engine.sensitivity.curve import choose_counts
from quant_engine.sensitivity.ranking import Degradations, Scale
from quant_engine.variants.layers import LayerForms
from quant_engine.variants.outcomes import BatchOutcome, Outcome, join_outcomes
from quant_engine.variants.runner import FLOAT, Variant

ONE_AT_A_TIME = "one_at_a_time"
LEAVE_ONE_OUT = "leave_one_out"
DIRECTIONS = (ONE_AT_A_TIME, LEAVE_ONE_OUT)

OnUpdate: TypeAlias = Callable[[Callable[[], SensitivityReport]], None]
"""Called often with a function that builds the report of what is known so far."""

OnProgress: TypeAlias = Callable[[int, int], None]
Sweep: TypeAlias = Callable[
    [Iterable[Batch], Sequence[Variant], Sequence[Variant], OnProgress],
    Generator[BatchOutcome, None, None],
]
"""Runs variants on batches: `distribution.run_here`, or `run_elsewhere`, with its first arguments
given."""

_ALL_LAYERS = "all layers of the recipe"


class Measurement:
    """Runs the variants of a sweep, and builds the report of what is known at any time."""

    def __init__(
        self,
        sweep: Sweep,
        data: Data,
        forms: LayerForms,
        judged: Sequence[JudgedOutput],
        empty: SensitivityReport,
        unreached: frozenset[str] = frozenset(),
        curve_points: int | None = 0,
    ) -> None:
        """Plan the variants.

        Args:
            sweep: What runs them.
            data: What they run on; read again for the curve.
            forms: The layers under every option.
            judged: What of an answer is judged.
            empty: A report with the settings, to be filled.
            unreached: The layers that do not reach the judged output.
            curve_points: At how many counts the curve is measured: 0 for none, None for all.
        """
        self._curve_points = curve_points
        self._unreached = unreached
        self._sweep = sweep
        self._data = data
        self._forms = forms
        self._judged = judged
        self._empty = empty
        self._is_left_out = empty.direction == LEAVE_ONE_OUT
        self._outcomes: list[BatchOutcome] = []
        self._cumulative: tuple[CumulativePoint, ...] = ()
        self._bases = [forms.uniform(option) for option in forms.options]
        self._entries = tuple(forms.entries())
        # Options may do the same to a layer; the same variant is run once.
        self._indices: dict[frozenset[tuple[str, str]], int] = {}
        self._variants: list[Variant] = []
        planned = [*self._bases, *(self._variant(*entry) for entry in self._entries)]
        # Replayed from end to end; the curve then has its first point.
        planned += [FLOAT] if curve_points != 0 else []
        for variant in planned:
            if _key(variant) not in self._indices:
                self._indices[_key(variant)] = len(self._variants)
                self._variants.append(variant)

    def count_runs(self) -> int:
        """Return the number of variants that run on each batch."""
        layers = len(self._bases[0])
        points = layers + 1 if self._curve_points is None else min(self._curve_points, layers + 1)
        return len(self._variants) + max(0, points - len(self._measured_counts()))

    def measure_layers(self, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Measure every layer under every option, and all layers together."""
        for outcome in self._run(self._variants, self._bases, "switch layers one by one", meter):
            self._outcomes.append(outcome)
            if len(self._outcomes) == 1:
                Degradations(self._judged, outcome.variants[:1], 0)  # says at once what is missing
            if on_update is not None:
                on_update(lambda: self.report(is_partial=True))

    def accumulate(self, meter: ProgressMeter) -> None:
        """Measure the curve of quantizing the k least sensitive layers."""
        option = self._forms.options[0]
        joined, degradations = self._known()
        means = degradations.scale(self._base(option)).means
        sign = -1.0 if self._is_left_out else 1.0
        effects = {n: sign * means[self._index(n, option)] for n in self._forms.names(option)}
        ranking = sorted(effects, key=effects.__getitem__)
        whole = means[self._base(option)] if self._is_left_out else 0.0
        with np.errstate(invalid="ignore"):  # two infinite degradations do not differ
            changes = [float(whole + effects[name]) for name in ranking]
        counts = choose_counts(changes, self._measured_counts(), self._curve_points)
        variants = [self._forms.uniform(option, ranking[:count]) for count in counts]
        new = [variant for variant in variants if _key(variant) not in self._indices]
        parts = []
        if new:
            parts = list(self._run(new, self._bases[:1], "quantize more and more layers", meter))
        found = {key: joined[index] for key, index in self._indices.items()}
        for index, variant in enumerate(new):
            found[_key(variant)] = join_outcomes([part.variants[index] for part in parts])
        outcomes = [found[_key(variant)] for variant in variants]
        scale = Degradations(self._judged, outcomes, self._empty.seed).scale(len(variants) - 1)
        points = []
        for index, (count, outcome) in enumerate(zip(counts, outcomes, strict=True)):
            totals = outcome[0].totals()
            added = ranking[counts[index - 1] : count] if index else []
            points.append(
                CumulativePoint(
                    count=count,
                    layer=added[-1] if added else "",
                    kl_divergence=value_of(KL_DIVERGENCE, totals),
                    sqnr_db=to_sqnr_db(float(totals["signal"]), float(totals["noise"])),
                    accuracy=_accuracy(outcome, "correct"),
                    model_bytes=self._forms.model_bytes(option, variants[index]),
                    top1_agreement=value_of(TOP1_AGREEMENT, totals),
                    value=float(scale.values[index]),
                    added=tuple(added),
                )
            )
        self._cumulative = tuple(points)

    def report(self, *, is_partial: bool) -> SensitivityReport:
        """Return what is known so far."""
        if not self._outcomes:
            return replace(self._empty, is_partial=is_partial)
        joined, degradations = self._known()
        scales = {o: degradations.scale(self._base(o)) for o in self._forms.options}
        layers = []
        for name, option in self._entries:
            index, text = self._index(name, option), self._forms.describe(name, option)
            layer = self._entry(degradations, scales, joined, index, option, name, text)
            if self._is_left_out:
                gain = scales[option].gain_interval(self._base(option), index)
                layer = replace(layer, gain_interval=gain)
            layers.append(layer)
        references = tuple(
            self._entry(
                *(degradations, scales, joined, self._base(option), option, ""),
                option or _ALL_LAYERS,
            )
            for option in self._forms.options
        )
        rankings = []
        for option in self._forms.options:
            names = self._forms.names(option)
            rows = [self._index(name, option) for name in names]
            is_left_out = self._is_left_out
            rankings.append(
                degradations.rank(option, names, rows, scales[option], is_left_out=is_left_out)
            )
        return replace(
            self._empty,
            layers=tuple(layers),
            reference=references[0],
            cumulative=self._cumulative,
            samples=joined[0][0].samples,
            accuracy_float=_accuracy(joined[0], "correct_float"),
            is_partial=is_partial,
            notes=(*self._empty.notes, *_notes(self._outcomes)),
            metric=degradations.metric.name,
            references=references,
            rankings=tuple(rankings),
        )

    def _entry(
        self,
        degradations: Degradations,
        scales: Mapping[str, Scale],
        joined: Sequence[Outcome],
        index: int,
        option: str,
        name: str,
        text: str,
    ) -> LayerSensitivity:
        """Return what a variant does; an empty name stands for all layers."""
        footprint = self._forms.footprint(option, [name] if name else None)
        scale, base, outputs = scales[option], self._base(option), degradations.outputs
        totals = joined[index][0].totals()
        signal, noise = float(totals["signal"]), float(totals["noise"])
        before, after = (_accuracy(joined[index], key) for key in ("correct_float", "correct"))
        is_one, decided = len(outputs) == 1, scale.decided_by[index]
        return LayerSensitivity(
            name=name,
            option=text,
            kl_divergence=value_of(KL_DIVERGENCE, totals),
            interval=scale.interval(index),
            sqnr_db=to_sqnr_db(signal, noise),
            nmse=to_nmse(signal, noise),
            top1_agreement=value_of(TOP1_AGREEMENT, totals),
            accuracy_drop=None if before is None or after is None else before - after,
            float_bytes=footprint.float_bytes,
            quantized_bytes=footprint.quantized_bytes,
            parameters=footprint.parameters,
            value=float(scale.values[index]),
            reaches_output=name not in self._unreached,
            outputs=() if is_one else tuple(output.effect(index, base) for output in outputs),
            decided_by="" if is_one or decided < 0 else outputs[decided].name,
        )

    def _base(self, option: str) -> int:
        """Return the index of the variant with all layers under an option."""
        return self._indices[_key(self._forms.uniform(option))]

    def _variant(self, name: str, option: str) -> Variant:
        """Return the layer alone, or all layers but it."""
        if not self._is_left_out:
            return self._forms.uniform(option, [name])
        others = [other for other in self._forms.names(option) if other != name]
        return self._forms.uniform(option, others)

    def _index(self, name: str, option: str) -> int:
        return self._indices[_key(self._variant(name, option))]

    def _run(
        self,
        variants: Sequence[Variant],
        bases: Sequence[Variant],
        text: str,
        meter: ProgressMeter,
    ) -> Iterator[BatchOutcome]:
        finished: dict[int, int] = {}

        def on_progress(batch: int, steps: int) -> None:
            finished[batch] = finished.get(batch, 0) + steps
            message = f"{text}: batch {batch}, run {finished[batch]} of {len(variants)}"
            if steps:
                meter.step(message, steps)
            else:
                meter.say(message)

        batches = iterate_batches(self._data, "evaluation_data")
        with closing(self._sweep(batches, variants, bases, on_progress)) as outcomes:
            yield from outcomes

    def _known(self) -> tuple[list[Outcome], Degradations]:
        """Return what every variant answered so far, and the degradations that follow."""
        joined = [
            join_outcomes([part.variants[index] for part in self._outcomes])
            for index in range(len(self._variants))
        ]
        return joined, Degradations(self._judged, joined, self._empty.seed)

    def _measured_counts(self) -> tuple[int, ...]:
        """Return the counts of the curve that switching layers one by one has measured."""
        layers = len(self._bases[0])
        return tuple(dict.fromkeys((0, layers, layers - 1 if self._is_left_out else 1)))


def _key(variant: Variant) -> frozenset[tuple[str, str]]:
    return frozenset(variant.items())


def _notes(outcomes: Sequence[BatchOutcome]) -> tuple[str, ...]:
    reasons = dict.fromkeys(part.full_forwards_because for part in outcomes)
    return tuple(f"Every run was a full forward pass: {reason}." for reason in reasons if reason)


def _accuracy(outcome: Outcome, correct: str) -> float | None:
    """Return the share of labelled positions that are right, of the first output with labels."""
    for counts in outcome:
        labelled = float(counts["labelled"].sum()) if "labelled" in counts else 0.0
        if labelled:
            return float(counts[correct].sum()) / labelled
    return None
