"""Measuring a response: forward once, backward once a direction, and the check by running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_engine.judging.judged import Answer, Judged
from quant_engine.judging.reach import NO_PATH, find_unreached
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
    ResponseOutput,
    ResponseReport,
    StoredTensor,
)
from quant_engine.report.response import (
    BY_GRADIENT,
    BY_RUNNING,
    LOGITS,
    VALUES,
    deciding_output,
    largest_share,
    score_outputs,
)
from quant_engine.response.agreement import as_pairs, draw_random, draw_single, judge
from quant_engine.response.arrays import ResponseArrays
from quant_engine.response.directions import Directions
from quant_engine.response.gradients import RowAxes, linear_response
from quant_engine.response.outputs import OutputMeasurement, ResponseSettings, predicted_metric
from quant_engine.scheme import Candidate, Recipe, TensorScheme
from quant_engine.variants.layers import LayerForms, as_variant
from quant_engine.variants.options import option_without, own_option, remedies_of
from quant_engine.variants.runner import Variant, VariantRunner

REFERENCE = -1
"""Number of the fully quantized model among the configurations that are run."""
READ = "its weight is also read without calling it, which the gradient at its output leaves out"


@dataclass(slots=True, eq=False)
class ResponseMeasurement:
    """A measurement under way.

    Attributes:
        prepared: The float model; gradients of its parameters are switched off.
        forms: Its layers under every option.
        options: Option name -> what it does.
        recipe: The recipe whose layers they are.
        settings: How it is measured.
        judged: Which outputs it is about.
    """

    prepared: PreparedModel
    forms: LayerForms
    options: Mapping[str, Candidate]
    recipe: Recipe
    settings: ResponseSettings
    judged: Judged
    _outputs: list[OutputMeasurement] = field(init=False)
    _axes: list[RowAxes] = field(init=False)
    _runner: VariantRunner = field(init=False)
    _checks: list[Variant] = field(init=False)
    _single: int = field(init=False)
    _checked_rows: int = 0
    _reasons: dict[str, str] = field(default_factory=dict)
    _roundings: dict[str, TensorScheme] = field(default_factory=dict)
    _sources: dict[str, frozenset[str]] = field(default_factory=dict)
    _full_forwards_because: str = ""

    def __post_init__(self) -> None:
        forms, judged = self.forms.modules, self.judged
        self._outputs = [
            OutputMeasurement(
                output,
                self.settings,
                find_unreached(self.prepared, replace(judged, outputs=(output,)), list(forms)),
            )
            for output in judged.outputs
        ]
        self._axes = [RowAxes() for _ in judged.outputs]
        for parameter in self.prepared.model.parameters():
            if parameter.is_leaf:  # copies of compiled parts hold others
                parameter.requires_grad_(False)
        schemes: list[TensorScheme] = []
        for name, option in self.options.items():
            activation = option.scheme.activation
            if activation is not None and activation not in schemes:
                schemes.append(activation)
                self._roundings[name] = activation
        state = self.prepared.state
        self._runner = VariantRunner(self.prepared.model, forms, state=state, judged=judged)
        generator = np.random.default_rng(self.settings.seed)
        options, refused = list(self.options), self.forms.untreated
        pairs = [(n, o) for n in forms for o in options if (n, o) not in refused]
        single = draw_single(pairs, generator)
        drawn = draw_random(list(forms), options, self.settings.configurations, generator)
        random = [
            {
                n: option_without(self.options, o, refused[n, o]) if (n, o) in refused else o
                for n, o in c.items()
            }
            for c in drawn
        ]
        self._single = len(single)
        self._checks = [as_variant(configuration) for configuration in (*single, *random)]

    def run(self, data: Data, meter: ProgressMeter) -> None:
        """Stream the evaluation data, one batch at a time."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        batches = count_batches(data) or 0
        for number, batch in enumerate(iterate_batches(data, "evaluation_data"), start=1):
            text = f"batch {number}" + (f" of {batches}" if batches else "")
            answer, read = self._runner.run_float(batch)
            directions = [
                output.directions(tensor, batch, generator)
                for output, tensor in zip(self._outputs, answer, strict=True)
            ]
            rows = directions[0].rows
            passes = sum(along.count for along in directions)
            if number == 1:  # as many steps as batches with as many rows as this one take
                checked = min(batches, -(-self.settings.agreement_samples // max(1, rows)))
                meter.extend(batches * passes + checked * len(self._checks))
            is_checked = self._checked_rows < self.settings.agreement_samples
            if number > batches:
                meter.extend(passes + len(self._checks) * is_checked)
            self._measure(batch, answer, read, directions, meter, text)
            self._run_whole(batch, meter, text, is_checked=is_checked)
            self._checked_rows += rows * is_checked

    def finish(self) -> tuple[ResponseReport, tuple[ResponseArrays, ...]]:
        """Return what was found: the report, and the arrays of each output."""
        grids = list(self._roundings.values())
        used = [option.scheme.activation for option in self.options.values()]
        names = list(self.forms.modules)
        rounding_of = np.array([-1 if grid is None else grids.index(grid) for grid in used])
        sources = np.array([[n in self._sources.get(m, ()) for n in names] for m in names])
        arrays = tuple(output.arrays(rounding_of, sources) for output in self._outputs)
        stored, leftovers = list_stored(
            self.prepared.model, self.forms.quantized, self.forms.quantizable
        )
        is_one = len(self._outputs) == 1
        outputs = tuple(
            output.report(found, None if is_one else output.measured(REFERENCE))
            for output, found in zip(self._outputs, arrays, strict=True)
        )
        first = outputs[0]
        accuracies = [found.accuracy() for found in arrays]
        report = ResponseReport(
            recipe=self.recipe,
            options=tuple(
                ResponseOption(name, option.scheme, option.remedies)
                for name, option in self.options.items()
            ),
            layers=self._layers(stored),
            skipped=tuple(self.forms.skipped.items()),
            leftovers=leftovers,
            kind=LOGITS if arrays[0].has_logits else VALUES,
            output_shape=first.shape,
            is_complete=first.is_complete,
            projection_error=first.projection_error,
            samples=arrays[0].rows,
            float_accuracy=next((found for found in accuracies if found is not None), None),
            agreement=self._agreement(arrays, outputs),
            seed=self.settings.seed,
            notes=(
                *self.judged.notes,
                *self.prepared.notes,
                *remedies_left_out(self.recipe, remedies_of(self.recipe, self.options)),
                *self._notes(),
            ),
            judged=self.judged.line,
            outputs=outputs,
            untreated=tuple(
                (*pair, kind, why)
                for pair, reasons in self.forms.untreated.items()
                for kind, why in reasons.items()
            ),
        )
        return report, arrays

    def _layers(
        self, stored: Mapping[str, tuple[tuple[StoredTensor, ...], ...]]
    ) -> tuple[ResponseLayer, ...]:
        unreached = frozenset.intersection(*(output.unreached for output in self._outputs))
        first: dict[int, str] = {}  # weight -> the first layer that has it
        model = self.prepared.model
        reasons = self._reasons | dict.fromkeys(unreached, NO_PATH)
        return tuple(
            ResponseLayer(
                name=name,
                method=BY_RUNNING if name in self._reasons else BY_GRADIENT,
                reason=reasons.get(name, ""),
                tied_to=first.setdefault(id(model.get_submodule(name).weight), name),
                stored=stored[name],
                reaches_output=name not in unreached,
            )
            for name in self.forms.modules
        )

    def _measure(
        self,
        batch: Batch,
        answer: Answer,
        read: Sequence[str],
        directions: Sequence[Directions],
        meter: ProgressMeter,
        text: str,
    ) -> None:
        forms, options = self.forms.quantized, len(self.options)

        def passed() -> None:
            meter.step(f"{text}: follow errors back through the model")

        def read_outputs(found: Any) -> list[Tensor]:
            tensors = self.judged.find(found, batch.where)
            pairs = zip(self.judged.outputs, tensors, strict=True)
            return [output.for_prediction(tensor, batch) for output, tensor in pairs]

        model, roundings = self.prepared.model, list(self._roundings)
        found = self._runner.run_like_float(
            batch,
            model,
            lambda: linear_response(
                model, forms, roundings, batch, read_outputs, directions, self._axes, passed
            ),
        )
        self._sources = self._sources or found[0].sources
        known: list[dict[str, Tensor]] = []
        reasons: dict[str, str] = {}
        for output, response, along in zip(self._outputs, found, directions, strict=True):
            none = torch.zeros(
                (options + len(roundings), along.rows, along.count), dtype=torch.float64
            )
            # What cannot move an output need not be run for it.
            quiet = {name: none for name in output.unreached if name not in response.shifts}
            known.append(response.shifts | quiet)
            found_reasons = response.reasons | dict.fromkeys(read, READ)
            reasons |= {n: r for n, r in found_reasons.items() if n not in quiet or n in read}
        self._reasons.update(reasons)
        alone = self._run_alone(list(reasons), batch, directions, meter, text)
        for index, output in enumerate(self._outputs):
            shifts = known[index] | alone[index]
            in_order = [shifts[name] for name in forms]
            output.add(answer[index], batch, directions[index], in_order, options)

    def _run_alone(
        self,
        names: Sequence[str],
        batch: Batch,
        directions: Sequence[Directions],
        meter: ProgressMeter,
        text: str,
    ) -> list[dict[str, Tensor]]:
        """Return the shifts of each output that running the model with one changed layer gives."""
        if not names:
            return [{} for _ in directions]
        pairs = [(name, option) for name in names for option in self.options]
        shifts: list[dict[tuple[str, str], Tensor]] = [{} for _ in directions]
        meter.extend(len(pairs))

        def keep(number: int, expected: Answer, output: Answer) -> None:
            for index, judged in enumerate(self.judged.outputs):
                before, after = (
                    judged.for_prediction(answer[index], batch).double()
                    for answer in (expected, output)
                )
                shifts[index][pairs[number]] = directions[index].along(after - before)
            meter.step(f"{text}: run single layers")

        variants = [{name: option} for name, option in pairs]
        self._full_forwards_because = self._runner.run_each(batch, variants, keep)
        # What rounding the input does is not known by itself here: all of the shift is certain.
        return [
            {
                name: torch.stack(
                    [
                        *(found[name, option] for option in self.options),
                        *(torch.zeros_like(found[pairs[0]]) for _ in self._roundings),
                    ]
                )
                for name in names
            }
            for found in shifts
        ]

    def _run_whole(
        self, batch: Batch, meter: ProgressMeter, text: str, *, is_checked: bool
    ) -> None:
        """Run what predictions are checked by, and what several outputs have shares of.

        That is every layer under the recipe's own scheme, or under the option with most bits.
        """
        variants = dict(enumerate(self._checks if is_checked else ()))
        if len(self._outputs) > 1:
            own = {name: own_option(self.recipe, self.options, name) for name in self.forms.modules}
            variants[REFERENCE] = own
        numbers = list(variants)

        def count(index: int, expected: Answer, output: Answer) -> None:
            for measured, x, x_hat in zip(self._outputs, expected, output, strict=True):
                measured.run(numbers[index], x, x_hat, batch)
            if numbers[index] != REFERENCE:
                meter.step(f"{text}: check predictions by running the model")

        if variants:
            because = self._runner.run_each(batch, list(variants.values()), count)
            self._full_forwards_because = because if is_checked else self._full_forwards_because

    def _agreement(
        self, arrays: Sequence[ResponseArrays], outputs: Sequence[ResponseOutput]
    ) -> ResponseAgreement:
        checked = [found.first(self._checked_rows) for found in arrays]
        layers = {name: index for index, name in enumerate(self.forms.modules)}
        options = {name: index for index, name in enumerate(self.options)}
        points = []
        for number, variant in enumerate(self._checks):
            pairs = as_pairs(variant)
            chosen = [(layers[layer], options[option]) for layer, option in pairs]
            predicted = [found.degradation(chosen) for found in checked]
            measured = [output.measured(number) for output in self._outputs]
            points.append(
                AgreementPoint(
                    pairs,
                    largest_share(predicted, outputs),
                    largest_share(measured, outputs),
                    deciding_output(score_outputs(measured, outputs)),
                )
            )
        single, random = points[: self._single], points[self._single :]
        return judge(single, random, list(self.options), self._checked_rows, outputs)

    def _notes(self) -> list[str]:
        notes = []
        if self._full_forwards_because:
            notes.append(f"Every run was a full forward pass: {self._full_forwards_because}.")
        for output in self._outputs:
            plan, judged = output.plan, output.judged
            assert plan is not None
            which = "" if len(self._outputs) == 1 else f" of {judged.name}"
            if not plan.is_complete:
                kept = f"the {plan.top} largest logits and " if plan.top else ""
                notes.append(
                    f"Of the {int(np.prod(plan.shape))} values of an output row{which}, {kept}"
                    f"{plan.projections} random projections of the rest are predicted."
                )
            if predicted_metric(judged).name != judged.metric:
                notes.append(
                    f"Predictions{which} are about the {predicted_metric(judged).label}, not about "
                    f"the {judged.measure.label}, which has no gradient to follow."
                )
        return notes
