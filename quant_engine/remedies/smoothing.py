"""SmoothQuant: input channels are divided by factors, and the weights that read them multiplied.

    y = (X diag(s)⁻¹) (diag(s) W),    s_j = max|X_j|^α / max|W_j|^(1 - α)

α moves the difficulty of rounding from inputs (0) to weights (1). What the factors are folded into,
and who shares them, is in `readers`. Xiao et al., ICML 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from quant_engine.remedies.channels import gathered
from quant_engine.remedies.passes import Passes
from quant_engine.remedies.readers import Readers, Tried, move_factors
from quant_engine.report import Treatment
from quant_engine.scheme import AUTO, Recipe, SmoothQuant

ALPHAS = (0.25, 0.4, 0.5, 0.65, 0.8)
"""What "auto" chooses from, besides no smoothing at all."""


def smooth(
    passes: Passes, graph: fx.GraphModule, remedy: SmoothQuant, recipe: Recipe
) -> tuple[Treatment, ...]:
    """Smooth the inputs of all layers that a remedy names, in place.

    Args:
        passes: Over calibration data, of the model.
        graph: What it computes, captured from it.
        remedy: Which layers, and α.
        recipe: How the layers will be quantized.

    Returns:
        One entry for each tensor that is smoothed; its errors are those of the outputs of all
        layers that read it. And one for each tensor that is not, with the reason.
    """

    def choose(readers: Readers, _: Readers) -> Tried:
        inputs = [gathered(r.seen.largest, r.times) for r in readers]
        largest = torch.stack(inputs).amax(dim=0)
        reach = torch.stack([reader.reach() for reader in readers]).amax(dim=0)
        alphas = ALPHAS if remedy.alpha == AUTO else (float(remedy.alpha),)
        return [(smoothing_factors(largest, reach, alpha), alpha) for alpha in alphas]

    done = move_factors(
        passes,
        graph,
        remedy,
        recipe,
        choose,
        is_judged=lambda r: r.scheme is not None and r.scheme.activation is not None,
        unjudged="the inputs stay float",
        is_forced=remedy.alpha != AUTO,
    )
    return tuple(done)


def smoothing_factors(largest: Tensor, reach: Tensor, alpha: float) -> Tensor:
    """Return max|X_j|^α / max|W_j|^(1 - α) for each channel; 1 where one of the two is 0.

    Args:
        largest: Largest magnitude of each input channel, (channels,).
        reach: Largest magnitude of the weights that read it.
        alpha: How much moves to the weights.

    Example:
        >>> smoothing_factors(torch.tensor([64.0, 0.0]), torch.tensor([4.0, 1.0]), 0.5).tolist()
        [4.0, 1.0]
    """
    is_alive = (largest > 0) & (reach > 0)
    x, w = torch.where(is_alive, largest, 1.0), torch.where(is_alive, reach, 1.0)
    return x**alpha / w ** (1 - alpha)
