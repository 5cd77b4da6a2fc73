"""The line that says what is judged, and the layers that do not reach it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    LogitResponse,
    ModelReport,
    Output,
    SensitivityReport,
    analyze,
    measure_sensitivity,
    quantize_model,
    search_configuration,
    verify_configurations,
)
from quant_engine.errors import BudgetError, DataError, ModelForwardError, SchemeError
from quant_engine.judging.describe import describe_judged
from quant_engine.judging.judged import Judged
from quant_engine.judging.reach import NO_PATH, find_unreached
from quant_engine.metrics.counts import IGNORED
from quant_engine.model.batches import Batch, iterate_batches
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.response.directions import Directions, OutputPlan
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((40, 6), 1)
Y = torch.arange(40) % 3


@dataclass
class Answer:
    """What some libraries return."""

    logits: Tensor
    boxes: Tensor


class Heads(nn.Module):
    """A trunk with a head for classes and one for boxes."""

    def __init__(self, form: str = "tuple") -> None:
        super().__init__()
        self.trunk, self.classes, self.boxes = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.trunk(x))
        classes, boxes = self.classes(h), self.boxes(h)
        return {
            "tuple": (classes, boxes),
            "mapping": {"classes": classes, "boxes": boxes},
            "logits last": {"boxes": boxes, "logits": classes},
            "object": Answer(classes, boxes),
            "loss first": (classes.sum(), classes),
            "with numbers": {"logits": classes, "loss": None, "steps": 3},
        }[self.form]


BOTH = "`classes` as logits by KL, `boxes` as values by NMSE"


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("tuple", "judged: 2 outputs, output 1 as logits by KL, output 2 as values by NMSE"),
        ("mapping", f"judged: 2 outputs, {BOTH}"),
        ("logits last", "judged: 2 outputs, `boxes` as values by NMSE, `logits` as logits by KL"),
        ("object", "judged: 2 outputs, `logits` as logits by KL, `boxes` as values by NMSE"),
        ("with numbers", "judged: `logits` as logits by KL"),
        ("loss first", "judged: the output as logits by KL"),
    ],
)
def test_every_report_says_what_is_judged(form: str, line: str) -> None:
    model = fill(Heads(form))

    report = analyze(model, [(X, Y)], measure_time=False)
    sensitivity = measure_sensitivity(model, [(X, Y)], with_cumulative=False)
    response = LogitResponse.measure(model, [(X, Y)], agreement_configurations=1).report

    assert [r.judged for r in (report, sensitivity, response)] == [line] * 3
    for notes in (report.notes, sensitivity.notes, response.notes):
        assert notes[:1] == ((line,) if "2 outputs" in line else ())
    assert ModelReport.from_json(report.to_json()) == report
    assert SensitivityReport.from_json(sensitivity.to_json()) == sensitivity


def judge(model: nn.Module, *batch: Any, metric: str | None = None, output: Any = None) -> str:
    return describe_judged(prepare_for(fill(model), [batch])[0], output, metric).line


@pytest.mark.parametrize(
    "labels",
    [Y, Y[:, None], nn.functional.one_hot(Y, 3).float()],
    ids=["classes", "column", "one-hot"],
)
def test_labels_are_read_in_every_usual_form(labels: Tensor) -> None:
    model = fill(nn.Sequential(nn.Linear(6, 3)))
    assert judge(model, X, labels).startswith("judged: the output as logits by KL")
    report = analyze(model, [(X, labels)], measure_time=False).output
    assert report is not None
    with torch.no_grad():
        wanted = float((model(X).argmax(1) == Y).float().mean())
    assert report.accuracy_float == pytest.approx(wanted)


def test_labels_that_do_not_fit_are_said_not_to_be_used() -> None:
    line = judge(nn.Sequential(nn.Linear(6, 3)), X, torch.ones(40, 2))
    assert "the labels, of shape (N, 2), are not used: give the class of each position" in line
    assert "(x, y) was read as inputs and labels" in line
    line = judge(nn.Sequential(nn.Linear(6, 1)), X, Y)
    assert line.startswith("judged: the output as values by NMSE; the labels, of shape (N), are no")


def test_a_map_of_classes_with_labels_is_judged_by_pixel() -> None:
    x, y = torch.randn(4, 3, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64)
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    assert judge(model, x, y).startswith("judged: the output as logits by KL")
    assert judge(model, x) == "judged: the output as values by NMSE"


@pytest.mark.parametrize(
    ("last", "line"),
    [
        (nn.Softmax(1), "judged: the output as probabilities by KL"),
        (nn.LogSoftmax(1), "judged: the output as logits by KL"),
        (nn.Sigmoid(), "judged: the output as probabilities of yes by KL"),
        (nn.ReLU(), "judged: the output as values by NMSE"),
    ],
    ids=["softmax", "log softmax", "sigmoid", "relu"],
)
def test_what_made_an_output_says_what_it_is(last: nn.Module, line: str) -> None:
    assert judge(nn.Sequential(nn.Linear(6, 3), last), X) == line


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (nn.LayerNorm(384), "embeddings by cosine"),
        (nn.Identity(), "logits by KL"),
        (nn.BatchNorm1d(384), "embeddings by cosine"),
    ],
    ids=["norm", "linear", "batch norm"],
)
def test_a_wide_output_is_an_embedding_where_a_norm_made_it(last: nn.Module, kind: str) -> None:
    model = nn.Sequential(nn.Linear(6, 384), nn.ReLU(), nn.Linear(384, 384), last)
    if isinstance(last, nn.BatchNorm1d):
        model = nn.Sequential(nn.Linear(6, 384), nn.ReLU(), last)  # behind a ReLU it is not folded
    assert judge(model, X) == f"judged: the output as {kind}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pred_boxes", "values by NMSE"),
        ("class_logits", "logits by KL"),
        ("image_embeds", "embeddings by cosine"),
        ("imageEmbedding", "embeddings by cosine"),
    ],
)
def test_a_name_says_what_an_output_is(name: str, kind: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            return {name: self.layer(x)}

    assert judge(Named(), X) == f"judged: `{name}` as {kind}"


def test_inner_states_beside_logits_are_said_not_to_be_judged() -> None:
    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, labels: Any = None) -> Any:
            h = torch.tanh(self.body(x))
            return {"loss": h.sum(), "logits": self.head(h), "last_hidden_state": h, "all": (h, h)}

    line = judge(Bert(), X, Y)
    assert line.startswith(
        "judged: `logits` as logits by KL; `loss`, `last_hidden_state` and `all` are not judged"
    )
    assert line.endswith("the labels were kept back from the model, which takes them")


def test_the_caller_overrules_the_guess() -> None:
    heads = fill(Heads())
    wanted = Output(select=1, kind="logits")
    report = analyze(heads, [(X, Y)], output=wanted, measure_time=False)
    assert report.judged.startswith("judged: the output as logits by KL")
    with torch.no_grad():
        boxes = heads(X)[1].double()
        changed = quantize_model(heads, [X])(X)[1].double()
    p, q = boxes.softmax(1), changed.softmax(1)
    assert report.output is not None
    wanted_kl = float((p * (p.log() - q.log())).sum(1).mean())
    assert report.output.kl_divergence == pytest.approx(wanted_kl, rel=1e-4)

    chosen = Output(select=lambda answer: answer[1][:, :2], kind="values")
    part = measure_sensitivity(heads, [(X, Y)], output=chosen)
    assert part.metric == "nmse"
    reference = float((changed - boxes)[:, :2].square().sum() / boxes[:, :2].square().sum())
    assert part.reference is not None
    assert part.reference.value == pytest.approx(reference, rel=1e-4)
    assert {layer.name for layer in part.layers if not layer.reaches_output} == {"classes"}
    response = LogitResponse.measure(heads, [(X, Y)], output=chosen, agreement_configurations=8)
    configuration = response.uniform(response.options[0])
    (score,) = verify_configurations(heads, [(X, Y)], response, [configuration], output=chosen)
    assert score.degradation == pytest.approx(reference, rel=1e-4)
    assert response.score(configuration).degradation == pytest.approx(reference, rel=0.2)
    with pytest.raises(DataError, match="Give the same output= again"):
        verify_configurations(heads, [(X, Y)], response, [configuration])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"select": -1}, "counts from 0 up"),
        ({"select": None}, "Give a key, an index"),
        ({"kind": "boxes"}, "Valid"),
        ({"class_axis": 0}, "counts samples"),
    ],
)
def test_an_output_that_is_not_one_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemeError, match=words):
        Output(**settings)


def test_an_output_that_the_model_does_not_have_is_named() -> None:
    heads = fill(Heads("mapping"))
    with pytest.raises(DataError, match=r"no 'box'.*'boxes'"):
        analyze(heads, [X], output=Output("box"), measure_time=False)
    with pytest.raises(DataError, match="holds 2 float tensors"):
        analyze(heads, [X], output=Output(2), measure_time=False)
    with pytest.raises(SchemeError, match="Give an Output"):
        analyze(heads, [X], output=[], measure_time=False)
    with pytest.raises(DataError, match="select failed on the model's output: KeyError"):
        analyze(heads, [X], output=Output(lambda a: a["no"]), measure_time=False)


@pytest.mark.parametrize("answer", [None, torch.arange(3), (torch.arange(3),), {}])
def test_an_answer_without_a_float_tensor_cannot_be_judged(answer: Any) -> None:
    with pytest.raises(DataError, match="holds no float tensor"):
        Judged().find(answer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_of_nan_or_inf_is_refused(bad: float) -> None:
    model, x = nn.Linear(6, 3), X.clone()
    x[3, 2] = bad
    with pytest.raises(DataError, match=r"on batch 0 holds NaN or Inf"):
        Judged().answer(model, Batch((x,), samples=40))


def test_nmse_reaches_prediction_search_and_verification() -> None:
    model = fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    response = LogitResponse.measure(model, [(X, Y)], metric="nmse", agreement_configurations=8)
    point = search_configuration(response, effective_bits=9.0)
    (score,) = verify_configurations(model, [(X, Y)], response, [point.as_dict()])

    assert response.report.kind == "values"
    assert response.report.judged == "judged: the output as logits by NMSE"
    assert point.predicted.kl_divergence is score.kl_divergence is score.accuracy is None
    assert point.predicted.degradation == pytest.approx(score.degradation, rel=0.2)
    with pytest.raises(SchemeError, match="nmse"):
        LogitResponse.measure(model, [(X, Y)], metric="mse")


def test_ignored_labels_do_not_count() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, ids: Tensor) -> Tensor:
            result: Tensor = self.head(self.table(ids))
            return result

    model = fill(Tokens()).eval()
    ids, labels = torch.arange(30).reshape(6, 5) % 9, torch.arange(30).reshape(6, 5) % 3
    labels[:, 3:] = -100
    batch = {"ids": ids, "labels": labels}
    with torch.no_grad():
        is_right = (model(ids).argmax(-1) == labels)[:, :3]
    wanted = float(is_right.float().mean())

    report = analyze(model, [batch], measure_time=False).output
    response = LogitResponse.measure(model, [batch], agreement_configurations=1)

    assert report is not None
    assert report.accuracy_float == pytest.approx(wanted)
    assert report.labelled_samples == 18
    assert measure_sensitivity(model, [batch]).accuracy_float == pytest.approx(wanted)
    assert response.report.float_accuracy == pytest.approx(wanted)
    assert response.score({}).accuracy == pytest.approx(wanted)
    # Of longer outputs only projections are known, and no answers.
    part = LogitResponse.measure(model, [batch], classes=2, top_k=1, agreement_configurations=1)
    assert part.report.float_accuracy is None
    # A sequence without any label counts for nothing.
    labels[0] = -100
    left = analyze(model, [batch], measure_time=False).output
    assert left is not None
    assert left.labelled_samples == 15


def test_ignored_labels_do_not_count_where_few_logits_are_known() -> None:
    directions = Directions(
        OutputPlan((40,), True, 4, 2), seeded((3, 40)), torch.Generator().manual_seed(0)
    )
    assert directions.classes is not None
    labels = directions.classes[:, 2].clone()
    labels[1] = IGNORED
    labels[2] = seeded((3, 40))[2].argmin()
    columns = directions.label_columns(labels)
    assert columns is not None
    assert columns.tolist() == [2, IGNORED, -1]


@pytest.mark.parametrize(
    ("item", "args", "kwargs"),
    [
        (((X, X * 2), Y), 2, set()),
        (([X, X * 2], Y), 2, set()),
        (({"x1": X, "x2": X * 2}, Y), 0, {"x1", "x2"}),
        ((X, Y), 1, set()),
    ],
    ids=["tuple", "list", "mapping", "tensor"],
)
def test_the_inputs_of_a_pair_may_be_several(item: Any, args: int, kwargs: set[str]) -> None:
    (batch,) = iterate_batches([item])
    assert (len(batch.args), set(batch.kwargs)) == (args, kwargs)
    assert batch.labels is Y or torch.equal(batch.labels, Y)  # type: ignore[arg-type]
    assert batch.samples == 40


def test_a_model_short_of_inputs_is_told_what_was_read_as_labels() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
            result: Tensor = self.a(x1) + self.b(x2)
            return result

    with pytest.raises(ModelForwardError, match="second part of the batch was read as labels"):
        analyze(Two(), [(X, X)], measure_time=False)
    assert analyze(Two(), [((X, X), Y)], measure_time=False).output is not None


def test_an_encoder_decoder_whose_labels_are_kept_back_is_told_what_to_give() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
            return labels

        def forward(self, x: Tensor, **others: Tensor) -> Tensor:
            if not others:
                raise ValueError("You must specify decoder_input_ids")
            result: Tensor = self.fc(x)
            return result

    batch = {"x": torch.ones(3, 4), "labels": torch.zeros(3, dtype=torch.long)}
    with pytest.raises(ModelForwardError, match=r"give decoder_input_ids too, made by model\.prep"):
        quantize_model(Translator(), [batch])
    quantize_model(Translator(), [{**batch, "decoder_input_ids": batch["labels"]}])


class Paths(nn.Module):
    """Layers that reach the output in different ways, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.cut, self.chosen = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 2)
        self.dead, self.idle, self.off = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)
        self.tiny = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.dead(x)
        weights = torch.nn.functional.one_hot(self.chosen(x).argmax(1), 2).to(x.dtype)
        y = self.plain(x) + self.cut(x).detach() + weights[:, :1]
        return y + 0.0 * self.off(x) + torch.relu(self.tiny(x) - 1e6)


