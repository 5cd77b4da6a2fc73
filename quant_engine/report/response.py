"""What a logit response is about, what it predicts, and how far that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from quant_engine.report.serialization import SCHEMA_VERSION, Report
from quant_engine.scheme import Candidate, LayerScheme, Recipe

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
        weight_bits: The same for the codes alone, without scales and zero points: what "6 bits"
            means.
    """

    weight_bytes: int
    scale_bytes: int
    zero_point_bytes: int
    bias_bytes: int
    float_leftover_bytes: int
    effective_bits: float
    weight_bits: float

    @property
    def model_bytes(self) -> int:
        """Bytes of the whole model, the sum of the items."""
        grids = self.scale_bytes + self.zero_point_bytes
        return self.weight_bytes + grids + self.bias_bytes + self.float_leftover_bytes


@dataclass(frozen=True, slots=True)
class OutputScore:
    """One output of a model under a configuration against the float output.

    Attributes:
        name: Name of the output.
        metric: What `degradation` is about: "kl_divergence", "nmse" or "cosine".
        degradation: KL divergence in nats, NMSE, or 1 - cosine.
        ratio: Degradation divided by that of the fully quantized model; None for a single output,
            and where it has none, so that the output does not enter; see `has_shares`.
        interval: 95 % interval of the degradation, by resampling whole samples; None for a
            prediction.
        judged_by: Name of the metric the output is judged by, such as "mean_iou".
        value: That metric; None for a prediction.
    """

    name: str
    metric: str
    degradation: float
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    judged_by: str = ""
    value: float | None = None


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
        interval: 95 % confidence interval of `degradation` by bootstrap over samples; None for
            a prediction.
        outputs: Every judged output in its own unit; the figures above are those of the first.
    """

    kl_divergence: float | None
    nmse: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    accuracy: float | None
    size: ConfigurationSize
    outputs: tuple[OutputScore, ...]
    interval: tuple[float, float] | None = None

    @property
    def degradation(self) -> float:
        """KL divergence, NMSE or 1 - cosine; of several outputs the largest of their ratios."""
        if len(self.outputs) > 1:
            return max((o.ratio for o in self.outputs if o.ratio is not None), default=0.0)
        return self.outputs[0].degradation

    @property
    def decided_by(self) -> str:
        """Name of the output with the largest ratio; empty for a single output."""
        return deciding_output(self.outputs)


def deciding_output(scores: Sequence[OutputScore]) -> str:
    """Return the name of the output with the largest ratio; empty where none has one."""
    ratios = {score.name: score.ratio for score in scores if score.ratio is not None}
    return max(ratios, key=lambda name: ratios[name]) if ratios else ""


@dataclass(frozen=True, slots=True)
class AgreementPoint:
    """One configuration, predicted and measured on the same samples.

    Attributes:
        configuration: Pairs (layer, option); layers left out are float.
        predicted: Predicted degradation: KL divergence in nats, NMSE or 1 - cosine; of several
            outputs the largest of their ratios.
        measured: The same, from running the model.
        decided_by: Of several outputs, the one with the largest measured ratio; empty for one.
    """

    configuration: tuple[tuple[str, str], ...]
    predicted: float
    measured: float
    decided_by: str = ""


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
        verdict: The same in words, with the region in which predictions hold, and what to do.
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
class TrustRegion:
    """Up to which predicted degradation predictions were found to hold on a model.

    Attributes:
        limit: Largest predicted degradation up to which they hold, in the unit of
            `ConfigurationScore.degradation`; 0 where they hold nowhere.
        factor: Nine of ten predictions up to there are at most this factor off, either way.
        checked: Pairs of a prediction and a measurement up to there.
        beyond: Median of predicted / measured beyond the limit, below 1 where predictions are
            optimistic; None where nothing was checked.
        beyond_checked: Pairs beyond the limit.
    """

    limit: float
    factor: float
    checked: int
    beyond: float | None
    beyond_checked: int

    def holds(self, predicted: float) -> bool:
        """Whether a predicted degradation lies where predictions hold; 0 always does."""
        return predicted <= self.limit


@dataclass(frozen=True, slots=True)
class ResponseOption:
    """An option that was tried on every layer.

    Attributes:
        name: What it is called in configurations.
        scheme: Grids of weight and input.
        remedies: Kinds of remedies that treat the layer; see `Candidate`.
    """

    name: str
    scheme: LayerScheme
    remedies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "remedies", self.candidate.remedies)

    @property
    def candidate(self) -> Candidate:
        """What the option does to a layer."""
        return Candidate(self.scheme, self.remedies)


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
class ResponseOutput:
    """One output that predictions are about, and how it is found in an answer and read.

    Attributes:
        name: What it is called.
        key: Its key or attribute in the model's answer; empty if it is found otherwise.
        index: Its index among the answer's float tensors; None if it is found otherwise.
        kind: See `Output`.
        metric: What predictions are about: "kl_divergence", "nmse" or "cosine".
        judged_by: Name of the metric it is judged by.
        class_axis: See `Output`.
        ignore_labels: See `Output`.
        is_binary: Whether every value is one probability, or logit, of yes.
        is_probability: Whether its values are probabilities.
        shape: Shape of one row of what is predicted, classes last.
        is_complete: See `ResponseReport`.
        projection_error: See `ResponseReport`.
        reference: Measured degradation of the fully quantized model, of which ratios are shares;
            None for a single output.
    """

    name: str
    key: str
    index: int | None
    kind: str
    metric: str
    judged_by: str
    class_axis: int
    ignore_labels: tuple[int, ...]
    is_binary: bool
    is_probability: bool
    shape: tuple[int, ...]
    is_complete: bool
    projection_error: float
    reference: float | None

    def share(self, degradation: float) -> float | None:
        """Return a degradation divided by the reference; None where that has no shares."""
        return degradation / self.reference if has_shares(self.reference) else None


def has_shares(reference: float | None) -> TypeGuard[float]:
    """Whether degradations can be told as shares of a reference: it is above 0, and finite.

    Of infinity every finite degradation would be the share 0.
    """
    return reference is not None and 0.0 < reference < math.inf


def shares(
    degradations: Sequence[float], outputs: Sequence[ResponseOutput]
) -> tuple[float | None, ...]:
    """Return each output's degradation divided by its reference; None where that has no shares."""
    pairs = zip(degradations, outputs, strict=True)
    return tuple(output.share(degradation) for degradation, output in pairs)


