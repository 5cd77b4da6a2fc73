"""Preparing a model for the data at hand: the copy computes on them what the model computes.

The graph of the first batch tells which BatchNorms can be folded. Another batch may take another
way through forward, so a folded and an unfolded copy run on a few samples of each data first, and
must give the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from quant_engine.errors import DataError, ModelForwardError, UnsupportedLayerError
from quant_engine.graph.capture import capture_graph
from quant_engine.model.batches import Batch, as_tensor, first_samples, iterate_batches
from quant_engine.model.copying import share_parameters
from quant_engine.model.forward import output_tensors, run_model
from quant_engine.model.pass_state import find_pass_state
from quant_engine.model.randomness import SOURCE
from quant_engine.preparation.batchnorm import (
    Folding,
    find_foldings,
    has_batchnorm,
    sequential_foldings,
)
from quant_engine.preparation.prepared_model import PreparedModel, fold, prepare, standardized
from quant_engine.preparation.standard_layers import StandardLayer
from quant_engine.preparation.weight_readers import find_functional_weights

_NOT_PLAIN = (
    "Layers of classes of their own stay as they are: on the data, the model would compute "
    "something else with plain layers in their place."
)

C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")

_SAMPLES = 32
_TENSORFLOAT_EPS = 2.0**-10  # GPUs may multiply float32 with these digits

_NOTE = (
    "BatchNorms were not folded: on the data, the model would compute something else then. Its "
    "forward reads the output of a layer in a way that its graph on the first batch does not show."
)


def prepare_for(
    model: nn.Module,
    calibration_data: C,
    evaluation_data: E = None,  # type: ignore[assignment]
) -> tuple[PreparedModel, C, E]:
    """Prepare a model, fold its BatchNorms, and check on the data that it computes the same.

    What its passes leave behind is found on them too; see `pass_state`.

    Args:
        model: Any module. It is not changed.
        calibration_data: What it will run on: a tensor or an iterable of batches. A `Calibration`
            remembers what was folded for its data. What holds no data is not looked at.
        evaluation_data: The same.

    Returns:
        The prepared model; and the data, with their first batches still to be read.

    Raises:
        UnsupportedLayerError: If the model is not a module or cannot be copied.
    """
    prepared = prepare(model)
    known: tuple[Folding, ...] | None = getattr(calibration_data, "folded", None)
    functional: tuple[StandardLayer, ...] | None = getattr(calibration_data, "functional", None)
    is_separate = evaluation_data is not calibration_data
    first, calibration_data = _read_ahead(calibration_data)
    found = [first]
    if is_separate:
        first, evaluation_data = _read_ahead(evaluation_data)
        found.append(first)
    batches = [batch for batch in found if batch is not None]
    # Running a layer that has no weights yet would give it random ones.
    is_lazy = any(isinstance(p, UninitializedParameter) for p in prepared.model.parameters())
    if is_lazy:
        return prepared, calibration_data, evaluation_data
    plain = standardized(prepared)
    if _computes_the_same(plain, prepared, batches):
        prepared = plain
    else:
        prepared = replace(prepared, notes=(*prepared.notes, _NOT_PLAIN))
    if has_batchnorm(prepared.model):
        prepared = _fold_for(prepared, known, batches)
    if functional is None:
        functional = find_functional_weights(prepared, batches[0] if batches else None)
    held = standardized(prepared, functional)
    if _computes_the_same(held, prepared, batches):
        prepared = held
    if batches:
        state = find_pass_state(prepared.model, batches[0])
        prepared = replace(
            prepared,
            state=state,
            samples=first_samples(batches[-1], _SAMPLES) or batches[-1],
            notes=(*prepared.notes, *state.notes),
        )
    return prepared, calibration_data, evaluation_data


def _fold_for(
    prepared: PreparedModel, known: Sequence[Folding] | None, batches: Sequence[Batch]
) -> PreparedModel:
    """Fold BatchNorms where that is exact on the first samples of all data."""
    notes: tuple[str, ...] = ()
    foldings = known
    if foldings is None:
        foldings = sequential_foldings(prepared.model)
        if batches:
            try:
                graph = capture_graph(prepared.model, batches[0])
                foldings, notes = find_foldings(prepared.model, graph)
            except UnsupportedLayerError as error:
                notes = (f"BatchNorms were folded only inside nn.Sequential. {error}",)
    folded = fold(prepared, foldings)
    if not _computes_the_same(folded, prepared, batches):
        folded, notes = prepared, (*notes, _NOTE)
    return replace(folded, notes=(*folded.notes, *notes))


class _ReadAhead(Iterable[Any]):
    """Batches of which the first one was read already; the next pass does not read it again."""

    def __init__(self, data: Iterable[Any], begun: Iterator[Any]) -> None:
        self._data = data
        self._begun: Iterator[Any] | None = begun

    def __iter__(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        return iter(self._data) if begun is None else begun

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]


def _read_ahead(data: D) -> tuple[Batch | None, D]:
    """Return the first batch, if there is a good one, and the data with that batch still in it."""
    data = as_tensor(data)
    if isinstance(data, Tensor):
        return _as_batch(data), cast(D, data)
    if isinstance(data, Sequence):
        return (_as_batch(data[0]) if data else None), data
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        return None, data
    rest = iter(data)
    found = list(islice(rest, 1))
    begun = chain(found, rest)
    again = begun if isinstance(data, Iterator) else _ReadAhead(data, begun)
    return (_as_batch(found[0]) if found else None), cast(D, again)


def _as_batch(item: Any) -> Batch | None:
    """Return a checked batch; what is wrong with it will be said where the data is read."""
    try:
        return next(iterate_batches([item]))
    except DataError:
        return None


def _computes_the_same(
    changed: PreparedModel, prepared: PreparedModel, batches: Sequence[Batch]
) -> bool:
    """Whether a changed model computes on all batches what it computed before."""
    pairs = ((changed.model, prepared.model, batch) for batch in batches)
    return changed is prepared or all(_agree_on(*pair) for pair in pairs)


def _agree_on(folded: nn.Module, unfolded: nn.Module, batch: Batch) -> bool:
    """Whether a model computes on a batch what it does without folded BatchNorms."""
    for samples in (first_samples(batch, _SAMPLES), batch):
        if samples is None:
            continue
        try:
            expected = outputs_of(share_parameters(unfolded), samples)
        except ModelForwardError:
            continue  # a model may insist on its batch size; if it fails on all, others will say so
        try:
            found = outputs_of(share_parameters(folded), samples)
        except ModelForwardError:
            return False
        eps = _coarsest_eps(folded, expected)
        return len(found) == len(expected) and all(map(partial(_is_near, eps), found, expected))
    return True


def outputs_of(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Return the float tensors that a model gives, without a trace in the random numbers."""
    with SOURCE, torch.random.fork_rng(devices=[]):
        output = run_model(model, batch)
    return [tensor for tensor in output_tensors(output) if tensor.is_floating_point()]


def _coarsest_eps(model: nn.Module, outputs: Iterable[Tensor]) -> float:
    """Return the distance from 1 to the next number in the coarsest type computed in."""
    tensors = [t for t in (*model.parameters(), *outputs) if t.is_floating_point()]
    kinds = {tensor.device.type for tensor in tensors}
    types = {tensor.dtype for tensor in tensors}
    types |= {torch.get_autocast_dtype(k) for k in kinds if torch.is_autocast_enabled(k)}
    coarsest = max((torch.finfo(dtype).eps for dtype in types), default=0.0)
    return coarsest if kinds <= {"cpu"} else max(coarsest, _TENSORFLOAT_EPS)


def _is_near(eps: float, found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs differ by rounding, which has half the digits to add up in."""
    if found.shape != expected.shape:
        return False
    if not expected.numel():
        return True
    largest = expected.abs().nan_to_num(0.0, 0.0).amax().item()
    near = torch.isclose(found, expected, rtol=0.0, atol=math.sqrt(eps) * largest, equal_nan=True)
    return bool(near.all())
