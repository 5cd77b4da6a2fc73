"""Measuring a response: forward once, backward once a direction, and the check by running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from quant_engine.judging.judged import NMSE, Judged
from quant_engine.judging.reach import NO_PATH
from quant_engine.metrics.output import fitting_labels
from quant_engine.model.batches import Batch, Data, count_batches, iterate_batches
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.size import list_stored
from quant_engine.remedies import remedies_left_out
from quant_engine.report import (
    AgreementPoint,
    ResponseAgreement,
    ResponseLayer,
    ResponseOption,
    ResponseReport,
)
from quant_engine.report.response import BY_GRADIENT, BY_RUNNING, LOGITS, VALUES
from quant_engine.response.agreement import (
    DegradationSums,
    as_pairs,
    draw_random,
    draw_single,
    judge,
)
from quant_engine.response.arrays import ResponseArrays
from quant_engine.response.directions import Directions, OutputPlan
from quant_engine.response.gradients import linear_response
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme
from quant_engine.variants.layers import Configuration, LayerForms, as_variant
from quant_engine.variants.runner import VariantRunner

READ = "its weight is also read without calling it, which the gradient at its output leaves out"


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """How a response is measured.

    Attributes:
        classes: Outputs of at most this many values per row are predicted completely.
        top_k: Largest logits that are predicted one by one where there are more.
        projections: Random projections of what is not.
        configurations: Random configurations that are run for the agreement.
        agreement_samples: No more batches are run for it once this many rows were.
        seed: Seed of projections and configurations.
        metric: "nmse" if the output is not to be read as logits.
    """

    classes: int
    top_k: int
    projections: int
    configurations: int
    agreement_samples: int
    seed: int
    metric: str | None


@dataclass(slots=True, eq=False)
class _Part:
    """What one batch gave; see `ResponseArrays`."""

    base: Tensor
    shifts: Tensor
    roundings: Tensor
    signal: Tensor
    labels: Tensor | None
    output: Tensor
    classes: Tensor | None


@dataclass(slots=True, eq=False)
class ResponseMeasurement:
    """A measurement under way.

    Attributes:
        prepared: The float model; gradients of its parameters are switched off.
        forms: Its layers under every option.
        options: Option name -> scheme.
        settings: How it is measured.
        judged: Which output it is about.
        unreached: The layers that do not reach that output.
    """

    prepared: PreparedModel
    forms: LayerForms
    options: Mapping[str, LayerScheme]
    settings: ResponseSettings
    judged: Judged
    unreached: frozenset[str]
    _runner: VariantRunner = field(init=False)
    _single: list[Configuration] = field(init=False)
    _random: list[Configuration] = field(init=False)
    _sums: list[DegradationSums] = field(default_factory=list)
    _checked_rows: int = 0
    _parts: list[_Part] = field(default_factory=list)
    _reasons: dict[str, str] = field(default_factory=dict)
    _plan: OutputPlan | None = None
    _roundings: dict[str, TensorScheme] = field(default_factory=dict)
    _sources: dict[str, frozenset[str]] = field(default_factory=dict)
    _full_forwards_because: str = ""

    def __post_init__(self) -> None:
        self.prepared.model.requires_grad_(False)
        schemes: list[TensorScheme] = []
        for name, scheme in self.options.items():
            if scheme.activation is not None and scheme.activation not in schemes:
                schemes.append(scheme.activation)
                self._roundings[name] = scheme.activation
        forms = self.forms.modules
        self._runner = VariantRunner(self.prepared.model, forms, state=self.prepared.state)
        generator = np.random.default_rng(self.settings.seed)
        self._single = draw_single(list(forms), list(self.options), generator)
        count = self.settings.configurations
        self._random = draw_random(list(forms), list(self.options), count, generator)

    def run(self, data: Data, meter: ProgressMeter) -> None:
        """Stream the evaluation data, one batch at a time."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        batches = count_batches(data)
        for number, batch in enumerate(iterate_batches(data, "evaluation_data"), start=1):
            text = f"batch {number}" + (f" of {batches}" if batches else "")
            output, read = self._runner.run_float(batch)
            if self._plan is None:
                s = self.settings
                self._plan = OutputPlan.choose(
                    output,
                    batch.labels,
                    s.classes,
                    s.top_k,
                    s.projections,
                    is_read=s.metric != NMSE,
                )
            directions = Directions(self._plan, output, generator)
            if number == 1:
                self._announce(batches or 0, directions.rows, meter)
            is_checked = self._checked_rows < self.settings.agreement_samples
            if number > (batches or 0):
                meter.extend(self._plan.count + self._runs * is_checked)
            self._parts.append(self._measure(batch, output, read, directions, meter, text))
            if is_checked:
                self._check(batch, directions.rows, meter, text)

    def _announce(self, batches: int, rows: int, meter: ProgressMeter) -> None:
        """Tell how many steps these batches take, if each has as many rows as the first one."""
        assert self._plan is not None
        checked = min(batches, -(-self.settings.agreement_samples // max(1, rows)))
        meter.extend(batches * self._plan.count + checked * self._runs)

    @property
    def _runs(self) -> int:
        """How many configurations are run on a batch for the agreement."""
        return len(self._single) + len(self._random)

    def finish(self, recipe: Recipe) -> tuple[ResponseReport, ResponseArrays]:
        """Return what was found."""
        assert self._plan is not None
        plan, arrays = self._plan, self._join(self._plan)
        errors = arrays.projection_errors()
        known = errors[errors > 0]
        layers, leftovers = list_stored(
            self.prepared.model, self.forms.quantized, self.forms.quantizable
        )
        reasons = self._reasons | dict.fromkeys(self.unreached, NO_PATH)
        report = ResponseReport(
            recipe=recipe,
            options=tuple(ResponseOption(name, scheme) for name, scheme in self.options.items()),
            layers=tuple(
                ResponseLayer(
                    name=name,
                    method=BY_RUNNING if name in self._reasons else BY_GRADIENT,
                    reason=reasons.get(name, ""),
                    tied_to=tied,
                    stored=layers[name],
                    reaches_output=name not in self.unreached,
                )
                for name, tied in self._ties().items()
            ),
            skipped=tuple(self.forms.skipped.items()),
            leftovers=leftovers,
            kind=LOGITS if plan.has_logits else VALUES,
            output_shape=plan.shape,
            is_complete=plan.is_complete,
            projection_error=float(np.median(known)) if len(known) else 0.0,
            samples=arrays.rows,
            float_accuracy=arrays.accuracy(arrays.base),
            agreement=self._agreement(arrays),
            seed=self.settings.seed,
            notes=(
                *self.judged.notes,
                *self.prepared.notes,
                *remedies_left_out(recipe),
                *self._notes(),
            ),
            judged=self.judged.line,
        )
        return report, arrays

    def _measure(
        self,
        batch: Batch,
        output: Tensor,
        read: Sequence[str],
        directions: Directions,
        meter: ProgressMeter,
        text: str,
    ) -> _Part:
        forms, size = self.forms.quantized, len(self.options)

        def passed() -> None:
            meter.step(f"{text}: follow errors back through the model")

        model, roundings = self.prepared.model, list(self._roundings)
        found = self._runner.run_like_float(
            batch,
            model,
            lambda: linear_response(model, forms, roundings, batch, directions, passed),
        )
        self._sources = self._sources or found.sources
        reasons = found.reasons | dict.fromkeys(read, READ)
        self._reasons.update(reasons)
        shifts = found.shifts | self._run_alone(list(reasons), batch, directions, meter, text)
        flat = output.reshape(directions.rows, -1)
        return _Part(
            base=directions.base.float(),
            shifts=torch.stack([shifts[name][:size] for name in forms]).float(),
            roundings=torch.stack([shifts[name][size:] for name in forms]).float(),
            signal=flat.double().square().sum(dim=1),
            labels=directions.label_columns(self._labels(batch, output)),
            output=flat.float(),
            classes=directions.classes,
        )

    def _labels(self, batch: Batch, output: Tensor) -> Tensor | None:
        assert self._plan is not None
        is_answer = self._plan.has_logits and self._plan.kept > 0
        return fitting_labels(output, batch.labels) if is_answer else None

    def _run_alone(
        self,
        names: Sequence[str],
        batch: Batch,
        directions: Directions,
        meter: ProgressMeter,
        text: str,
    ) -> dict[str, Tensor]:
        """Return the shifts that running the model with one changed layer gives."""
        if not names:
            return {}
        pairs = [(name, option) for name in names for option in self.options]
        shifts: dict[tuple[str, str], Tensor] = {}
        meter.extend(len(pairs))

        def keep(number: int, expected: Tensor, output: Tensor) -> None:
            shifts[pairs[number]] = directions.along(output.double() - expected.double())
            meter.step(f"{text}: run single layers")

        variants = [{name: option} for name, option in pairs]
        _, self._full_forwards_because = self._runner.run_each(batch, variants, keep)
        # What rounding the input does is not kept apart here: all of the shift counts as certain.
        none = [torch.zeros_like(shifts[pairs[0]]) for _ in self._roundings]
        return {
            name: torch.stack([*(shifts[name, option] for option in self.options), *none])
            for name in names
        }

    def _check(self, batch: Batch, rows: int, meter: ProgressMeter, text: str) -> None:
        assert self._plan is not None
        configurations = [*self._single, *self._random]
        if not self._sums:
            self._sums = [DegradationSums(self._plan.has_logits) for _ in configurations]

        def compare(number: int, expected: Tensor, output: Tensor) -> None:
            self._sums[number].update(expected, output)
            meter.step(f"{text}: check predictions by running the model")

        variants = [as_variant(configuration) for configuration in configurations]
        _, self._full_forwards_because = self._runner.run_each(batch, variants, compare)
        self._checked_rows += rows

    def _agreement(self, arrays: ResponseArrays) -> ResponseAgreement:
        checked = arrays.first(self._checked_rows)
        layers = {name: index for index, name in enumerate(self.forms.modules)}
        options = {name: index for index, name in enumerate(self.options)}
        points = []
        for configuration, sums in zip([*self._single, *self._random], self._sums, strict=True):
            pairs = as_pairs(configuration)
            predicted = checked.degradation(
                [(layers[layer], options[option]) for layer, option in pairs]
            )
            points.append(AgreementPoint(pairs, predicted, sums.value()))
        single, random = points[: len(self._single)], points[len(self._single) :]
        return judge(single, random, list(self.options), self._checked_rows)

    def _ties(self) -> dict[str, str]:
        """Return layer name -> the first layer with the same weight."""
        first: dict[int, str] = {}
        model = self.prepared.model
        return {
            name: first.setdefault(id(model.get_submodule(name).weight), name)
            for name in self.forms.modules
        }

    def _notes(self) -> list[str]:
        assert self._plan is not None
        notes = []
        if self._full_forwards_because:
            notes.append(f"Every run was a full forward pass: {self._full_forwards_because}.")
        if not self._plan.is_complete:
            kept = f"the {self._plan.top} largest logits and " if self._plan.top else ""
            notes.append(
                f"Of the {int(np.prod(self._plan.shape))} values of an output row, {kept}"
                f"{self._plan.projections} random projections of the rest are predicted."
            )
        return notes

    def _join(self, plan: OutputPlan) -> ResponseArrays:
        parts = self._parts
        labels = [part.labels for part in parts if part.labels is not None]
        classes = [part.classes for part in parts if part.classes is not None]
        grids = list(self._roundings.values())
        used = [scheme.activation for scheme in self.options.values()]
        names = list(self.forms.modules)
        return ResponseArrays(
            base=torch.cat([part.base for part in parts]).cpu().numpy(),
            shifts=torch.cat([part.shifts for part in parts], dim=2).cpu().numpy(),
            roundings=torch.cat([part.roundings for part in parts], dim=2).cpu().numpy(),
            rounding_of=np.array([-1 if grid is None else grids.index(grid) for grid in used]),
            sources=np.array([[n in self._sources.get(m, ()) for n in names] for m in names]),
            signal=torch.cat([part.signal for part in parts]).cpu().numpy(),
            shape=plan.shape if plan.is_complete else (plan.kept,),
            has_logits=plan.has_logits,
            is_complete=plan.is_complete,
            labels=torch.cat(labels).long().cpu().numpy() if len(labels) == len(parts) else None,
            output=torch.cat([part.output for part in parts]).cpu().numpy() if classes else None,
            classes=torch.cat(classes).cpu().numpy() if classes else None,
        )
