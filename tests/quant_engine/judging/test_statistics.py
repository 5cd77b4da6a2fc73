"""Every kind of output on small nets trained here: each metric beside numpy, and its interval."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import (
    LayerScheme,
    LogitResponse,
    Output,
    Recipe,
    TensorScheme,
    analyze,
    measure_sensitivity,
    quantize_model,
    search_configuration,
    search_measured,
    verify_configurations,
)
from quant_engine.analysis.output_statistics import OutputStats, measure
from quant_engine.errors import SchemeError
from quant_engine.judging.judged import Judged, JudgedOutput
from quant_engine.metrics.bootstrap import Resampling
from quant_engine.metrics.catalogue import METRICS
from quant_engine.metrics.counts import SampleCounts
from quant_engine.model.batches import Batch

FOUR = Recipe(TensorScheme(bits=4), TensorScheme(symmetric=False))


class Tokens(nn.Module):
    """A language model that sees one token and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 16), nn.Linear(32, 12)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        h = self.table(input_ids)
        before = F.pad(h, (0, 0, 1, 0))[:, :-1]
        return {"logits": self.head(torch.cat([h, before], dim=2))}


class Detector(nn.Module):
    """Scores between 0 and 1 that sum to 1, and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.score, self.box = nn.Linear(4, 24), nn.Linear(24, 3), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.trunk(x))
        return {"boxes": self.box(h), "scores": self.score(h).softmax(1)}


class DeepDetector(nn.Module):
    """The same with two layers that both heads share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 24), nn.Linear(24, 24)
        self.score, self.box = nn.Linear(24, 3), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return {"boxes": self.box(h), "scores": self.score(h).softmax(1)}


