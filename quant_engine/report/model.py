"""The result of an analysis: every layer, the output, size and time."""

from __future__ import annotations

from dataclasses import dataclass

from quant_engine.errors import suggest
from quant_engine.report.coverage import Coverage
from quant_engine.report.layers import LayerReport
from quant_engine.report.remedies import Treatment
from quant_engine.report.serialization import SCHEMA_VERSION, Report
from quant_engine.report.tensors import ErrorMetrics
from quant_engine.report.timing import Environment, TimingReport
from quant_engine.scheme import Recipe

TIMES_FOLLOW = "Times follow: the models are timed last."
"""Note of a report that is complete but for its times, which are being measured."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The class that each model chooses for the first evaluation samples, in their order.

    Attributes:
        float: Choice of the float model for each sample.
        quantized: Choice of the quantized model.
        labels: What is right; empty without labels.
    """

    float: tuple[int, ...]
    quantized: tuple[int, ...]
    labels: tuple[int, ...] = ()

    @property
    def flipped(self) -> tuple[int, ...]:
        """Places of the samples for which the two choose differently."""
        pairs = zip(self.float, self.quantized, strict=True)
        return tuple(index for index, (before, after) in enumerate(pairs) if before != after)


@dataclass(frozen=True, slots=True)
class OutputReport:
    """The quantized model's output against the float model's, on the evaluation data.

    Attributes:
        samples: Number of samples compared.
        error: Error of the output tensor.
        classes: Number of classes, or None where the output is not a table of logits.
        kl_divergence: Mean of KL(float || quantized) over the positions that count, in nats. A
            sample is one position unless it holds tokens, pixels or boxes.
        top1_agreement: Share of these positions whose largest logit is the same class, 0 to 1.
        labelled_samples: Positions that came with a label that counts.
        accuracy_float: Share of labelled positions the float model gets right, 0 to 1.
        accuracy_quantized: Share the quantized model gets right.
        answers: The choices for the first 4,096 samples; None where the output is not a table
            (samples, classes).
        kl_interval: 95 % interval of the KL divergence, by resampling whole samples; None where
            there is none.
        name: What it is called among the outputs.
        kind: How it is read: "logits", "probabilities", "values", "embeddings", "mask", "image".
        metric: Name of the metric it is judged by.
        value: That metric.
        interval: Its 95 % interval, by resampling whole samples.
        perplexity_float: exp of the mean negative log-likelihood of the labelled tokens; None where
            the output is not about tokens, or without labels.
        perplexity_quantized: The same of the quantized model.
        cosine: Mean cosine of embeddings, over the positions that count; None for other kinds.
        psnr_db: Peak signal to noise ratio of images, from the pooled squared error; None else.
        mean_iou: Mean IoU of the two models' masks, over the classes that occur; None else.
        mean_iou_float: That of the float model's mask with the labels; None without labels.
        mean_iou_quantized: That of the quantized model's.
    """

    samples: int
    error: ErrorMetrics
    name: str
    kind: str
    metric: str
    value: float | None
    interval: tuple[float, float] | None
    classes: int | None = None
    kl_divergence: float | None = None
    top1_agreement: float | None = None
    labelled_samples: int = 0
    accuracy_float: float | None = None
    accuracy_quantized: float | None = None
    answers: Answers | None = None
    kl_interval: tuple[float, float] | None = None
    perplexity_float: float | None = None
    perplexity_quantized: float | None = None
    cosine: float | None = None
    psnr_db: float | None = None
    mean_iou: float | None = None
    mean_iou_float: float | None = None
    mean_iou_quantized: float | None = None


@dataclass(frozen=True, slots=True)
class SizeReport:
    """Bytes of the whole model, itemised. Shared tensors are counted once.

    Attributes:
        float_bytes: Parameters and buffers of the caller's float model.
        weight_bytes: Quantized weights at their true width.
        scale_bytes: Scales of weights and inputs.
        zero_point_bytes: Zero points of weights and inputs.
        bias_bytes: Biases of quantized layers, float.
        float_leftover_bytes: Everything else that stays float.
        float_file_bytes: Measured length of the float model as a safetensors file.
        quantized_file_bytes: Measured length of the quantized model as a safetensors file.
        effective_bits: Mean bits for each weight of a quantizable layer, with scales and zero
            points; float layers count 32.
        weight_bits: The same for the codes alone, without scales and zero points.
    """

    float_bytes: int
    weight_bytes: int
    scale_bytes: int
    zero_point_bytes: int
    bias_bytes: int
    float_leftover_bytes: int
    float_file_bytes: int
    quantized_file_bytes: int
    effective_bits: float
    weight_bits: float

    @property
    def quantized_bytes(self) -> int:
        """Bytes after quantization, the sum of the items."""
        grids = self.scale_bytes + self.zero_point_bytes
        return self.weight_bytes + grids + self.bias_bytes + self.float_leftover_bytes


@dataclass(frozen=True, slots=True)
class ModelReport(Report):
    """The result of `analyze`.

    Attributes:
        model_name: What the caller calls the model.
        recipe: How it was quantized.
        layers: One entry for each layer that holds weights, in the order they run.
        output: Effect on the model's output, the first one that is judged; None while nothing was
            evaluated yet.
        size: Bytes before and after; None while nothing was converted yet.
        timing: Measured times, or None where they were not asked for, or are still measured (the
            notes then hold `TIMES_FOLLOW`).
        environment: Where it was computed.
        calibration_samples: Samples the ranges come from.
        evaluation_samples: Samples the errors come from.
        evaluated_on_calibration_data: True if no separate evaluation data was given.
        is_partial: True if the analysis was stopped early.
        notes: What happened on the way, such as folded BatchNorms.
        schema_version: Version of this layout.
        evaluation_batches: Batches the evaluation samples came in.
        evaluation_batch_size: Samples in the largest of them. Dynamic input ranges, and what they
            cost, are those for batches of this size.
        judged: Which outputs are judged, how they are read, and which labels are not used.
        outputs: Effect on every output that is judged; empty while nothing was evaluated yet.
        coverage: How much of the model's weights is on codes, and why the rest is not.
        treatments: What the recipe's remedies did, in the order they were applied.
    """

    model_name: str
    recipe: Recipe
    layers: tuple[LayerReport, ...]
    output: OutputReport | None
    size: SizeReport | None
    timing: TimingReport | None
    environment: Environment
    calibration_samples: int
    evaluation_samples: int
    evaluated_on_calibration_data: bool
    is_partial: bool
    notes: tuple[str, ...]
    evaluation_batches: int
    evaluation_batch_size: int
    judged: str
    outputs: tuple[OutputReport, ...]
    coverage: Coverage
    treatments: tuple[Treatment, ...]
    schema_version: int = SCHEMA_VERSION

    def layer(self, name: str) -> LayerReport:
        """Return the layer called `name`.

        Raises:
            KeyError: If there is none; the message lists the names.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        raise KeyError(f"No layer is called {name!r}. {suggest(name, names)}")

    @property
    def quantized_layers(self) -> tuple[LayerReport, ...]:
        """The layers that were quantized."""
        return tuple(layer for layer in self.layers if layer.is_quantized)

    def check(self) -> None:
        """Raise StorageError where a histogram is empty or has no range, or a grid is none."""
        for layer in self.layers:
            for part, tensor in (("weight", layer.weight), ("input", layer.input)):
                if tensor is not None:
                    tensor.check(f"{layer.name}: the {part}")
