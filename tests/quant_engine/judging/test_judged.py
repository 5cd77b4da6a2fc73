"""The line that says what is judged, and the layers that do not reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_engine import (
    LogitResponse,
    ModelReport,
    SensitivityReport,
    analyze,
    measure_sensitivity,
    search_configuration,
    verify_configurations,
)
from quant_engine.errors import BudgetError, DataError, ModelForwardError, SchemeError
from quant_engine.judging.judged import describe_judged
from quant_engine.judging.reach import NO_PATH, find_unreached
from quant_engine.metrics.output import IGNORED
from quant_engine.model.batches import iterate_batches
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
            "with numbers": {"logits": classes, "loss": None, "steps": 3},
        }[self.form]


READ = "read as logits of 3 classes by KL divergence"


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("tuple", f"judged: the first of 2 outputs, {READ}; output 2 is not judged"),
        ("mapping", f"judged: the first of 2 outputs, 'classes', {READ}; 'boxes' is not judged"),
        (
            "logits last",
            f"judged: the second of 2 outputs, 'logits', {READ}; 'boxes' is not judged",
        ),
        ("object", f"judged: the first of 2 outputs, 'logits', {READ}; 'boxes' is not judged"),
        ("with numbers", f"judged: the output, {READ}"),
    ],
)
def test_every_report_says_which_output_is_judged(form: str, line: str) -> None:
    model = fill(Heads(form))

    report = analyze(model, [(X, Y)], measure_time=False)
    sensitivity = measure_sensitivity(model, [(X, Y)], with_cumulative=False)
    response = LogitResponse.measure(model, [(X, Y)], agreement_configurations=1).report

    assert [r.judged for r in (report, sensitivity, response)] == [line] * 3
    has_caveat = form != "with numbers"
    for notes in (report.notes, sensitivity.notes, response.notes):
        assert notes[:1] == ((line,) if has_caveat else ())
    assert ModelReport.from_json(report.to_json()) == report
    assert SensitivityReport.from_json(sensitivity.to_json()) == sensitivity


def judge(model: nn.Module, *batch: Any, metric: str | None = None) -> str:
    return describe_judged(prepare_for(fill(model), [batch])[0], metric).line


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Y, ""),
        (Y[:, None], "the labels, of shape (N, 1), are not used: give the class of each row"),
        (nn.functional.one_hot(Y, 3).float(), "the labels, of shape (N, 3), are not used: give"),
    ],
    ids=["classes", "column", "one-hot"],
)
def test_labels_that_are_not_used_are_said_to_be(labels: Tensor, words: str) -> None:
    line = judge(nn.Sequential(nn.Linear(6, 3)), X, labels)
    assert line.startswith(f"judged: the output, {READ}")
    assert (words in line) if words else ("labels" not in line)


def test_labels_of_a_map_of_classes_are_said_not_to_be_used() -> None:
    x, y = torch.randn(4, 3, 5, 5), torch.zeros(4, 5, 5, dtype=torch.int64)
    line = judge(nn.Sequential(nn.Conv2d(3, 2, 1)), x, y)
    assert line == (
        "judged: the output, read as values by NMSE; the labels, of shape (N, 5, 5), are not used, "
        "as the output, of shape (N, 2, 5, 5), is not read as logits (classes stand on the last "
        "axis)"
    )


@pytest.mark.parametrize(
    ("last", "is_said"),
    [(nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Sigmoid(), False)],
    ids=["softmax", "log softmax", "sigmoid"],
)
def test_an_output_of_probabilities_is_said_to_look_like_it(last: nn.Module, is_said: bool) -> None:
    assert ("probabilities" in judge(nn.Sequential(nn.Linear(6, 3), last), X, Y)) == is_said


def test_nmse_reaches_prediction_search_and_verification() -> None:
    model = fill(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    response = LogitResponse.measure(model, [(X, Y)], metric="nmse", agreement_configurations=8)
    point = search_configuration(response, effective_bits=9.0)
    (score,) = verify_configurations(model, [(X, Y)], response, [point.as_dict()])

    assert response.report.kind == "values"
    assert response.report.judged.startswith("judged: the output, read as values by NMSE; the labe")
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
    labels[0] = -100
    with pytest.raises(DataError, match="-100, which marks rows that are ignored"):
        analyze(model, [batch], measure_time=False)


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

    assert find_unreached(prepared, names) == {"dead"}

    report = measure_sensitivity(model, [(X, Y)])
    by_name = {layer.name: layer for layer in report.layers}
    assert [name for name, layer in by_name.items() if not layer.reaches_output] == ["dead"]
    assert by_name["tiny"].nmse == by_name["dead"].nmse == 0.0
    response = LogitResponse.measure(model, [(X, Y)], agreement_configurations=2)
    (dead,) = (layer for layer in response.report.layers if not layer.reaches_output)
    assert (dead.name, dead.reason) == ("dead", NO_PATH)


@pytest.mark.parametrize("budget", [{"effective_bits": 10.0}, {"float_layers": 0}])
def test_a_search_leaves_layers_of_other_outputs_at_the_bits_of_the_recipe(
    budget: dict[str, Any],
) -> None:
    response = LogitResponse.measure(fill(Heads()), [(X, Y)], agreement_configurations=4)
    best = search_configuration(response, **budget)

    assert best.as_dict()["boxes"] == response.options[0]
    assert response.report.options[0].scheme == response.report.recipe.layer_scheme("boxes")
    assert best.predicted.size.effective_bits <= budget.get("effective_bits", 32.0)
    with pytest.raises(BudgetError):  # the boxes at 8 bits and the others at 2 need more
        search_configuration(response, effective_bits=8.0)