def test_whether_a_layer_reaches_the_output_is_not_a_matter_of_value() -> None:
    model = fill(Paths()).eval()
    prepared, _, _ = prepare_for(model, [(X, Y)])
    names = ["plain", "cut", "chosen", "dead", "idle", "off", "tiny"]

    assert find_unreached(prepared, Judged(), names) == {"dead"}

    report = measure_sensitivity(model, [(X, Y)])
    by_name = {layer.name: layer for layer in report.layers}
    assert [name for name, layer in by_name.items() if not layer.reaches_output] == ["dead"]
    assert by_name["tiny"].nmse == by_name["dead"].nmse == 0.0
    response = LogitResponse.measure(model, [(X, Y)], agreement_configurations=2)
    (dead,) = (layer for layer in response.report.layers if not layer.reaches_output)
    assert (dead.name, dead.reason) == ("dead", NO_PATH)


@pytest.mark.parametrize("budget", [{"effective_bits": 10.0}, {"float_layers": 0}])
def test_a_search_leaves_layers_of_outputs_not_judged_at_the_bits_of_the_recipe(
    budget: dict[str, Any],
) -> None:
    response = LogitResponse.measure(
        fill(Heads()), [(X, Y)], output=Output(0), agreement_configurations=4
    )
    best = search_configuration(response, **budget)

    assert best.as_dict()["boxes"] == response.options[0]
    assert response.report.options[0].scheme == response.report.recipe.layer_scheme("boxes")
    assert best.predicted.size.effective_bits <= budget.get("effective_bits", 32.0)
    with pytest.raises(BudgetError):  # the boxes at 8 bits and the others at 2 need more
        search_configuration(response, effective_bits=8.0)


