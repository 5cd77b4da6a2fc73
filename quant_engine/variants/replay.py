"""Running a model from layer k on, replaying what finished before it.

One pass of a batch records what every module returned. If only layer k and what follows may answer
differently, every call that ended before k's first call began is answered from the record instead:
whole subtrees at once, so a stage of twenty layers costs one look-up. Nothing is traced, so any
`nn.Module` works, also one that calls a layer several times.

Answers must be what the call would have returned, bit for bit. So a call is made for real if it
changed one of its inputs, in place or by filling a list or dictionary, or returned one of them, or
if its answer was changed later; a second recording copies such answers in time, and replays copies
of what they were. A layer whose weight is read instead of called is recorded as well, if whoever
holds the weight says so by `read`: what ran before is replayed, and the modules around the read are
run. What a call does besides, such as filling an object that it was handed, cannot be seen from its
inputs: so `verify` lets the record stand in for every call once. Where the output then differs, the
model raises, or a pass does not repeat the recorded calls, replay ends for this model: `reason`
says why, and runs are full forwards. So does `give_up`, for what is found out elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.errors import QuantizationError
from quant_engine.judging.judged import Answer, Judged
from quant_engine.model.batches import Batch
from quant_engine.model.nesting import leaves, map_leaves, nested_tensors

_PLAIN = (type(None), bool, int, float, str)


class _MismatchError(QuantizationError):
    """A pass did not repeat the calls of the recorded one; never leaves this module."""


@dataclass(slots=True, eq=False)
class _Kept:
    """A tensor that a call returned.

    Attributes:
        tensor: The tensor itself, or a copy of what it was if it is known to be changed later.
        number: Its index among the tensors of the pass.
        version: torch's count of in-place changes when the call returned it.
        is_copy: Whether it is a copy; then only copies of it go out.
    """

    tensor: Tensor
    number: int
    version: int
    is_copy: bool


@dataclass(slots=True, eq=False)
class _Call:
    """One recorded call, or a read of a layer's tensors.

    Attributes:
        module: What was called or read.
        shapes: Shapes of the tensors it was called with; None if it was read.
        depth: Number of calls that were under way when it began.
        next_call: Index of the first call that began after this one ended.
        answer: What it returned, with `_Kept` in the place of tensors; None if it is not known.
        is_replayable: Whether the answer may stand in for the call.
    """

    module: nn.Module
    shapes: tuple[torch.Size, ...] | None
    depth: int = 0
    next_call: int = 0
    answer: Any = None
    is_replayable: bool = False


class Replay:
    """Records a forward pass of a model and repeats its end.

    The forwards of the model's modules are wrapped, so give it a model of its own, such as
    `share_tensors` makes.

    Attributes:
        reason: Why passes are full forwards; empty while they are replayed.
        changed_later: Numbers of the tensors that were changed after a call had returned them;
            `record` copies these. Hand it on to the replay of another batch.
        lacks_copies: Whether the last pass changed tensors that were not known to be; recording
            again makes up for it.
    """

    def __init__(
        self,
        model: nn.Module,
        judged: Judged,
        reason: str = "",
        changed_later: frozenset[int] = frozenset(),
    ) -> None:
        """Wrap every module of `model`; with a reason not to replay, leave them alone."""
        self._judged = judged
        self.reason = reason
        self.changed_later = changed_later
        self.lacks_copies = False
        self._model = model
        self._calls: list[_Call] = []
        self._pointer = 0
        self._boundary = 0
        self._least_depth = 0
        self._depth = 0
        self._is_recording = False
        self._kept: dict[tuple[int, int], _Kept] = {}
        self._held: list[Tensor] = []
        self._sent: list[_Kept] = []
        for module in () if reason else model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                vars(module)["forward"] = partial(self._answer, module, module.forward)

    def record(self, batch: Batch) -> Answer:
        """Run the whole model and remember every answer; forgets the batch before.

        Returns:
            What is judged of the model's answer, tensors of its own.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If the output holds NaN or Inf, or no float tensor.
        """
        self._calls, self._depth = [], 0
        self._is_recording = not self.reason
        try:
            return tuple(x.detach().clone() for x in self._answer_to(batch))
        finally:
            self._is_recording = False
            self._settle()

    def verify(self, batch: Batch, output: Answer) -> None:
        """Let the record stand in for every call once; give up if the answer differs.

        A pass for each depth of nesting answers the calls at that depth, and with them all that is
        inside; the modules around them run. Calls without others inside are answered in each pass,
        so no layer is computed again.

        Args:
            batch: The batch that was recorded.
            output: What `record` returned for it.
        """
        deepest = max((call.depth for call in self._calls if call.is_replayable), default=0)
        for depth in range(1, deepest + 1):
            if not self.reason:
                found = self.run(batch, len(self._calls), depth)
                if not all(map(torch.equal, found, output)):
                    self.give_up("a replayed pass does not give the recorded answer")

    def first_call(self, modules: Iterable[nn.Module]) -> int:
        """Return where in the record one of these modules was first called or read.

        Returns:
            Index of the call; the number of calls if none of them was.
        """
        wanted = {id(module) for module in modules}
        for index, call in enumerate(self._calls):
            if id(call.module) in wanted:
                return index
        return len(self._calls)

    def run(self, batch: Batch, first_change: int, depth: int = 0) -> Answer:
        """Run the model again on the recorded batch, from a call on.

        Args:
            batch: The batch that was recorded.
            first_change: Index of the first call that may answer differently, from `first_call`.
            depth: Calls at a smaller depth are run in any case.

        Returns:
            What is judged of its answer: bit for bit what a full forward gives.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If the output holds NaN or Inf, or no float tensor.
        """
        if not self.reason:
            self._pointer, self._boundary, self._least_depth = 0, first_change, depth
            self._sent = []
            try:
                output = self._answer_to(batch)
                if all(count_changes(kept.tensor) == kept.version for kept in self._sent):
                    return output
                self.give_up("a layer changes in place what an earlier one returned")
            except _MismatchError as mismatch:
                self.give_up(str(mismatch))
            except QuantizationError:  # a full pass raises it again if it is not of our making
                self.give_up("the model cannot run on what is left when calls are replayed")
        return self._answer_to(batch)

    def _answer_to(self, batch: Batch) -> Answer:
        return tuple(x.detach() for x in self._judged.answer(self._model, batch))

    def read(self, module: nn.Module) -> None:
        """Take note that the pass under way reads a tensor of a module that it does not call now.

        It counts as a call that has ended at once and cannot be replayed. So whatever call it
        happened in began before it and ended after it, and is not replayed either.
        """
        if self._is_recording:
            self._calls.append(_Call(module, None, self._depth))
        elif self._is_replaying():
            self._expect(module, None)
            self._pointer += 1

    def forget(self) -> None:
        """Let go of the record at once: model and wrappers form a cycle, which is freed late."""
        self._calls, self._sent, self._kept, self._held = [], [], {}, []

    def give_up(self, reason: str) -> None:
        """Run in full from now on; the first reason stays."""
        self.reason = self.reason or reason
        self._calls = []

    def _answer(
        self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._is_recording:
            return self._record_call(module, forward, args, kwargs)
        if not self._is_replaying():
            return forward(*args, **kwargs)
        call = self._expect(module, _shapes(args, kwargs))
        if (
            call.is_replayable
            and call.next_call <= self._boundary
            and (call.depth >= self._least_depth or call.next_call == self._pointer + 1)
        ):
            self._pointer = call.next_call
            return map_leaves(call.answer, self._send)
        self._pointer += 1
        return forward(*args, **kwargs)

    def _is_replaying(self) -> bool:
        return self._pointer < self._boundary and not self.reason

    def _expect(self, module: nn.Module, shapes: tuple[torch.Size, ...] | None) -> _Call:
        """Return the next recorded call, which has to be this one."""
        call = self._calls[self._pointer]
        if call.module is not module or call.shapes != shapes:
            raise _MismatchError("the model does not repeat its calls from one pass to the next")
        return call

    def _record_call(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        call = _Call(module, _shapes(args, kwargs), self._depth)
        self._calls.append(call)
        inputs = list(nested_tensors((args, kwargs)))
        before = [(id(tensor), count_changes(tensor)) for tensor in inputs]
        self._depth += 1
        output = forward(*args, **kwargs)
        self._depth -= 1
        call.next_call = len(self._calls)
        left = list(nested_tensors((args, kwargs)))
        is_unchanged = before == [(id(tensor), count_changes(tensor)) for tensor in left]
        memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        answers = [tensor.untyped_storage().data_ptr() for tensor in nested_tensors(output)]
        is_new = memory.isdisjoint(answers) and len(set(answers)) == len(answers)
        if is_unchanged and is_new and _is_plain(output):
            call.is_replayable = True
            call.answer = map_leaves(output, self._keep)
        return output

    def _keep(self, value: Any) -> Any:
        """Keep a tensor, once if several calls return it, as a container and its last layer do."""
        if not isinstance(value, Tensor):
            return value
        # The id is safe as a key: the tensor is held until the pass is over.
        version = count_changes(value)
        key = (id(value), version)
        if key not in self._kept:
            number = len(self._kept)
            is_copy = number in self.changed_later
            tensor = value.clone() if is_copy else value
            self._kept[key] = _Kept(tensor, number, version, is_copy)
            self._held.append(value)
        return self._kept[key]

    def _settle(self) -> None:
        """After a pass: no longer answer with tensors that were changed since and not copied."""
        lost = {
            id(kept): kept.number
            for kept in self._kept.values()
            if not kept.is_copy and count_changes(kept.tensor) != kept.version
        }
        self.lacks_copies = bool(lost)
        self.changed_later |= frozenset(lost.values())
        for call in self._calls if lost else ():
            if any(id(kept) in lost for kept in leaves(call.answer)):
                call.is_replayable, call.answer = False, None
        self._kept, self._held = {}, []

    def _send(self, value: Any) -> Any:
        if not isinstance(value, _Kept):
            return value
        if value.is_copy:
            return value.tensor.clone()
        self._sent.append(value)
        return value.tensor


def count_changes(tensor: Tensor) -> int:
    """Return torch's count of the in-place changes made to a tensor.

    Tensors made in inference mode have no count; outside it torch does not let them be changed.
    """
    return 0 if tensor.is_inference() else tensor._version


def _shapes(args: Any, kwargs: Any) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in nested_tensors((args, kwargs)))


def _is_plain(value: Any) -> bool:
    """Whether a value is made of nothing but containers, tensors and plain values."""
    return all(type(leaf) in (Tensor, nn.Parameter, *_PLAIN) for leaf in leaves(value))
