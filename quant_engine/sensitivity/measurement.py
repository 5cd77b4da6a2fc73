"""A sensitivity measurement under way: what is run, and what is known so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

import numpy as np

from quant_engine.judging.judged import JudgedOutput
from quant_engine.metrics.bootstrap import percentile_interval
from quant_engine.metrics.catalogue import KL_DIVERGENCE, TOP1_AGREEMENT, value_of
from quant_engine.metrics.energies import to_nmse, to_sqnr_db
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.progress import ProgressMeter
from quant_engine.report import CumulativePoint, LayerSensitivity, SensitivityReport
from quant_engine.sensitivity.curve import choose_counts
from quant_engine.sensitivity.ranking import Degradations, Earlier, Scale, differences
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
"""Runs variants on batches: `executors.run_here`, or `run_elsewhere`, with its first arguments
given."""

_ALL_LAYERS = "all layers of the recipe"


MIN_SAMPLES = 128
"""Samples that a layer is judged on at least before it may be stopped."""
_STOP_CONFIDENCE = 0.99  # as there are many layers, each judged several times


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What the variants answered on the first batches, and what follows from it."""

    joined: Sequence[Outcome]
    degradations: Degradations
    scales: Mapping[str, Scale]


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
        precision: float | None = None,
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
            precision: Stop a layer whose effect lies below this share of the largest; None for
                never.
        """
        self._curve_points = curve_points
        self._precision = precision
        self._unreached = unreached
        self._sweep = sweep
        self._data = data
        self._forms = forms
        self._judged = judged
        self._empty = empty
        self._is_left_out = empty.direction == LEAVE_ONE_OUT
        self._reasons: list[str] = []
        self._stopped: dict[int, int] = {}  # variant -> on how many batches it ran
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
        # Of each variant, what it answered on the batches so far; shorter if it was stopped.
        self._outcomes: list[list[Outcome]] = [[] for _ in self._variants]

    def count_runs(self) -> int:
        """Return the number of variants that run on each batch."""
        layers = len(self._bases[0])
        points = layers + 1 if self._curve_points is None else min(self._curve_points, layers + 1)
        return len(self._variants) + max(0, points - len(self._measured_counts()))

    def measure_layers(self, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Measure every layer under every option, and all layers together."""
        batches = iterate_batches(self._data, "evaluation_data")
        # Where layers may be stopped, that is decided after 1, 2, 4, ... batches.
        size = None if self._precision is None else 1
        while True:
            before = self._batches
            active = [i for i in range(len(self._variants)) if i not in self._stopped]
            variants = [self._variants[index] for index in active]
            text = "switch layers one by one"
            for outcome in self._run(
                islice(batches, size), variants, self._bases, text, meter, before
            ):
                for index, answer in zip(active, outcome.variants, strict=True):
                    self._outcomes[index].append(answer)
                self._reasons.append(outcome.full_forwards_because)
                if self._batches == 1:  # says at once what is missing
                    Degradations(self._judged, [self._outcomes[0][0]], 0)
                if self._stopped:
                    meter.step(text, len(self._stopped))
                if on_update is not None:
                    on_update(lambda: self.report(is_partial=True))
            if size is None or self._batches < before + size:
                return
            size = self._batches
            self._stop_layers()

    def _stop_layers(self) -> None:
        """Stop what lies far below the layer with the largest effect, as far as is known."""
        assert self._precision is not None
        view = self._view(self._batches)
        if view.joined[0][0].samples < MIN_SAMPLES:
            return
        far: dict[int, bool] = {}
        for option in self._forms.options:
            base, scale = self._base(option), view.scales[option]
            found = {self._index(name, option) for name in self._forms.names(option)}
            resampled = {
                index: scale.gains(base, index) if self._is_left_out else scale.resampled[index]
                for index in found - self._stopped.keys()
            }
            largest = max(resampled.values(), key=lambda effect: percentile_interval(effect)[0])
            for index, effect in resampled.items():
                # In pairs: the samples that decide are often hard for all layers.
                gap = differences(self._precision * largest, effect)
                is_far = percentile_interval(gap, _STOP_CONFIDENCE)[0] > 0.0
                far[index] = far.get(index, True) and is_far
        kept = {self._base(option) for option in self._forms.options}
        self._stopped |= {n: self._batches for n, is_far in far.items() if is_far and n not in kept}

    def accumulate(self, meter: ProgressMeter) -> None:
        """Measure the curve of quantizing the k least sensitive layers."""
        option = self._forms.options[0]
        joined = self._view(self._batches).joined
        effects = self._all_effects(option)
        ranking = sorted(effects, key=effects.__getitem__)
        changes = [effects[name] for name in ranking]
        counts = choose_counts(changes, self._measured_counts(), self._curve_points)
        variants = [self._forms.uniform(option, ranking[:count]) for count in counts]
        found = {k: joined[n] for k, n in self._indices.items() if n not in self._stopped}
        new = [variant for variant in variants if _key(variant) not in found]
        parts = []
        if new:
            batches = iterate_batches(self._data, "evaluation_data")
            text = "quantize more and more layers"
            # A record of all layers quantized would save less than the pass that it takes.
            parts = list(self._run(batches, new, (), text, meter))
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
        if not self._batches:
            return replace(self._empty, is_partial=is_partial)
        views = self._views()
        view = views[self._batches]
        layers = []
        for name, option in self._entries:
            index, text = self._index(name, option), self._forms.describe(name, option)
            seen = views[self._stopped.get(index, self._batches)]
            layer = self._entry(seen, index, option, name, text)
            if self._is_left_out:
                gain = seen.scales[option].gain_interval(self._base(option), index)
                layer = replace(layer, gain_interval=gain)
            layers.append(layer)
        references = tuple(
            self._entry(view, self._base(option), option, "", option or _ALL_LAYERS)
            for option in self._forms.options
        )
        rankings = []
        for option in self._forms.options:
            names = self._forms.names(option)
            rankings.append(
                view.degradations.rank(
                    option,
                    names,
                    [self._index(name, option) for name in names],
                    view.scales[option],
                    is_left_out=self._is_left_out,
                    earlier={
                        index: Earlier(
                            views[count].degradations,
                            views[count].scales[option],
                            self._mean(index, option, views),
                        )
                        for index, count in self._stopped.items()
                    },
                )
            )
        return replace(
            self._empty,
            layers=tuple(layers),
            reference=references[0],
            cumulative=self._cumulative,
            samples=view.joined[0][0].samples,
            accuracy_float=_accuracy(view.joined[0], "correct_float"),
            has_whole_answers=_has_whole_answers(view.joined[0]),
            is_partial=is_partial,
            notes=(*self._empty.notes, *_notes(self._reasons), *self._stop_notes(layers)),
            metric=view.degradations.metric.name,
            references=references,
            rankings=tuple(rankings),
        )

    def _entry(
        self, view: _View, index: int, option: str, name: str, text: str
    ) -> LayerSensitivity:
        """Return what a variant does; an empty name stands for all layers."""
        footprint = self._forms.footprint(option, [name] if name else None)
        joined, outputs = view.joined, view.degradations.outputs
        scale, base = view.scales[option], self._base(option)
        totals = joined[index][0].totals()
        signal, noise = float(totals["signal"]), float(totals["noise"])
        before, after = (_accuracy(joined[index], key) for key in ("correct_float", "correct"))
        is_one, decided = len(outputs) == 1, scale.decided_by[index]
        saw_fewer = self._stopped.get(index, self._batches) < self._batches
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
            samples=joined[index][0].samples if saw_fewer else None,
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
        batches: Iterable[Batch],
        variants: Sequence[Variant],
        bases: Sequence[Variant],
        text: str,
        meter: ProgressMeter,
        before: int = 0,
    ) -> Iterator[BatchOutcome]:
        """Run variants on batches, of which so many came before."""
        finished: dict[int, int] = {}

        def on_progress(batch: int, steps: int) -> None:
            finished[batch] = finished.get(batch, 0) + steps
            runs = f"run {finished[batch]} of {len(variants)}"
            message = f"{text}: batch {before + batch}, {runs}"
            if steps:
                meter.step(message, steps)
            else:
                meter.say(message)

        with closing(self._sweep(batches, variants, bases, on_progress)) as outcomes:
            yield from outcomes

    @property
    def _batches(self) -> int:
        """Batches so far; the first variant, all layers under the first option, saw all."""
        return len(self._outcomes[0])

    def _view(self, batches: int) -> _View:
        """Return what the variants answered on the first batches.

        Of those that were stopped before, what all layers together did stands there.
        """
        joined = [
            join_outcomes((found if len(found) >= batches else self._outcomes[0])[:batches])
            for found in self._outcomes
        ]
        degradations = Degradations(self._judged, joined, self._empty.seed)
        scales = {o: degradations.scale(self._base(o)) for o in self._forms.options}
        return _View(joined, degradations, scales)

    def _views(self) -> dict[int, _View]:
        """Return what is known after all batches, and after as many as stopped variants ran on."""
        return {count: self._view(count) for count in {self._batches, *self._stopped.values()}}

    def _all_effects(self, option: str) -> dict[str, float]:
        """Return each layer's degradation alone, or how much leaving it out helps."""
        views, names = self._views(), self._forms.names(option)
        indices = [self._base(option), *(self._index(name, option) for name in names)]
        base, *means = (self._mean(index, option, views) for index in indices)
        effects = differences(np.array(base), np.array(means)) if self._is_left_out else means
        return dict(zip(names, map(float, effects), strict=True))

    def _mean(self, index: int, option: str, views: Mapping[int, _View]) -> float:
        """Return a variant's degradation on all samples; for one that was stopped an estimate.

        A few samples may be hard for all layers. What was stopped for its share of the largest
        effect is taken to have that share of it on all samples too.
        """
        base, means = self._base(option), views[self._batches].scales[option].means
        if index not in self._stopped:
            return float(means[index])
        before = views[self._stopped[index]].scales[option].means
        effects, effects_before = (
            differences(found[base], found) if self._is_left_out else found
            for found in (means, before)
        )
        layers = {self._index(name, option) for name in self._forms.names(option)}
        largest = max(layers - self._stopped.keys(), key=effects.__getitem__)
        effect, largest_before = effects_before[index], effects_before[largest]
        if largest_before > 0.0 and math.isfinite(effects[largest] / largest_before):
            effect = effect * effects[largest] / largest_before
        return float(differences(means[base], effect) if self._is_left_out else effect)

    def _stop_notes(self, layers: Sequence[LayerSensitivity]) -> tuple[str, ...]:
        """Say which layers were stopped, and on how many samples they are judged."""
        counts: dict[int, list[str]] = {}
        for layer in layers:
            if layer.samples is not None:
                text = f"{layer.name} ({layer.option})" if self._empty.schemes else layer.name
                counts.setdefault(layer.samples, []).append(text)
        return tuple(
            f"Judged on {samples} samples only, as what they do was by then below "
            f"{self._precision:g} times the largest, by the 99 % interval of the difference: "
            f"{', '.join(names)}."
            for samples, names in counts.items()
        )

    def _measured_counts(self) -> tuple[int, ...]:
        """Return the counts of the curve that switching layers one by one is sure to measure."""
        layers = len(self._bases[0])
        if self._precision is not None:
            return 0, layers
        return tuple(dict.fromkeys((0, layers, layers - 1 if self._is_left_out else 1)))


def _key(variant: Variant) -> frozenset[tuple[str, str]]:
    return frozenset(variant.items())


def _notes(reasons: Sequence[str]) -> tuple[str, ...]:
    found = filter(None, dict.fromkeys(reasons))
    return tuple(f"Every run was a full forward pass: {reason}." for reason in found)


def _has_whole_answers(outcome: Outcome) -> bool:
    """Whether no sample has more than one position with logits."""
    return all(counts["positions"].max() <= 1 for counts in outcome if "positions" in counts)


def _accuracy(outcome: Outcome, correct: str) -> float | None:
    """Return the share of labelled positions that are right, of the first output with labels."""
    for counts in outcome:
        labelled = float(counts["labelled"].sum()) if "labelled" in counts else 0.0
        if labelled:
            return float(counts[correct].sum()) / labelled
    return None