def test_a_search_over_two_outputs_spares_the_one_that_is_not_first() -> None:
    response = LogitResponse.measure(fill(Heads()), [(X, Y)], agreement_configurations=8)
    best = search_configuration(response, effective_bits=9.0)
    measured = verify_configurations(fill(Heads()), [(X, Y)], response, [best.as_dict()])[0]

    assert [output.name for output in measured.outputs] == ["output 1", "output 2"]
    assert [output.metric for output in measured.outputs] == ["kl_divergence", "nmse"]
    # No assignment of the three layers within the budget is predicted to be better.
    layers, options = response.layers, ["float", *response.options]
    every = [dict(zip(layers, found, strict=True)) for found in product(options, repeat=3)]
    scores = [response.score(configuration) for configuration in every]
    allowed = [s.degradation for s in scores if s.size.effective_bits <= 9.0]
    assert best.predicted.degradation == pytest.approx(min(allowed))
    assert best.predicted.degradation == max(o.ratio or 0.0 for o in best.predicted.outputs)
    assert best.predicted.decided_by in ("output 1", "output 2")
    assert measured.degradation == pytest.approx(best.predicted.degradation, rel=0.5)
    again = LogitResponse.from_bytes(response.to_bytes())
    assert again.report == response.report
    assert again.score(best.as_dict()) == best.predicted
