"""Logit response: the predicted output of any configuration, from one set of backward passes.

Example:
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> response = LogitResponse.measure(model, torch.randn(16, 4))
    >>> response.predict({"0": "int4 weights + int8 inputs"}).shape
    (16, 3)
    >>> response.score({"0": "int4 weights + int8 inputs"}).size.weight_bytes
    16
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from quant_engine.errors import DataError, SchemeError, StorageError, require_at_least, suggest
from quant_engine.judging.output import OutputChoice
from quant_engine.metrics.catalogue import COSINE, KL_DIVERGENCE
from quant_engine.metrics.energies import to_sqnr_db
from quant_engine.model.batches import Data
from quant_engine.progress import Progress, ProgressMeter, in_part
from quant_engine.quantization.calibration import Calibration, recipe_or_default
from quant_engine.quantization.setup import set_up
from quant_engine.quantization.size import configuration_size
from quant_engine.reading import read_file, storage_errors
from quant_engine.report import (
    GOOD,
    ROUGH,
    ConfigurationScore,
    ConfigurationSize,
    ResponseAgreement,
    ResponseReport,
    TrustRegion,
)
from quant_engine.report.response import has_shares, score_outputs
from quant_engine.response.arrays import LayerOption, ResponseArrays
from quant_engine.response.measurement import ResponseMeasurement
from quant_engine.response.outputs import PREDICTED, ResponseSettings
from quant_engine.response.storage import pack_response, unpack_response
from quant_engine.response.trust import find_region
from quant_engine.scheme import LOCAL_REMEDIES, Candidate, Recipe, local_remedies
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.layers import Configuration, build_forms
from quant_engine.variants.options import (
    FLOAT_OPTION,
    Options,
    default_options,
    name_options,
    option_without,
    own_option,
    remedies_of,
)

PathLike: TypeAlias = str | Path


@dataclass(frozen=True, eq=False)
class LogitResponse:
    """What every layer's quantization does to the output, ready to be added up.

    To first order, quantizing several layers moves the output by the sum of what each of them moves
    it by. That sum knows where errors add and where they cancel. See `docs/math.md`.

    Attributes:
        report: Layers, options, sizes, and the agreement with measured values.
        output_arrays: The shifts of each judged output.
    """

    report: ResponseReport
    output_arrays: tuple[ResponseArrays, ...]

    @classmethod
    @torch.inference_mode(False)  # what is made in inference mode has no gradients
    def measure(
        cls,
        model: nn.Module,
        calibration_data: Data | Calibration,
        recipe: Recipe | None = None,
        *,
        options: Options | None = None,
        evaluation_data: Data | None = None,
        output: OutputChoice = None,
        metric: str | None = None,
        classes: int = 32,
        top_k: int = 16,
        projections: int = 16,
        agreement_configurations: int = 40,
        agreement_samples: int = 256,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> LogitResponse:
        """Measure the response of a model, and how well it predicts that model.

        Args:
            model: The float model; it is not changed.
            calibration_data: A tensor or an iterable of batches, or the result of `calibrate`.
            recipe: Its excluded layers stay float; its schemes give the default options.
            options: What to choose from for every layer: schemes, and Candidates that remedies
                treat, as `treated` makes them. By default the recipe's scheme at 8, 6, 4, 3 and 2
                bits; if the recipe has remedies that look at single layers, each with them as well.
            evaluation_data: What predictions are about. If None, the calibration data; needed if
                that is a Calibration.
            output: What of the model's answer is judged: an `Output` or several. If None, a few
                samples decide. Of several, predictions and searches go by the largest share of what
                the fully quantized model does to one of them.
            metric: What predictions, searches and verifications are about: "kl_divergence", "nmse"
                or "cosine". If None, the KL divergence of logits, probabilities and masks, the
                cosine of embeddings, and the NMSE of all else.
            classes: Outputs of up to this many values per sample are predicted completely, at one
                backward pass per value. Of larger ones some directions are; see `directions`.
            top_k: Largest logits that are then predicted one by one.
            projections: Random projections of the rest.
            agreement_configurations: Random configurations that are run for the agreement.
            agreement_samples: The check runs whole batches until this many samples were run.
            seed: Seed of projections and random configurations.
            progress: Called often; may raise to cancel.

        Returns:
            The response, with its agreement.

        Raises:
            SchemeError: If a setting is not allowed, `recipe` is no Recipe, or it names layers that
                do not exist; or if options name remedies and there is no calibration data.
            DataError: If data or weights are empty, malformed, or hold NaN or Inf.
            ModelForwardError: If the model raises on the data.
            UnsupportedLayerError: If there is no layer to choose for.
        """
        settings = ResponseSettings(
            classes=classes,
            top_k=top_k,
            projections=projections,
            configurations=agreement_configurations,
            agreement_samples=agreement_samples,
            seed=seed,
        )
        _check_settings(settings, metric)
        recipe = recipe_or_default(recipe)
        named = default_options(recipe) if options is None else name_options(options)
        setup = set_up(
            model,
            calibration_data,
            recipe,
            evaluation_data,
            output=output,
            metric=metric,
            remedies=tuple(remedies_of(recipe, named).values()),
        )
        prepared = setup.prepared
        meter = ProgressMeter(in_part(progress, 0.0, 0.03), setup.calibration_batches)
        calibration = setup.calibrate(meter)
        meter = ProgressMeter(in_part(progress, 0.03, 0.06), 0)
        layers = build_forms(
            model,
            prepared,
            recipe,
            named,
            calibration,
            meter,
            seen_only=True,
            data=setup.calibration_data,
        )
        measurement = ResponseMeasurement(prepared, layers, named, recipe, settings, setup.judged)
        measurement.run(setup.evaluation_data, ProgressMeter(in_part(progress, 0.06, 1.0), 0))
        return cls(*measurement.finish())

    @property
    def arrays(self) -> ResponseArrays:
        """The shifts of the first output."""
        return self.output_arrays[0]

    @property
    def agreement(self) -> ResponseAgreement:
        """How far predictions can be trusted on this model."""
        return self.report.agreement

    @cached_property
    def trust_region(self) -> TrustRegion:
        """Up to which predicted degradation the agreement check's predictions hold.

        The largest one up to which they lie within a factor of two of what running gave, but for
        two of any eight in a row; 0 where the check's level is "poor" or "unknown". `factor` says
        how far off nine of ten of them are, `beyond` what predictions are like past the limit.
        The check is of single layers and random configurations: what a search found can be worse
        than predicted inside the region too, so run it (`search_measured`).
        """
        checked = (*self.agreement.single_points, *self.agreement.random_points)
        region = find_region((point.predicted, point.measured) for point in checked)
        return region if self.agreement.level in (GOOD, ROUGH) else replace(region, limit=0.0)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that can be chosen for, in the order they run."""
        return tuple(self._places)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options besides "float"."""
        return tuple(self._option_places)

    def predict(self, configuration: Configuration) -> FloatArray:
        """Return the predicted output of the model under a configuration.

        Args:
            configuration: Layer name -> option name; layers left out stay float.

        Returns:
            float64, shape (samples, ...) of the first judged output, classes last: logits, for
            probabilities their logarithms; embeddings of length 1; or values. Of many logits the
            largest are predicted one by one, and the others move together.

        Raises:
            SchemeError: If a layer or an option does not exist.
            DataError: If only projections of the output are known.
        """
        arrays = self.arrays
        kept = arrays.base.shape[1]
        shift = arrays.shift(self.chosen(configuration))[:, :kept]
        if arrays.is_complete:
            flat = arrays.base + shift
        elif arrays.output is not None and arrays.classes is not None:
            flat = arrays.output + shift[:, -1:]
            largest = np.take_along_axis(arrays.output, arrays.classes, axis=1) + shift[:, :-1]
            np.put_along_axis(flat, arrays.classes, largest, axis=1)
        else:
            raise DataError(
                "Only random projections of this output are known, so it cannot be predicted value "
                "by value; `score` works. Measure with a larger `classes` to know all of it."
            )
        return flat.reshape(-1, *self.report.output_shape)

    def score(self, configuration: Configuration) -> ConfigurationScore:
        """Return the predicted effect of a configuration and its bytes.

        Raises:
            SchemeError: If a layer or an option does not exist.
        """
        arrays, chosen = self.arrays, self.chosen(configuration)
        found = [output.degradation(chosen) for output in self.output_arrays]
        degradation, shift = found[0], arrays.shift(chosen)
        nmse = sqnr = agreement = accuracy = None
        # What is predicted of others, such as logarithms of probabilities, is not their values.
        if self._first_is_itself and (arrays.is_complete or not arrays.has_logits):
            signal = float(arrays.signal.sum())
            noise = float(np.square(shift).sum()) if arrays.has_logits else degradation * signal
            sqnr = to_sqnr_db(signal, noise)
            nmse = noise / signal if signal else degradation
        if arrays.has_logits and arrays.base.shape[1]:
            agreement = arrays.agreement(shift)
        for output in self.output_arrays:
            if accuracy is None and output.has_logits and output.labels is not None:
                accuracy = output.accuracy(output.shift(chosen))
        return ConfigurationScore(
            kl_divergence=degradation if arrays.has_logits else None,
            nmse=nmse,
            sqnr_db=sqnr,
            top1_agreement=agreement,
            accuracy=accuracy,
            size=self.size(configuration),
            outputs=score_outputs(found, self.report.outputs),
        )

    @property
    def _first_is_itself(self) -> bool:
        """Whether what is predicted of the first output are its own values."""
        first = self.report.outputs[0]
        is_distribution = first.is_probability or first.is_binary
        return first.metric != COSINE and not (first.metric == KL_DIVERGENCE and is_distribution)

    def degradations(self, chosen: Sequence[Sequence[LayerOption]]) -> FloatArray:
        """Return the predicted degradation under several choices of (layer, option) indices.

        Of several outputs it is the largest of their ratios; see `ConfigurationScore.degradation`.

        Returns:
            Shape (len(chosen),).
        """
        return self.joined(self.output_degradations(chosen))

    def output_degradations(self, chosen: Sequence[Sequence[LayerOption]]) -> FloatArray:
        """Return the same of each output in its own unit, shape (outputs, len(chosen))."""
        by_output = []
        for arrays in self.output_arrays:
            effects = [arrays.effect(pairs) for pairs in chosen]
            shifts = np.stack([shift for shift, _ in effects])
            noise = np.stack([noise for _, noise in effects])
            by_output.append(arrays.degradations(shifts, noise))
        return np.stack(by_output)

    def joined(self, degradations: FloatArray) -> FloatArray:
        """Return one degradation for those of all outputs, shape (outputs, ...) -> (...)."""
        if len(degradations) == 1:
            only: FloatArray = degradations[0]
            return only
        shares = [
            found / output.reference
            for found, output in zip(degradations, self.report.outputs, strict=True)
            if has_shares(output.reference)
        ]
        largest: FloatArray = np.max(shares, axis=0) if shares else 0.0 * degradations[0]
        return largest

    def size(self, configuration: Configuration) -> ConfigurationSize:
        """Return the bytes of the model under a configuration; exact, not predicted.

        Raises:
            SchemeError: If a layer or an option does not exist.
        """
        chosen = dict(self.chosen(configuration))
        return configuration_size(
            chain(
                self.report.leftovers,
                *(
                    layer.stored[chosen[index] + 1 if index in chosen else 0]
                    for index, layer in enumerate(self.report.layers)
                ),
            )
        )

    def chosen(self, configuration: Configuration) -> list[LayerOption]:
        """Return the places of (layer, option) in the arrays; float layers are left out.

        Raises:
            SchemeError: If a layer or an option does not exist; the message names the likely one.
        """
        pairs = []
        for name, option in configuration.items():
            if name not in self._places:
                reason = dict(self.report.skipped).get(name)
                known = f"It stays float: {reason}" if reason else suggest(name, self._places)
                raise SchemeError(f"{name!r} is not a layer of this response. {known}")
            if option == FLOAT_OPTION:
                continue
            if option not in self._option_places:
                valid = [FLOAT_OPTION, *self._option_places]
                raise SchemeError(
                    f"{option!r}, for layer {name!r}, is not an option of this response. "
                    f"{suggest(option, valid)}"
                )
            pairs.append((self._places[name], self._option_places[option]))
        return pairs

    def uniform(self, option: str) -> dict[str, str]:
        """Return the configuration in which every layer has the same option.

        Layers that a remedy cannot treat have the option without it.

        Raises:
            SchemeError: If there is no such option.
        """
        self.chosen(dict.fromkeys(self.layers, option))
        if option == FLOAT_OPTION:
            return dict.fromkeys(self.layers, option)
        return {layer: self.effective_option(layer, option) for layer in self.layers}

    def effective_option(self, layer: str, option: str) -> str:
        """Return the option whose name says what an option does to a layer.

        That is another one where a remedy cannot treat the layer: the one without that remedy. The
        report's `untreated` says why.
        """
        refused = self._untreated.get((layer, option))
        return option_without(self.candidates, option, refused) if refused else option

    def own_option(self, layer: str) -> str:
        """Return the option that the recipe itself gives a layer, or the one with most bits."""
        return self.effective_option(layer, own_option(self.report.recipe, self.candidates, layer))

    def recipe(self, configuration: Configuration) -> Recipe:
        """Return a recipe that quantizes a model as a configuration says.

        Remedies of its own that no prediction is about stay, unless a layer has one of their kind.

        Raises:
            SchemeError: If a layer or an option does not exist.
        """
        chosen = dict(self.chosen(configuration))
        recipe = self.report.recipe
        stays_float = [n for index, n in enumerate(self.layers) if index not in chosen]
        options = {
            name: self.report.options[chosen[index]]
            for index, name in enumerate(self.layers)
            if index in chosen
        }
        schemes = {name: option.scheme for name, option in options.items()}
        result = replace(recipe, name="", overrides=schemes).with_excluded(*stays_float)
        own = local_remedies(recipe)
        for kind in self.report.remedies:
            treated = tuple(
                name
                for name, option in options.items()
                if kind in option.remedies
                and kind not in self._untreated.get((name, option.name), ())
            )
            remedy = own.get(kind, LOCAL_REMEDIES[kind])
            if treated:
                result = result.with_remedy(replace(remedy, layers=treated))
            elif kind in own:
                result = result.without_remedy(type(remedy))
        return result

    def to_bytes(self) -> bytes:
        """Return the response as the bytes of an .npz file."""
        return pack_response(self.report, self.output_arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> LogitResponse:
        """Rebuild a response from `to_bytes`; raises StorageError where it does not fit."""
        return cls(*unpack_response(data))

    def save(self, path: PathLike) -> None:
        """Write the response to a file; an existing one is replaced.

        Raises:
            StorageError: If the file cannot be written.
        """
        try:
            Path(path).write_bytes(self.to_bytes())
        except OSError as error:
            raise StorageError(f"Cannot write {str(path)!r}: {error.strerror}.") from error

    @classmethod
    def load(cls, path: PathLike) -> LogitResponse:
        """Return the response that a file holds.

        Raises:
            StorageError: If the file cannot be read or holds none.
        """
        data = read_file(path)
        with storage_errors(str(path)):
            return cls.from_bytes(data)

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        """Name of an option -> what it does to a layer."""
        return {option.name: option.candidate for option in self.report.options}

    @cached_property
    def _untreated(self) -> dict[tuple[str, str], frozenset[str]]:
        found: dict[tuple[str, str], frozenset[str]] = {}
        for layer, option, kind, _ in self.report.untreated:
            found[layer, option] = found.get((layer, option), frozenset()) | {kind}
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {layer.name: index for index, layer in enumerate(self.report.layers)}

    @cached_property
    def _option_places(self) -> dict[str, int]:
        return {option.name: index for index, option in enumerate(self.report.options)}


def _check_settings(settings: ResponseSettings, metric: str | None) -> None:
    require_at_least(1, "classes", settings.classes)
    require_at_least(1, "top_k", settings.top_k)
    require_at_least(2, "projections", settings.projections)
    require_at_least(1, "agreement_configurations", settings.configurations)
    require_at_least(1, "agreement_samples", settings.agreement_samples)
    require_at_least(0, "seed", settings.seed)
    if metric not in PREDICTED:
        raise SchemeError(
            f"metric is {metric!r}. Predictions follow gradients of the KL divergence, the "
            "NMSE or the cosine: give 'kl_divergence', 'nmse' or 'cosine', or None."
        )
    if settings.top_k >= settings.classes:
        raise SchemeError(
            f"top_k is {settings.top_k} and classes {settings.classes}. top_k must be smaller: "
            "outputs of up to `classes` values are predicted completely."
        )