def largest_share(degradations: Sequence[float], outputs: Sequence[ResponseOutput]) -> float:
    """Return the largest share of a reference; of a single output its degradation itself."""
    if len(degradations) == 1:
        return degradations[0]
    return max((share for share in shares(degradations, outputs) if share is not None), default=0.0)


def score_outputs(
    degradations: Sequence[float], outputs: Sequence[ResponseOutput]
) -> tuple[OutputScore, ...]:
    """Return what is predicted of each output."""
    ratios = [None] if len(outputs) == 1 else shares(degradations, outputs)
    return tuple(
        OutputScore(output.name, output.metric, degradation, ratio, judged_by=output.judged_by)
        for output, degradation, ratio in zip(outputs, degradations, ratios, strict=True)
    )


@dataclass(frozen=True, slots=True)
class ResponseReport(Report):
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
        judged: Which outputs are judged, how they are read, and which labels are not used.
        outputs: Every output that predictions are about; `kind`, `output_shape`, `is_complete` and
            `projection_error` are those of the first.
        untreated: Quadruples (layer, option, kind of a remedy that the option names, why the layer
            is not treated by it).
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
    notes: tuple[str, ...]
    judged: str
    outputs: tuple[ResponseOutput, ...]
    schema_version: int = SCHEMA_VERSION
    untreated: tuple[tuple[str, str, str, str], ...] = ()

    @property
    def answering_samples(self) -> int:
        """Samples with one answer each; 0 where there is one for each token or pixel of them."""
        return self.samples if len(self.output_shape) <= 1 else 0

    @property
    def remedies(self) -> frozenset[str]:
        """Kinds of the remedies that options name."""
        return frozenset(kind for option in self.options for kind in option.remedies)
