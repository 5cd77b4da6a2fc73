from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from quant_engine.errors import DataError
from quant_engine.model.batches import count_batches, first_samples, is_rereadable, iterate_batches

X = torch.arange(12.0).view(4, 3)
LABELS = torch.tensor([0, 1, 2, 0])


def test_a_tensor_is_one_batch():
    (batch,) = iterate_batches(X)
    assert batch.args == (X,)
    assert (batch.samples, batch.labels, batch.kwargs) == (4, None, {})


def test_a_list_of_tensors_may_differ_in_length():
    batches = list(iterate_batches([X, X[:1], X[:3]]))
    assert [batch.samples for batch in batches] == [4, 1, 3]


@pytest.mark.parametrize("pair", [(X, LABELS), [X, LABELS], (X, [0, 1, 2, 0]), (X, LABELS.numpy())])
def test_a_pair_is_inputs_and_labels(pair):
    (batch,) = iterate_batches([pair])
    assert batch.args == (X,)
    assert batch.labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("single", [(X,), [X]])
def test_a_tuple_of_one_is_inputs_alone(single):
    (batch,) = iterate_batches([single])
    assert batch.args == (X,)
    assert batch.labels is None


def test_a_mapping_is_keyword_arguments_and_labels_are_kept_back():
    (batch,) = iterate_batches([{"ids": X, "mask": None, "labels": LABELS}])
    assert batch.args == ()
    assert set(batch.kwargs) == {"ids", "mask"}
    assert batch.labels is not None
    assert batch.samples == 4


def test_a_loader_is_read_batch_by_batch():
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=3)
    batches = list(iterate_batches(loader))
    assert [batch.samples for batch in batches] == [3, 1]
    assert torch.cat([batch.labels for batch in batches]).equal(LABELS)


def test_an_iterator_is_read_lazily_and_once():
    read = []

    def stream():
        for number in range(3):
            read.append(number)
            yield X

    batches = iterate_batches(stream())
    assert read == []
    next(batches)
    assert read == [0]
    assert len(list(batches)) == 2


def test_two_tensors_of_inputs_are_two_batches():
    assert [batch.samples for batch in iterate_batches((X, X[:2]))] == [4, 2]


def test_token_ids_pass_unchecked_for_infinity():
    (batch,) = iterate_batches([torch.tensor([[1, 2], [3, 4]])])
    assert batch.samples == 2


def test_labels_for_each_position_are_kept():
    (batch,) = iterate_batches([(X, torch.zeros(4, 3, dtype=torch.int64))])
    assert batch.labels.shape == (4, 3)


def test_a_zero_dimensional_tensor_is_one_sample():
    (batch,) = iterate_batches([{"temperature": torch.tensor(1.0)}])
    assert batch.samples == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no batches. Give at least one"),
        (iter([]), "holds no batches"),
        (3, "is a int. Give a tensor"),
        (None, "is a NoneType"),
        ("digits", "is a str"),
        ({"x": X}, "is a dict"),
        ((X, LABELS), r"Give a list of such pairs: calibration_data=\[\(inputs, labels\)\]"),
        ([X, 3], "batch 1 is a int. A batch is a tensor"),
        ([np.array(["a"])], "batch 0 is a ndarray"),
        ([(X, LABELS, X)], "batch 0 is a tuple of 3"),
        ([()], "batch 0 is a tuple of 0"),
        ([(None, LABELS)], "batch 0 holds no tensor"),
        ([{}], "batch 0 holds no tensor"),
        ([torch.empty(0, 3)], r"batch 0 has shape \(0, 3\): no samples"),
        ([X, X.log()], "batch 1 holds 1 NaN or Inf among 12 values"),
        ([{"a": X, "b": torch.tensor([float("nan")])}], "batch 0 holds 1 NaN or Inf among 1"),
        ([(X, LABELS[:3])], r"4 samples but labels of shape \(3,\)"),
        ([(X, torch.tensor(1))], r"labels of shape \(\)"),
        ([(X, "abcd")], "the labels are not a tensor"),
        ([(X, [0, None, 1, 2])], "the labels are not a tensor"),
    ],
)
def test_bad_data_is_refused_with_the_batch_and_what_to_do(data, message):
    with pytest.raises(DataError, match=message) as caught:
        list(iterate_batches(data))
    assert "calibration_data" in str(caught.value)


def test_the_data_is_called_by_its_name():
    with pytest.raises(DataError, match="evaluation_data, batch 0"):
        list(iterate_batches([3], "evaluation_data"))


def test_batches_before_a_bad_one_are_given_out():
    batches = iterate_batches([X, 3])
    assert next(batches).samples == 4
    with pytest.raises(DataError, match="batch 1"):
        next(batches)


def test_what_can_be_read_twice():
    assert is_rereadable(X)
    assert is_rereadable([X])
    assert is_rereadable(DataLoader(TensorDataset(X)))
    assert not is_rereadable(iter([X]))
    assert not is_rereadable(x for x in [X])


def test_counts_are_known_where_there_is_a_length():
    assert count_batches(X) == 1
    assert count_batches([X, X]) == 2
    assert count_batches(DataLoader(TensorDataset(X), batch_size=3)) == 2
    assert count_batches(iter([X])) is None


@dataclasses.dataclass
class Loaded:
    """What a loader of the caller's own may give."""

    x: object
    labels: object


def test_arrays_dataclasses_and_targets_by_name_are_taken():
    (plain,) = iterate_batches([(np.ones((4, 3)), np.arange(4))])
    assert plain.args[0].dtype == torch.float32
    assert torch.equal(plain.labels, torch.arange(4))
    (loaded,) = iterate_batches([Loaded(np.ones((4, 3), dtype=np.float32), LABELS)])
    assert set(loaded.kwargs) == {"x"}
    assert torch.equal(loaded.labels, torch.as_tensor(LABELS))
    (named,) = iterate_batches([(X, {"classes": LABELS, "boxes": np.ones((len(X), 4))})])
    assert {name: tuple(t.shape) for name, t in named.labels.items()} == {
        "classes": tuple(LABELS.shape),
        "boxes": (len(X), 4),
    }
    with pytest.raises(DataError, match="one label per sample"):
        list(iterate_batches([(X, {"classes": LABELS[:1]})]))


def test_a_list_of_images_is_one_input():
    images = [torch.ones(3, 8, 8), torch.ones(3, 6, 9), torch.zeros(3, 4, 4)]
    targets = [{"boxes": torch.ones(2, 4)} for _ in images]
    (alone,), (pair,) = (list(iterate_batches([item])) for item in (images, (images, targets)))
    assert alone.args == (images,)
    assert alone.samples == pair.samples == 3
    assert alone.reading == "a list of 3 images was read as one input"
    assert pair.reading == f"{alone.reading}; the targets, a list of mappings, are not used"
    assert pair.labels is None
    part = first_samples(pair, 2)
    assert [tuple(image.shape) for image in part.args[0]] == [(3, 8, 8), (3, 6, 9)]


@pytest.mark.parametrize(
    ("labels", "reading"),
    [(torch.ones(4, 3), "(x, y) was read as inputs and labels"), (torch.arange(4), "")],
)
def test_a_pair_that_may_be_two_inputs_says_how_it_was_read(labels, reading):
    (found,) = iterate_batches([(torch.ones(4, 3), labels)])
    assert found.reading == reading
