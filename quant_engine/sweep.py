"""Running many variants of one model, each with its own set of quantized layers, on one batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_engine.batches import Batch
from quant_engine.histogram import FloatArray
from quant_engine.layers import QuantizedLayer
from quant_engine.metrics import kl_divergences
from quant_engine.modules import replace_module
from quant_engine.output import has_logits
from quant_engine.replay import Replay


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one variant answered, sample by sample.

    Attributes:
        noise: Σ(x-x̂)² of the output, shape (samples,).
        divergence: KL(float || variant) in nats, shape (samples,); None without logits.
        agreement: Share of the sample's rows with the same largest logit; None without logits.
        correct: Share of the sample's rows that match the label; None without labels.
    """

    noise: FloatArray
    divergence: FloatArray | None
    agreement: FloatArray | None
    correct: FloatArray | None

    @classmethod
    def join(cls, parts: Sequence[Outcome]) -> Outcome:
        """Put the outcomes of several batches one after the other."""
        return cls(
            np.concatenate([part.noise for part in parts]),
            _join(part.divergence for part in parts),
            _join(part.agreement for part in parts),
            _join(part.correct for part in parts),
        )


def _join(parts: Iterable[FloatArray | None]) -> FloatArray | None:
    known = list(parts)
    kept = [part for part in known if part is not None]
    return np.concatenate(kept) if kept and len(kept) == len(known) else None


@dataclass(frozen=True, slots=True, eq=False)
class BatchOutcome:
    """All variants on one batch.

    Attributes:
        samples: Samples in the batch.
        signal: Σx² of the float output, shape (samples,).
        correct_float: Share of the sample's rows the float model gets right; None without labels.
        variants: One outcome for each variant, in order.
        full_forwards_because: Why nothing could be replayed; empty if it was.
    """

    samples: int
    signal: FloatArray
    correct_float: FloatArray | None
    variants: tuple[Outcome, ...]
    full_forwards_because: str = ""


class VariantRunner:
    """Runs variants of a float model in which some layers are swapped for quantized ones.

    Nothing of the float model is changed: layers are swapped on a copy that shares its tensors.
    """

    def __init__(self, float_model: nn.Module, layers: Mapping[str, QuantizedLayer]) -> None:
        """Put a switch between float and quantized form in the place of every layer."""
        self._names = tuple(layers)
        model = share_tensors(float_model)
        for name, layer in layers.items():
            model = replace_module(model, name, _Switch(model.get_submodule(name), layer))
        self._model = model

    def run(
        self,
        batch: Batch,
        variants: Iterable[Iterable[str]],
        on_variant: Callable[[int], None] | None = None,
    ) -> BatchOutcome:
        """Run every variant on a batch, replaying what no layer of it can have changed.

        Variants near the float model start from its record, variants near the fully quantized model
        from that one's; see `replay`. Results equal plain full forwards bit for bit.

        Args:
            batch: The batch.
            variants: For each variant the names of its quantized layers.
            on_variant: Called with the number of finished variants after each.
        """
        model = share_tensors(self._model)
        switches = {name: _find_switch(model, name) for name in self._names}
        replay = Replay(model)
        wanted = [frozenset(variant) for variant in variants]
        outcomes: list[Outcome | None] = [None] * len(wanted)
        with torch.random.fork_rng(devices=[]):
            random_state = torch.random.get_rng_state()
            logits = _record(replay, switches, frozenset(), batch)
            done = 0
            for base, numbers in _nearest_base(wanted, frozenset(switches)):
                if base:
                    torch.random.set_rng_state(random_state)
                    _record(replay, switches, base, batch)
                starts = {n: _first_change(replay, switches, base, wanted[n]) for n in numbers}
                # The last start first: modules that remember something are then never skipped
                # after a pass that left something else in them.
                for number in sorted(numbers, key=lambda n: -starts[n]):
                    _set(switches, wanted[number])
                    output = replay.run(batch, starts[number])
                    outcomes[number] = _compare(logits, output, batch.labels)
                    done += 1
                    if on_variant is not None:
                        on_variant(done)
        return BatchOutcome(
            samples=batch.samples,
            signal=_sample_sums(logits.double().square()),
            correct_float=_correct(logits, batch.labels),
            variants=tuple(outcome for outcome in outcomes if outcome is not None),
            full_forwards_because=replay.reason,
        )


def _record(
    replay: Replay, switches: Mapping[str, _Switch], quantized: frozenset[str], batch: Batch
) -> Tensor:
    """Record a pass and check once, from its middle on, that replaying it gives the same answer."""
    _set(switches, quantized)
    output = replay.record(batch)
    replay.verify(batch, output)
    return output


def _set(switches: Mapping[str, _Switch], quantized: frozenset[str]) -> None:
    for name, switch in switches.items():
        switch.is_quantized = name in quantized


def _nearest_base(
    variants: Sequence[frozenset[str]], everything: frozenset[str]
) -> list[tuple[frozenset[str], list[int]]]:
    """Divide variants into those nearer to the float model and those nearer to `everything`."""
    near_float = [n for n, variant in enumerate(variants) if 2 * len(variant) <= len(everything)]
    near_full = [n for n, variant in enumerate(variants) if 2 * len(variant) > len(everything)]
    groups = [(frozenset[str](), near_float)]
    # A record costs a pass of its own; it pays for more than one variant.
    if len(near_full) > 2:
        groups.append((everything, near_full))
    else:
        near_float.extend(near_full)
    return groups


def _first_change(
    replay: Replay,
    switches: Mapping[str, _Switch],
    base: frozenset[str],
    variant: frozenset[str],
) -> int:
    return replay.first_call([switches[name] for name in base ^ variant])


class _Switch(nn.Module):
    """Stands where a layer was and answers as its float or its quantized form."""

    def __init__(self, float_layer: nn.Module, quantized_layer: nn.Module) -> None:
        super().__init__()
        self.float_layer = float_layer
        self.quantized_layer = quantized_layer
        self.is_quantized = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.quantized_layer if self.is_quantized else self.float_layer
        return layer(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer, such as its sizes or its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["float_layer"], name)


def _find_switch(model: nn.Module, name: str) -> _Switch:
    switch = model.get_submodule(name)
    assert isinstance(switch, _Switch)
    return switch


def share_tensors(model: nn.Module) -> nn.Module:
    """Copy the modules of a model but share its parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _compare(logits: Tensor, changed: Tensor, labels: Tensor | None) -> Outcome:
    noise = _sample_sums((changed.double() - logits.double()).square())
    if not has_logits(logits, labels):
        return Outcome(noise, None, None, None)
    agreement = logits.argmax(dim=-1) == changed.argmax(dim=-1)
    return Outcome(
        noise,
        _sample_means(kl_divergences(logits, changed)),
        _sample_means(agreement.double()),
        _correct(changed, labels),
    )


def _correct(logits: Tensor, labels: Tensor | None) -> FloatArray | None:
    if labels is None or not has_logits(logits, labels) or labels.shape != logits.shape[:-1]:
        return None
    return _sample_means((logits.argmax(dim=-1) == labels.to(logits.device)).double())


def _by_sample(values: Tensor) -> Tensor:
    """Return one row a sample; an output without axes, such as a sum, is one sample."""
    return values.reshape(values.shape[0] if values.dim() else 1, -1)


def _sample_sums(values: Tensor) -> FloatArray:
    sums: FloatArray = _by_sample(values).sum(dim=1).cpu().numpy()
    return sums


def _sample_means(values: Tensor) -> FloatArray:
    means: FloatArray = _by_sample(values).mean(dim=1).cpu().numpy()
    return means
