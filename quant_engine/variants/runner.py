"""Running many variants of one model, each with its own set of changed layers, on one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from quant_engine.judging.judged import Answer, Judged
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import replace_modules
from quant_engine.model.pass_state import PassState, StateHistory
from quant_engine.model.randomness import RandomNumbers, current_state
from quant_engine.variants.outcomes import BatchOutcome, Outcome
from quant_engine.variants.replay import Replay
from quant_engine.variants.switch import Switch

Variant: TypeAlias = Mapping[str, str]
"""Layer name -> which of its forms stands in its place; layers left out are float."""

T = TypeVar("T")
OnOutput: TypeAlias = Callable[[int, Answer, Answer], None]

FLOAT: Variant = {}
_SWITCHED_OFF = "replay is switched off"


class VariantRunner:
    """Runs variants of a float model in which some layers are swapped for others.

    Nothing of the float model is changed: layers are swapped on a copy that shares its tensors. Nor
    is the data. A model that draws random numbers draws the same ones in every pass on every batch:
    those that come next when the runner is made.
    """

    def __init__(
        self,
        float_model: nn.Module,
        forms: Mapping[str, Mapping[str, nn.Module]],
        *,
        state: PassState | None = None,
        judged: Judged | None = None,
        has_replay: bool = True,
    ) -> None:
        """Put a switch between the float layer and its other forms in the place of every layer.

        Args:
            float_model: The prepared float model.
            forms: Layer name -> name of a form -> what stands in the layer's place then.
            state: What passes of the model change, if anything. Every variant then goes through the
                batches in order, each from the state that it left after the one before.
            judged: What of an answer is looked at; the first float tensor if None.
            has_replay: False runs every variant in full, to compare with.
        """
        self._names = tuple(forms)
        self._judged = Judged() if judged is None else judged
        self._state = PassState() if state is None else state
        self._history = StateHistory(self._state.initial)
        self._full_because = self._state.full_passes_because if has_replay else _SWITCHED_OFF
        self._random_state = current_state()
        self._changed_later: frozenset[int] = frozenset()
        self._is_watched = True  # until a watched pass has drawn nothing
        model = share_tensors(float_model)
        switches = {n: Switch(model.get_submodule(n), others) for n, others in forms.items()}
        self._model = replace_modules(model, switches)

    def run(
        self,
        batch: Batch,
        variants: Sequence[Variant],
        bases: Sequence[Variant] = (),
        on_variant: Callable[[int], None] | None = None,
    ) -> BatchOutcome:
        """Run every variant on a batch and compare what it answers with the float model.

        Args:
            batch: The batch.
            variants: What to run.
            bases: Variants that others are near to, such as all layers quantized.
            on_variant: Called with the number of finished variants after each.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If an output holds NaN or Inf, or the metric's answer does not fit.
        """
        outcomes: dict[int, Outcome] = {}
        drawn = RandomNumbers(self._random_state)  # the caller's metric may draw

        def keep(number: int, expected: Answer, output: Answer) -> None:
            outcomes[number] = drawn.run(
                lambda: self._judged.compare(expected, output, batch), is_watched=False
            )
            if on_variant is not None:
                on_variant(len(outcomes))

        reason = self.run_each(batch, variants, keep, bases)
        return BatchOutcome(tuple(outcomes[number] for number in range(len(variants))), reason)

    def run_float(self, batch: Batch) -> tuple[Answer, tuple[str, ...]]:
        """Run the float model on a batch.

        Returns:
            What is judged of its answer, and the names of the layers of which it read a tensor,
            such as the weight, without calling them.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If the output holds NaN or Inf.
        """
        model = share_tensors(self._model)
        switches = {name: _find_switch(model, name) for name in self._names}
        read: list[nn.Module] = []
        for switch in switches.values():
            switch.on_read = read.append
        drawn = RandomNumbers(self._random_state)
        forward = self._from_its_state(
            model, FLOAT, batch, lambda: self._judged.answer(model, batch)
        )
        with torch.inference_mode(False):
            output = drawn.run(forward, is_watched=self._is_watched)
        self._is_watched = drawn.are_drawn
        return tuple(x.detach() for x in output), tuple(
            n for n, switch in switches.items() if switch in read
        )

    def run_like_float(self, batch: Batch, model: nn.Module, forward: Callable[[], T]) -> T:
        """Run a pass of the caller's, once, as `run_float` ran on this batch: from the same state.

        Args:
            batch: The batch.
            model: What the pass runs.
            forward: The pass.
        """
        drawn = RandomNumbers(self._random_state)
        drawn.are_drawn = self._is_watched
        with drawn.again():
            return self._from_its_state(model, FLOAT, batch, forward)()

    @torch.inference_mode(False)
    def run_each(
        self,
        batch: Batch,
        variants: Sequence[Variant],
        on_output: OnOutput,
        bases: Sequence[Variant] = (),
    ) -> str:
        """Run every variant on a batch, replaying what no layer of it can have changed.

        A variant starts from the record of the float model, or of the base that it differs from in
        fewer layers; see `replay`. Outputs equal those of plain full forwards bit for bit.

        Args:
            batch: The batch.
            variants: What to run.
            on_output: Called as on_output(number, float output, output) after each variant, with
                its number among the variants. They run in an order that serves replay.
            bases: Variants that others are near to.

        Returns:
            Why nothing could be replayed; "" if it was.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If an output holds NaN or Inf.
        """
        model = share_tensors(self._model)
        replay = Replay(model, self._judged, self._full_because, self._changed_later)
        switches = {name: _find_switch(model, name) for name in self._names}
        for switch in switches.values():
            switch.on_read = replay.read
        drawn = RandomNumbers(self._random_state)

        def run(variant: Variant, forward: Callable[[], Answer], *, is_watched: bool) -> Answer:
            for name, switch in switches.items():
                switch.choose(variant.get(name))
            forward = self._from_its_state(model, variant, batch, forward)
            return drawn.run(forward, is_watched=is_watched)

        def record(base: Variant) -> Answer:
            """Record a pass and check once that replaying most of it gives the same."""
            for _ in range(2):
                output = run(base, partial(replay.record, batch), is_watched=self._is_watched)
                if not replay.lacks_copies:
                    break
            self._is_watched = drawn.are_drawn
            if drawn.are_drawn:
                replay.give_up("the model draws random numbers")
            replay.verify(batch, output)
            return output

        try:
            expected = record(FLOAT)
            for base, numbers in _nearest_bases(variants, bases):
                if base:
                    record(base)
                starts = {
                    n: replay.first_call([switches[name] for name in _differing(base, variants[n])])
                    for n in numbers
                }
                # The last start first: modules that remember something are then never skipped
                # after a pass that left something else in them.
                for number in sorted(numbers, key=lambda n: -starts[n]):
                    replayed = partial(replay.run, batch, starts[number])
                    on_output(number, expected, run(variants[number], replayed, is_watched=False))
            return replay.reason
        finally:
            # The next batch need not find out again.
            self._changed_later = replay.changed_later
            replay.forget()

    def _from_its_state(
        self, model: nn.Module, variant: Variant, batch: Batch, forward: Callable[[], T]
    ) -> Callable[[], T]:
        """Let a pass of a variant begin in the state that its last batch left."""

        def run() -> T:
            key = frozenset(variant.items())
            start = self._history.start(key, batch, frozenset(FLOAT))
            if self._state.reaches_next:
                self._state.write(model, start)
            with self._state.same_numbers():
                result = forward()
            if self._state.reaches_next:
                self._history.keep(key, batch, start, self._state.read(model))
            return result

        return run


def _differing(one: Variant, other: Variant) -> list[str]:
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _nearest_bases(
    variants: Sequence[Variant], bases: Sequence[Variant]
) -> list[tuple[Variant, list[int]]]:
    """Give each variant to the float model or to the base it differs from in fewer layers."""
    candidates = [FLOAT, *bases]
    groups: list[list[int]] = [[] for _ in candidates]
    for number, variant in enumerate(variants):
        distances = [len(_differing(base, variant)) for base in candidates]
        groups[distances.index(min(distances))].append(number)
    # A record costs a pass of its own; it pays for more than two variants.
    for group in groups[1:]:
        if len(group) <= 2:
            groups[0].extend(group)
            group.clear()
    return [(base, group) for base, group in zip(candidates, groups, strict=True) if group]


def _find_switch(model: nn.Module, name: str) -> Switch:
    switch = model.get_submodule(name)
    assert isinstance(switch, Switch)
    return switch
