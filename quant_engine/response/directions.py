"""What of the output a response keeps: every value, or the largest logits and a sketch of the rest.

A *direction* is a linear function of one row of the output. The response of a layer is known along
directions, one backward pass for each, so outputs of many values need a choice of few directions:

- few values: one direction each, and the prediction is complete;
- one row of many logits: the k largest, the mean of the rest weighted by its probabilities, and
  random projections of what is left of the rest;
- anything else: random projections alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_engine.errors import DataError
from quant_engine.metrics.counts import IGNORED


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Which directions are taken of each row of an output.

    Attributes:
        shape: Shape of one row of the output.
        has_logits: Whether the last axis of the output holds logits.
        top: Number of largest logits that are kept one by one; None keeps every value.
        projections: Number of random projections.
    """

    shape: tuple[int, ...]
    has_logits: bool
    top: int | None
    projections: int

    @classmethod
    def choose(
        cls, output: Tensor, bound: int, top: int, projections: int, *, has_logits: bool
    ) -> OutputPlan:
        """Decide by the first output; up to `bound` values per row are all kept."""
        shape = tuple(output.shape[1:]) if output.dim() > 1 else ()
        if math.prod(shape) <= bound:
            return cls(shape, has_logits, None, 0)
        is_one_row = has_logits and len(shape) == 1
        return cls(shape, has_logits, top if is_one_row else 0, projections)

    @property
    def is_complete(self) -> bool:
        """Whether every value of a row is kept."""
        return self.top is None

    @property
    def kept(self) -> int:
        """Number of logits, or values, that are known one by one; with the mean of the rest."""
        if self.top is None:
            return math.prod(self.shape)
        return self.top + 1 if self.top else 0

    @property
    def count(self) -> int:
        """Number of directions."""
        return self.kept + self.projections


class Directions:
    """The directions of one batch of outputs.

    Attributes:
        rows: Number of rows in the batch.
        count: Number of directions.
        base: The float output along the kept directions, shape (rows, kept); the rest of many
            logits counts as one, whose logit is the logarithm of its summed exponentials.
        classes: Which logits are kept, shape (rows, top); None where all are.
    """

    def __init__(self, plan: OutputPlan, output: Tensor, generator: torch.Generator) -> None:
        """Choose directions for an output of the planned shape, shape (rows, *shape).

        Raises:
            DataError: If its rows have another shape than planned.
        """
        if (tuple(output.shape[1:]) if output.dim() > 1 else ()) != plan.shape:
            raise DataError(
                f"The model's output has rows of shape {tuple(output.shape[1:])} on one batch and "
                f"{plan.shape} on another. Give batches of inputs of one length."
            )
        self._plan = plan
        flat = output.detach().reshape(output.shape[0] if output.dim() else 1, -1).double()
        self.rows = len(flat)
        self.count = plan.count
        self.base = flat
        self.classes: Tensor | None = None
        self._rest = torch.zeros_like(flat)
        self._projections = torch.zeros(0, *flat.shape, dtype=torch.float64)
        if plan.top is None:
            return
        if plan.top:
            self.classes = flat.topk(plan.top, dim=1).indices
            others = flat.scatter(1, self.classes, -math.inf)
            self._rest = torch.softmax(others, dim=1)
            rest = torch.logsumexp(others, dim=1, keepdim=True)
            self.base = torch.cat([flat.gather(1, self.classes), rest], dim=1)
        else:
            self.base = flat[:, :0]
        self._projections = self._project(flat, generator)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield one direction after the other, float64, shape (rows, values of a row)."""
        for number in range(self._plan.count):
            yield self._direction(number)

    def along(self, shift: Tensor) -> Tensor:
        """Return a shift of the output, shape (rows, *shape), along every direction.

        Returns:
            float64, shape (rows, directions).
        """
        flat = shift.detach().reshape(self.rows, -1).double()
        if self._plan.is_complete:
            return flat
        return torch.stack([(direction * flat).sum(dim=1) for direction in self], dim=1)

    def label_columns(self, labels: Tensor) -> Tensor:
        """Return for each label its column in `base`, -1 where it is not kept, or `IGNORED`."""
        if self.classes is None:
            return labels
        labels = labels.to(self.classes.device)
        is_kept = self.classes == labels[:, None]
        columns = torch.where(is_kept.any(dim=1), is_kept.int().argmax(dim=1), -1)
        return torch.where(labels == IGNORED, IGNORED, columns)

    def _direction(self, number: int) -> Tensor:
        kept = self._plan.kept
        if number >= kept:
            return self._projections[number - kept]
        direction = torch.zeros_like(self._rest)
        if self.classes is None:
            direction[:, number] = 1.0
            return direction
        if number == kept - 1:
            return self._rest
        return direction.scatter_(1, self.classes[:, number : number + 1], 1.0)

    def _project(self, flat: Tensor, generator: torch.Generator) -> Tensor:
        """Return random projections whose mean square is what the kept directions leave out.

        With random signs s and the factor B of Var_p(Δ) = ‖BᵀΔ‖², B = diag(√p) - p√pᵀ, the mean
        of ⟨Bs, Δ⟩² is Var_p(Δ) (Hutchinson, 1989). Half of it is the KL divergence to second order.
        """
        signs = torch.randint(0, 2, (self._plan.projections, *flat.shape), generator=generator)
        signs = (2.0 * signs - 1.0).double().to(flat.device)
        if not self._plan.has_logits:
            return signs
        if self.classes is not None:
            # KL(p || q) = KL of the kept and the rest as one + p(rest) · KL within the rest.
            log_share = self.base[:, -1] - torch.logsumexp(self.base, dim=1)
            share, p = log_share.exp()[:, None], self._rest
            return share.sqrt() * _centred(signs, p)
        shape = (self.rows, *self._plan.shape)
        p = torch.softmax(flat.reshape(shape), dim=-1)
        projected = _centred(signs.reshape(-1, *shape), p)
        return projected.reshape(signs.shape)


def _centred(signs: Tensor, p: Tensor) -> Tensor:
    """Return (diag(√p) - p√pᵀ)s along the last axis."""
    scaled = p.sqrt() * signs
    return scaled - p * scaled.sum(dim=-1, keepdim=True)