class Embedder(nn.Module):
    """Vectors of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=-1)


def train(model: nn.Module, loss: Any, steps: int = 150) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def seed() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def language_model() -> tuple[nn.Module, dict[str, Tensor]]:
    """The next token is the sum of the last two, modulo 12; sequences are padded."""
    ids = torch.randint(0, 12, (24, 9))
    for place in range(2, 9):
        ids[:, place] = (ids[:, place - 1] + ids[:, place - 2]) % 12
    mask = (torch.arange(9) < torch.randint(4, 10, (24, 1))).long()
    ids = ids * mask

    def loss(model: nn.Module) -> Tensor:
        logits = model(ids)["logits"][:, 1:-1]
        wanted = torch.where(mask[:, 2:] == 1, ids[:, 2:], -100)
        return F.cross_entropy(logits.transpose(1, 2), wanted)

    batch = {"input_ids": ids, "attention_mask": mask}
    return train(Tokens(), loss, 60), {**batch, "labels": torch.where(mask == 1, ids, -100)}


def outputs_of(model: nn.Module, batch: dict[str, Tensor], key: str) -> tuple[Any, Any]:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        pair = [m(**inputs)[key] for m in (model, quantize_model(model, [batch], FOUR))]
    return tuple(value.double().numpy() for value in pair)  # type: ignore[return-value]


def log_softmax(x: Any) -> Any:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def test_a_language_model_with_padding(
    language_model: tuple[nn.Module, dict[str, Tensor]],
) -> None:
    model, batch = language_model
    report = analyze(model, [batch], FOUR, measure_time=False)
    found = report.output
    assert found is not None
    logits, changed = outputs_of(model, batch, "logits")
    labels = batch["labels"].numpy()
    wanted = np.full_like(labels, -100)
    wanted[:, :-1] = labels[:, 1:]
    counts = wanted != -100
    # Where the mask ends, the next label is missing too, so labels decide alone.
    assert not (counts & (batch["attention_mask"].numpy() == 0)).any()
    log_p, log_q = log_softmax(logits), log_softmax(changed)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    agree = logits.argmax(-1) == changed.argmax(-1)

    def perplexity(log: Any) -> float:
        chosen = np.take_along_axis(log, np.maximum(wanted, 0)[..., None], -1)[..., 0]
        return float(np.exp(-chosen[counts].mean()))

    assert found.kl_divergence == pytest.approx(kl[counts].mean(), rel=1e-4)
    assert found.top1_agreement == pytest.approx(agree[counts].mean())
    assert found.accuracy_float == pytest.approx((logits.argmax(-1) == wanted)[counts].mean())
    assert found.accuracy_quantized == pytest.approx((changed.argmax(-1) == wanted)[counts].mean())
    assert found.labelled_samples == counts.sum()
    assert found.perplexity_float == pytest.approx(perplexity(log_p), rel=1e-4)
    assert found.perplexity_quantized == pytest.approx(perplexity(log_q), rel=1e-4)
    assert "only positions that `attention_mask` keeps count" in report.judged
    assert "a position is right if it says the next one" in report.judged

    ranked = measure_sensitivity(model, [batch], FOUR, metric="perplexity")
    assert ranked.reference is not None
    assert ranked.reference.value == pytest.approx(found.perplexity_quantized, rel=1e-6)
    assert not ranked.has_whole_answers
    response = LogitResponse.measure(model, [batch], FOUR, classes=200, agreement_configurations=8)
    assert (ranked.answering_samples, response.report.answering_samples) == (0, 0)
    assert response.score({}).kl_divergence == 0.0
    for option in response.options[:2]:  # 8 and 6 bits
        configuration = response.uniform(option)
        (run,) = verify_configurations(model, [batch], response, [configuration])
        assert response.score(configuration).degradation == pytest.approx(run.degradation, rel=0.5)


def test_padding_without_labels_does_not_count(
    language_model: tuple[nn.Module, dict[str, Tensor]],
) -> None:
    model, batch = language_model
    batch = {name: value for name, value in batch.items() if name != "labels"}
    found = analyze(model, [batch], FOUR, measure_time=False).output
    assert found is not None
    logits, changed = outputs_of(model, batch, "logits")
    log_p, log_q = log_softmax(logits), log_softmax(changed)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)[batch["attention_mask"].numpy() == 1]
    assert found.kl_divergence == pytest.approx(kl.mean(), rel=1e-4)
    assert found.perplexity_float is None


def test_a_segmentation_net() -> None:
    x = torch.randn(12, 1, 8, 8)
    y = (F.avg_pool2d(x, 3, 1, 1)[:, 0] > 0.1).long() + (x[:, 0] > 1.0).long()
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    model = train(net, lambda m: F.cross_entropy(m(x), y), 40)
    output = Output(kind="mask", class_axis=1, ignore_labels=(2,))
    found = analyze(model, [(x, y)], FOUR, output=output, measure_time=False).output
    assert found is not None
    with torch.no_grad():
        before = model(x).argmax(1).numpy()
        after = quantize_model(model, [x], FOUR)(x).argmax(1).numpy()
    labels = y.numpy()
    counts = labels != 2

    def miou(one: Any, other: Any) -> float:
        ious = []
        for number in range(3):
            a, b = (one == number) & counts, (other == number) & counts
            if (a | b).any():
                ious.append((a & b).sum() / (a | b).sum())
        return float(np.mean(ious))

    assert (found.kind, found.metric) == ("mask", "mean_iou")
    assert found.value == found.mean_iou == pytest.approx(miou(before, after))
    assert found.mean_iou_float == pytest.approx(miou(before, labels))
    assert found.mean_iou_quantized == pytest.approx(miou(after, labels))
    assert found.accuracy_float == pytest.approx((before == labels)[counts].mean())
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]
    response = LogitResponse.measure(model, [(x, y)], output=output, agreement_configurations=8)
    assert any("about the KL divergence, not about" in note for note in response.report.notes)


def test_an_embedding_model() -> None:
    x = torch.randn(40, 6)
    target = F.normalize(x @ torch.randn(6, 16), dim=-1)
    model = train(Embedder(), lambda m: (m(x) - target).square().sum(1).mean(), 60)
    report = analyze(model, [x], FOUR, measure_time=False)
    with torch.no_grad():
        a, b = (m(x).double().numpy() for m in (model, quantize_model(model, [x], FOUR)))
    cosine = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    assert report.judged == "judged: the output as embeddings by cosine"
    assert report.output is not None
    assert report.output.value == report.output.cosine == pytest.approx(cosine, rel=1e-6)
    assert report.output.kl_divergence is None
    response = LogitResponse.measure(model, [x], FOUR, agreement_configurations=8)
    whole = response.uniform(response.options[2])
    (run,) = verify_configurations(model, [x], response, [whole])
    assert run.degradation == pytest.approx(1.0 - cosine, rel=1e-4)
    assert response.score(whole).degradation == pytest.approx(run.degradation, rel=0.6)


def test_an_image() -> None:
    x = torch.rand(6, 3, 8, 8)
    model = train(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), lambda m: (m(x) - x).square().mean(), 30
    )
    report = analyze(model, [x], FOUR, measure_time=False)
    with torch.no_grad():
        a, b = (m(x).double().numpy() for m in (model, quantize_model(model, [x], FOUR)))
    assert report.judged == "judged: the output as an image by PSNR; PSNR is against a peak of 1"
    assert report.output is not None
    assert report.output.psnr_db == pytest.approx(-10 * np.log10(np.square(a - b).mean()), rel=1e-4)


def test_a_layer_of_the_second_head_is_ranked_by_what_it_does_to_that_head() -> None:
    x = torch.randn(80, 4)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    boxes = x @ torch.randn(4, 4)

    def loss(model: nn.Module) -> Tensor:
        found = model(x)
        return F.nll_loss(found["scores"].log(), y) + (found["boxes"] - boxes).square().mean()

    model = train(Detector(), loss)
    report = measure_sensitivity(model, [x])
    line = "judged: 2 outputs, `boxes` as values by NMSE, `scores` as probabilities by KL"
    assert report.judged == report.notes[0] == line
    by_name = {layer.name: layer for layer in report.layers}
    with torch.no_grad():
        a = model(x)["scores"].double().numpy()
        whole = quantize_model(model, [x])(x)["scores"].double().numpy()
    kl = (a * (np.log(a) - np.log(whole))).sum(1).mean()
    assert report.reference is not None
    assert report.reference.outputs[1].value == pytest.approx(kl, rel=1e-3)
    for layer, own, other in (("score", 1, 0), ("box", 0, 1)):
        effects = by_name[layer].outputs
        assert effects[other].degradation == 0.0
        assert by_name[layer].decided_by == effects[own].name
        assert by_name[layer].value == effects[own].ratio
        assert (effects[own].ratio or 0.0) > 0.05


def trained_detector(number: int) -> tuple[nn.Module, Tensor]:
    """Return a detector trained from one of several random starts, and its data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        model, x, mixing = DeepDetector(), torch.randn(80, 4), torch.randn(4, 4)
    y, boxes = (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), x @ mixing

    def loss(model: nn.Module) -> Tensor:
        found = model(x)
        return F.nll_loss(found["scores"].log(), y) + (found["boxes"] - boxes).square().mean()

    return train(model, loss), x


