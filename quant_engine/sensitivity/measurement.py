"""A sensitivity measurement under way: what is run, and what is known so far."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from quant_engine.metrics.energies import to_nmse, to_sqnr_db
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.progress import ProgressMeter
from quant_engine.report import CumulativePoint, LayerSensitivity, SensitivityReport
from quant_engine.sensitivity.ranking import Degradations, choose_measure
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.layers import Footprint, LayerForms
from quant_engine.variants.outcomes import BatchOutcome, Metric, Outcome, join_known
from quant_engine.variants.runner import Variant

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
        metric: str | Metric | None,
        empty: SensitivityReport,
        unreached: frozenset[str] = frozenset(),
    ) -> None:
        """Plan the variants.

        Args:
            sweep: What runs them.
            data: What they run on; read twice.
            forms: The layers under every option.
            metric: What to rank by.
            empty: A report with the settings, to be filled.
            unreached: The layers that do not reach the judged output.
        """
        self._unreached = unreached
        self._sweep = sweep
        self._data = data
        self._forms = forms
        self._metric = metric
        self._empty = empty
        self._is_left_out = empty.direction == LEAVE_ONE_OUT
        self._outcomes: list[BatchOutcome] = []
        self._cumulative: tuple[CumulativePoint, ...] = ()
        self._bases = [forms.uniform(option) for option in forms.options]
        self._entries = tuple(forms.entries())
        # Options may do the same to a layer; the same variant is run once.
        self._indices: dict[frozenset[tuple[str, str]], int] = {}
        self._variants: list[Variant] = []
        for variant in (*self._bases, *(self._variant(*entry) for entry in self._entries)):
            if _key(variant) not in self._indices:
                self._indices[_key(variant)] = len(self._variants)
                self._variants.append(variant)

    def count_runs(self, with_cumulative: bool) -> int:
        """Return the number of variants that run on each batch."""
        return len(self._variants) + (len(self._bases[0]) + 1 if with_cumulative else 0)

    def measure_layers(self, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Measure every layer under every option, and all layers together."""
        for outcome in self._run(self._variants, self._bases, "switch layers one by one", meter):
            self._outcomes.append(outcome)
            measure = choose_measure(self._metric, _has_logits(outcome.variants))
            measure.read(outcome.variants[0], outcome.correct_float)
            if on_update is not None:
                on_update(lambda: self.report(is_partial=True))

    def accumulate(self, meter: ProgressMeter) -> None:
        """Measure the curve of quantizing the k least sensitive layers."""
        option = self._forms.options[0]
        ranking = self._least_sensitive_first(option)
        variants = [
            self._forms.uniform(option, ranking[:count]) for count in range(len(ranking) + 1)
        ]
        outcomes = list(
            self._run(variants, self._bases[:1], "quantize more and more layers", meter)
        )
        signal = float(np.concatenate([part.signal for part in outcomes]).sum())
        points = []
        for count, variant in enumerate(variants):
            joined = Outcome.join([part.variants[count] for part in outcomes])
            points.append(
                CumulativePoint(
                    count=count,
                    layer=ranking[count - 1] if count else "",
                    kl_divergence=_mean(joined.divergence),
                    sqnr_db=to_sqnr_db(signal, float(joined.noise.sum())),
                    accuracy=_mean(joined.correct),
                    model_bytes=self._forms.model_bytes(option, variant),
                    top1_agreement=_mean(joined.agreement),
                )
            )
        self._cumulative = tuple(points)

    def report(self, *, is_partial: bool) -> SensitivityReport:
        """Return what is known so far."""
        if not self._outcomes:
            return replace(self._empty, is_partial=is_partial)
        joined, signal, correct, degradations = self._known()
        values, intervals = degradations.values(), degradations.intervals()
        accuracy = _mean(correct)

        def entry(variant: Variant, name: str, text: str, footprint: Footprint) -> LayerSensitivity:
            index = self._indices[_key(variant)]
            outcome = joined[index]
            total, noise = float(signal.sum()), float(outcome.noise.sum())
            right = _mean(outcome.correct)
            return LayerSensitivity(
                name=name,
                option=text,
                kl_divergence=_mean(outcome.divergence),
                interval=intervals[index],
                sqnr_db=to_sqnr_db(total, noise),
                nmse=to_nmse(total, noise),
                top1_agreement=_mean(outcome.agreement),
                accuracy_drop=None if accuracy is None or right is None else accuracy - right,
                float_bytes=footprint.float_bytes,
                quantized_bytes=footprint.quantized_bytes,
                parameters=footprint.parameters,
                value=values[index],
                reaches_output=name not in self._unreached,
            )

        layers = []
        for name, option in self._entries:
            text = self._forms.describe(name, option)
            footprint = self._forms.footprint(option, [name])
            layer = entry(self._variant(name, option), name, text, footprint)
            if self._is_left_out:
                base = self._indices[_key(self._forms.uniform(option))]
                gain = degradations.gain_interval(base, self._index(name, option))
                layer = replace(layer, gain_interval=gain)
            layers.append(layer)
        references = tuple(
            entry(base, "", option or _ALL_LAYERS, self._forms.footprint(option))
            for option, base in zip(self._forms.options, self._bases, strict=True)
        )
        rankings = []
        for option in self._forms.options:
            names = self._forms.names(option)
            rows = [self._index(name, option) for name in names]
            rankings.append(degradations.rank(option, names, rows, is_left_out=self._is_left_out))
        return replace(
            self._empty,
            layers=tuple(layers),
            reference=references[0],
            cumulative=self._cumulative,
            samples=len(signal),
            accuracy_float=accuracy,
            is_partial=is_partial,
            notes=(*self._empty.notes, *_notes(self._outcomes)),
            metric=degradations.measure.name,
            references=references,
            rankings=tuple(rankings),
        )

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

    def _known(self) -> tuple[list[Outcome], FloatArray, FloatArray | None, Degradations]:
        """Return what every variant answered so far, and the degradations that follow."""
        joined = [
            Outcome.join([part.variants[index] for part in self._outcomes])
            for index in range(len(self._variants))
        ]
        signal = np.concatenate([part.signal for part in self._outcomes])
        correct = join_known(part.correct_float for part in self._outcomes)
        measure = choose_measure(self._metric, _has_logits(joined))
        return (
            joined,
            signal,
            correct,
            Degradations.of(measure, joined, signal, correct, self._empty.seed),
        )

    def _least_sensitive_first(self, option: str) -> list[str]:
        """Sort layers by their degradation alone, or by how little leaving them out helps."""
        degradations = self._known()[-1]
        sign = -1.0 if self._is_left_out else 1.0
        names = self._forms.names(option)
        return sorted(names, key=lambda name: sign * degradations.means[self._index(name, option)])


def _key(variant: Variant) -> frozenset[tuple[str, str]]:
    return frozenset(variant.items())


def _has_logits(outcomes: Iterable[Outcome]) -> bool:
    return all(outcome.divergence is not None for outcome in outcomes)


def _notes(outcomes: Sequence[BatchOutcome]) -> tuple[str, ...]:
    reasons = dict.fromkeys(part.full_forwards_because for part in outcomes)
    return tuple(f"Every run was a full forward pass: {reason}." for reason in reasons if reason)


def _mean(values: FloatArray | None) -> float | None:
    return None if values is None else float(values.mean())
