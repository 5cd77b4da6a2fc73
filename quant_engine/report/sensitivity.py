"""What quantizing one layer, or sparing one, does to the output."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quant_engine.report.serialization import SCHEMA_VERSION, Report
from quant_engine.scheme import LayerScheme, Recipe


@dataclass(frozen=True, slots=True)
class OutputEffect:
    """What a changed model does to one of several outputs.

    Attributes:
        name: Name of the output.
        metric: Name of the metric it is judged by.
        value: That metric.
        interval: Its 95 % interval, by resampling whole samples.
        degradation: How much worse it is, in a unit in which 0 is the float model.
        ratio: Degradation divided by that of the fully quantized model; None where that is 0 or
            infinite, so that the output does not enter.
    """

    name: str
    metric: str
    value: float
    interval: tuple[float, float]
    degradation: float
    ratio: float | None


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What quantizing one layer (or sparing one) does to the model's output.

    Attributes:
        name: Name of the layer.
        option: What was tried on it: the name of the option, or, where every layer has the recipe's
            own scheme, a description such as "int8 weights + int8 inputs".
        kl_divergence: Mean KL(float || changed model), in nats; None without logits.
        interval: 95 % bootstrap interval over samples of the report's `metric`.
        sqnr_db: SQNR of the output, in dB.
        nmse: NMSE of the output.
        top1_agreement: Share of samples with the same largest logit, 0 to 1; None without logits.
        accuracy_drop: Float accuracy minus accuracy, as a share; None without labels.
        float_bytes: Bytes of the layer in float.
        quantized_bytes: Bytes of the layer under the option.
        parameters: Weights and biases of the layer.
        value: The report's `metric`.
        gain_interval: With the layer left out, the 95 % interval of how much less the output
            degrades than with all layers quantized, in pairs, in the unit of the metric (of the
            NMSE for "sqnr_db", of the disagreement for "top1_agreement"); None for a layer alone.
        reaches_output: Whether there is a way from the layer to the judged output. If there is and
            the NMSE is 0 nevertheless, it had no effect on these samples.
        outputs: Every output in its own unit, where several are judged. `value` is then the largest
            of their ratios; `kl_divergence`, `sqnr_db`, `nmse` and `top1_agreement` are those of
            the first output.
        decided_by: Name of the output with the largest ratio; empty if a single output is judged.
        samples: Samples it was judged on, where it was stopped early (`precision`); None if on all.
    """

    name: str
    option: str
    kl_divergence: float | None
    interval: tuple[float, float]
    sqnr_db: float
    nmse: float
    top1_agreement: float | None
    accuracy_drop: float | None
    float_bytes: int
    quantized_bytes: int
    parameters: int
    value: float
    gain_interval: tuple[float, float] | None = None
    reaches_output: bool = True
    outputs: tuple[OutputEffect, ...] = ()
    decided_by: str = ""
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class NeighbourComparison:
    """Two neighbours in a ranking, compared on the same samples.

    Attributes:
        above: Name of the layer that ranks higher: the more sensitive one.
        below: Name of the layer right after it.
        difference: How much more the upper one degrades the output, from 0 up, in the unit of
            the metric (of the NMSE for "sqnr_db").
        interval: 95 % interval of the difference, by a paired bootstrap over samples.
        is_tied: Whether the two are statistically tied.
    """

    above: str
    below: str
    difference: float
    interval: tuple[float, float]
    is_tied: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """The layers under one option, the most sensitive first.

    Attributes:
        option: Name of the option; empty where every layer has the recipe's own scheme.
        layers: Names of the layers.
        comparisons: Each layer but the last with the one after it.
    """

    option: str
    layers: tuple[str, ...]
    comparisons: tuple[NeighbourComparison, ...]