@pytest.mark.parametrize("number", [1, 6])
def test_a_search_harms_no_head_against_the_same_bits_for_all_layers(number: int) -> None:
    model, x = trained_detector(number)
    response = LogitResponse.measure(model, [x], agreement_configurations=4)
    gained = 0
    for bits in (4.0, 5.5, 6.0):
        alike = [response.uniform(option) for option in response.options]
        fitting = [c for c in alike if response.size(c).weight_bits <= bits]
        plain = max(fitting, key=lambda c: response.size(c).weight_bits)
        predicted = search_configuration(response, weight_bits=bits).predicted
        # To rounding: the uniform bits themselves are among what is searched.
        for chosen, same in zip(predicted.outputs, response.score(plain).outputs, strict=True):
            assert chosen.degradation <= same.degradation * (1 + 1e-6)
        best, *_ = search_measured(model, [x], response, weight_bits=bits)
        (reference,) = verify_configurations(model, [x], response, [plain])
        assert best.measured is not None
        assert best.predicted.size.weight_bits <= bits
        # Both were run on the same samples, so there is nothing to allow for but rounding.
        pairs = list(zip(best.measured.outputs, reference.outputs, strict=True))
        assert all(a.degradation <= b.degradation * (1 + 1e-6) for a, b in pairs)
        gained += all(a.degradation < 0.9 * b.degradation for a, b in pairs)
    assert gained  # it does not just hand the uniform bits back


