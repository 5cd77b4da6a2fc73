"""What a logit response is about, what it predicts, and how far that can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant_engine.report.serialization import (
    SCHEMA_VERSION,
    decode,
    encode,
    parse_report,
    require_version,
)
from quant_engine.scheme import LayerScheme, Recipe

LOGITS = "logits"
VALUES = "values"
BY_GRADIENT = "gradient"
BY_RUNNING = "run"

GOOD = "good"
ROUGH = "rough"
POOR = "poor"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ConfigurationSize:
    """Bytes of a model under a configuration, itemised. Shared tensors are counted once.

    Attributes:
        weight_bytes: Codes of quantized weights, packed to their true width.
        scale_bytes: Scales of weights and inputs.
        zero_point_bytes: Zero points of weights and inputs.
        bias_bytes: Biases of quantized layers, float.
        float_leftover_bytes: Everything else: float layers, BatchNorms and the like.
        effective_bits: Mean bits for each weight of a quantizable layer, with the weights' scales
            and zero points; float layers count at their full width.
    """

    weight_bytes: int
    scale_bytes: int
    zero_point_bytes: int
    bias_bytes: int
    float_leftover_bytes: int
    effective_bits: float

    @property
    def model_bytes(self) -> int:
        """Bytes of the whole model, the sum of the items."""
        return (
            self.weight_bytes
            + self.scale_bytes
            + self.zero_point_bytes
            + self.bias_bytes
            + self.float_leftover_bytes
        )


@dataclass(frozen=True, slots=True)
class ConfigurationScore:
    """The output of a model under a configuration against the float output.

    Attributes:
        kl_divergence: Mean over rows of KL(float || this), in nats; None without logits.
        nmse: Σ(z-ẑ)² / Σz² of the output; None where only some of the logits are known.
        sqnr_db: The same in dB; None where `nmse` is.
        top1_agreement: Share of rows with the same largest logit; None without logits.
        accuracy: Share of labelled rows that are right; None without labels.
        size: Bytes of the model.
        harm_interval: 95 % confidence interval of `degradation` by bootstrap over samples; None for
            a prediction.
    """

    kl_divergence: float | None
    nmse: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    accuracy: float | None
    size: ConfigurationSize
    harm_interval: tuple[float, float] | None = None

    @property
    def degradation(self) -> float:
        """KL divergence, or NMSE for outputs that are not logits."""
        value = self.nmse if self.kl_divergence is None else self.kl_divergence
        assert value is not None
        return value


@dataclass(frozen=True, slots=True)
class AgreementPoint:
    """One configuration, predicted and measured on the same samples.

    Attributes:
        configuration: Pairs (layer, option); layers left out are float.
        predicted: Predicted KL divergence in nats, or NMSE for outputs that are not logits.
        measured: The same, from running the model.
    """

    configuration: tuple[tuple[str, str], ...]
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class AgreementFigures:
    """How well predictions fit measurements, over some configurations.

    Attributes:
        count: Configurations compared.
        rank_correlation: Spearman's ρ of predicted and measured; nan where it is not defined.
        median_ratio: Median of predicted / measured; nan where nothing was measured above zero.
    """

    count: int
    rank_correlation: float
    median_ratio: float


@dataclass(frozen=True, slots=True)
class ResponseAgreement:
    """The check of a response against runs of the very model it predicts.

    Attributes:
        single: One layer under one option, the rest float.
        random: Random configurations: first some of the options are drawn, then one of them for
            each layer.
        by_option: Pairs of an option and the figures of single layers under it.
        single_points: What `single` was computed from.
        random_points: What `random` was computed from.
        samples: Samples that were run.
        level: "good", "rough", "poor" or "unknown"; see `docs/math.md` for the thresholds.
        verdict: The same in words, with what to do.
    """

    single: AgreementFigures
    random: AgreementFigures
    by_option: tuple[tuple[str, AgreementFigures], ...]
    single_points: tuple[AgreementPoint, ...]
    random_points: tuple[AgreementPoint, ...]
    samples: int
    level: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ResponseOption:
    """An option that was tried on every layer.

    Attributes:
        name: What it is called in configurations.
        scheme: What it does.
    """

    name: str
    scheme: LayerScheme


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it counts in the size of a model.

    Attributes:
        key: Tensors with the same key are one and count once.
        item: "weight", "scale", "zero_point", "bias" or "float".
        stored_bytes: Its bytes, codes packed to their true width.
        weight_bits: Bits it adds to the mean over weights; 0 if it is not part of a weight.
        weights: Number of weights it holds.
    """

    key: int
    item: str
    stored_bytes: int
    weight_bits: int = 0
    weights: int = 0


@dataclass(frozen=True, slots=True)
class ResponseLayer:
    """A layer that can be switched between float and the options.

    Attributes:
        name: Its name in the model.
        method: "gradient", or "run" where its shift was measured by running the model.
        reason: Why it was run; empty for "gradient".
        tied_to: Name of the first layer with the same weight; its own name for most.
        stored: Its tensors under every choice: first float, then each option in order.
        reaches_output: Whether there is a way from the layer to the judged output.
    """

    name: str
    method: str
    reason: str
    tied_to: str
    stored: tuple[tuple[StoredTensor, ...], ...]
    reaches_output: bool = True


@dataclass(frozen=True, slots=True)
class ResponseReport:
    """All of a logit response but its arrays.

    Attributes:
        recipe: The recipe whose layers are in it.
        options: What can be chosen for a layer besides "float", in the order of the arrays.
        layers: The layers, in the order they run and of the arrays.
        skipped: Pairs (layer, why it always stays float).
        leftovers: Tensors of the model outside `layers`.
        kind: "logits", or "values" for a regression or an embedding.
        output_shape: Shape of one row of the output.
        is_complete: Whether every value of the output is predicted; otherwise the largest logits
            and random projections of the rest are.
        projection_error: Median relative standard error that projections add to the predicted KL
            (or NMSE) of a single layer; 0 if `is_complete`.
        samples: Rows of the output.
        float_accuracy: Share of labelled rows that the float model gets right; None without labels.
        agreement: How far predictions can be trusted on this model.
        seed: Seed of projections and random configurations.
        notes: What happened on the way.
        schema_version: Version of this layout.
        judged: Which output is judged, how it is read, and which labels are not used.
    """

    recipe: Recipe
    options: tuple[ResponseOption, ...]
    layers: tuple[ResponseLayer, ...]
    skipped: tuple[tuple[str, str], ...]
    leftovers: tuple[StoredTensor, ...]
    kind: str
    output_shape: tuple[int, ...]
    is_complete: bool
    projection_error: float
    samples: int
    float_accuracy: float | None
    agreement: ResponseAgreement
    seed: int
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    judged: str = ""

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(encode(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ResponseReport:
        """Rebuild a report from `to_json`'s text; raises StorageError where it does not fit."""
        data: Mapping[str, Any] = parse_report(text)
        require_version(data)
        return decode(cls, data)