@dataclass(frozen=True, slots=True)
class CumulativePoint:
    """The model with its `count` least sensitive layers quantized and the rest in float, run.

    Attributes:
        count: Number of quantized layers.
        layer: The layer added last; empty for the float model.
        kl_divergence: Mean KL(float || this), in nats; None without logits.
        sqnr_db: SQNR of the output, in dB.
        accuracy: Share of labelled samples that are right; None without labels.
        model_bytes: Bytes of the model; with no layer quantized, of the model as it was given.
        top1_agreement: Share of samples with float's largest logit, 0 to 1; None without logits.
        value: The report's `metric`.
        added: Names of all layers added since the point before.
    """

    count: int
    layer: str
    kl_divergence: float | None
    sqnr_db: float
    accuracy: float | None
    model_bytes: int
    top1_agreement: float | None
    value: float
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SensitivityReport(Report):
    """The result of `measure_sensitivity`.

    Attributes:
        model_name: What the caller calls the model.
        recipe: The recipe whose layers were switched one by one.
        direction: "one_at_a_time" (only this layer quantized) or "leave_one_out" (all but this).
            Of each entry of `layers`, the layer is switched from float to the option, or from the
            option to float.
        layers: One entry for each layer and option: layers in the order they run, the options of
            each in the order given.
        reference: The model with every layer of the recipe quantized, under the first option.
        cumulative: The curve of quantizing the k least sensitive layers under the first option, at
            the counts that were measured; empty if not asked for.
        samples: Samples in the evaluation data.
        accuracy_float: Accuracy of the float model; None without labels.
        seed: Seed of the bootstrap.
        is_partial: True if the measurement was stopped early.
        notes: What happened on the way, such as why full forwards were needed.
        schema_version: Version of this layout.
        metric: What `value` and `interval` of the layers are and layers are ranked by:
            a name of `METRICS`, or of the caller's own function; where several outputs are judged,
            "degradation_ratio", the largest share of what the fully quantized model does to one.
        parts: What was quantized: "both", "weights" or "activations" (the inputs of layers).
        references: The model with every layer quantized, once for each option.
        rankings: One per option, with the layers that are statistically tied.
        judged: Which outputs are judged, how they are read, and which labels are not used.
        schemes: What each of `options` does to a layer; empty where each has the recipe's scheme.
        has_whole_answers: Whether a sample has one answer, not one for each token or pixel.
    """

    model_name: str
    recipe: Recipe
    direction: str
    layers: tuple[LayerSensitivity, ...]
    reference: LayerSensitivity | None
    cumulative: tuple[CumulativePoint, ...]
    samples: int
    accuracy_float: float | None
    seed: int
    is_partial: bool
    notes: tuple[str, ...]
    metric: str
    parts: str
    references: tuple[LayerSensitivity, ...]
    rankings: tuple[Ranking, ...]
    judged: str
    schemes: tuple[LayerScheme, ...]
    schema_version: int = SCHEMA_VERSION
    has_whole_answers: bool = True

    @property
    def answering_samples(self) -> int:
        """Samples with one answer each; 0 where they have more, which are not independent."""
        return self.samples if self.has_whole_answers else 0

    def __post_init__(self) -> None:
        if self.schemes and self.rankings and len(self.schemes) != len(self.rankings):
            raise ValueError(f"{len(self.schemes)} schemes, but {len(self.rankings)} rankings.")

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options, in the order given; one empty name for the recipe's schemes."""
        return tuple(ranking.option for ranking in self.rankings)

    def only(self, option: str) -> SensitivityReport:
        """Return the part of the report that is about one option.

        The curve of the k least sensitive layers stays with the first option.

        Raises:
            KeyError: If it holds no such option; the message names those it holds.
        """
        if option not in self.options:
            raise KeyError(f"{option!r} is not an option of this report. Valid: {self.options}")
        index = self.options.index(option)
        reference = self.references[index]
        if not option:
            return self
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer.option == option),
            reference=reference,
            references=(reference,),
            cumulative=self.cumulative if index == 0 else (),
            rankings=(self.rankings[index],),
            schemes=self.schemes[index : index + 1],
        )