def test_a_budget_on_codes_allows_uniform_bits_and_compares_one_granularity() -> None:
    model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(40, 4)
    response = LogitResponse.measure(model, [x], agreement_configurations=4)
    uniform = response.size(response.uniform("int6 weights + int8 inputs"))
    # 112 weights of 6 bits; 19 channels with a scale of 32 bits each.
    assert uniform.weight_bits == 6.0
    assert uniform.effective_bits == pytest.approx(6.0 + 19 * 32 / 112)
    best = search_configuration(response, weight_bits=6.0)
    assert best.predicted.size.weight_bits <= 6.0
    assert best.predicted.degradation <= response.score(
        response.uniform("int6 weights + int8 inputs")
    ).degradation * (1 + 1e-9)
    report = analyze(model, [x], Recipe.default(), measure_time=False).size
    assert report is not None
    assert report.weight_bits == 8.0

    eight = TensorScheme()
    mixed = {
        "one": LayerScheme(eight),
        "each": LayerScheme(replace(eight, granularity="per_channel")),
    }
    response = LogitResponse.measure(model, [x], options=mixed, agreement_configurations=4)
    with pytest.raises(SchemeError, match="per channel, per tensor: finer ones would look free"):
        search_configuration(response, weight_bits=8.0)
    assert search_configuration(response, weight_bits=8.0, model_bytes=10_000)


def test_the_best_few_are_run_and_the_best_measured_is_handed_back() -> None:
    x = torch.randn(60, 4)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    model = train(net, lambda m: F.cross_entropy(m(x), y), 60)
    response = LogitResponse.measure(model, [x], agreement_configurations=4)
    best = search_configuration(response, weight_bits=3.5)
    told: list[tuple[int, int, str]] = []
    found = search_measured(
        model,
        [x],
        response,
        weight_bits=3.5,
        candidates=5,
        progress=lambda *step: told.append(step),
    )
    point, *others = found
    (alone,) = verify_configurations(model, [x], response, [best.as_dict()])

    assert 1 < point.candidates == len(found) <= 5
    assert {other.candidates for other in others} == {0}
    assert best.configuration in [other.configuration for other in found]
    degradations = [run.measured.degradation for run in found if run.measured is not None]
    assert degradations == sorted(degradations)
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert point.measured is not None
    assert point.measured.degradation <= alone.degradation
    assert point.measured.size.weight_bits <= 3.5
    (again,) = verify_configurations(model, [x], response, [point.as_dict()])
    assert again == point.measured
    (one,) = search_measured(model, [x], response, weight_bits=3.5, candidates=1)
    assert (one.as_dict(), one.candidates) == (best.as_dict(), 1)
    with pytest.raises(SchemeError, match="candidates is 0"):
        search_measured(model, [x], response, weight_bits=3.5, candidates=0)


def test_intervals_cover_at_their_level_on_correlated_positions() -> None:
    """Positions of a sequence share its difficulty: one by one they would seem 20 times as many."""
    rng = np.random.default_rng(0)
    metric, hits, narrow = METRICS["kl_divergence"], 0, 0
    for _ in range(200):
        hard = rng.exponential(1.0, 60)
        lengths = rng.integers(10, 31, 60)
        sums = np.array([rng.gamma(n, h / n) * n for n, h in zip(lengths, hard, strict=True)])
        counts = SampleCounts({"divergence": sums, "positions": lengths.astype(float)})
        value, interval = measure(metric, counts, counts.totals(), Resampling(60))
        assert interval is not None
        hits += interval[0] <= 1.0 <= interval[1]
        # What resampling positions would give, from their own spread.
        error = (value or 0.0) * math.sqrt(2.0 / lengths.sum())
        narrow += abs((value or 0.0) - 1.0) <= 1.96 * error
    assert 0.89 <= hits / 200 <= 0.99
    assert narrow / 200 < 0.7


def test_the_interval_of_the_divergence_holds_its_mean_over_all_samples() -> None:
    logits = torch.randn(60, 5)
    changed = logits + 0.3 * torch.randn(60, 5)
    judged = Judged((JudgedOutput("the output", kind="logits", metric="kl_divergence"),))
    stats, same = OutputStats(judged), OutputStats(judged)
    for part in (slice(0, 25), slice(25, 60)):
        stats.update((logits[part],), (changed[part],), Batch(()))
    same.update((logits,), (logits,), Batch(()))
    (found,) = stats.reports()

    assert found.kl_interval is not None
    low, high = found.kl_interval
    p, q = logits.double().log_softmax(1), changed.double().log_softmax(1)
    by_sample = (p.exp() * (p - q)).sum(1)
    error = (by_sample.std() / 60**0.5).item()
    assert found.kl_divergence is not None
    assert low < found.kl_divergence < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert same.reports()[0].kl_interval == (0.0, 0.0)
