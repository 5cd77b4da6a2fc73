"""Many ranges at once: the one of smallest loss, to the last bit what each by itself gives."""

import numpy as np
import pytest
import torch

from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import scale_and_zero_point
from quant_engine.tensors.histogram import Histogram
from quant_engine.tensors.information_loss import InformationLoss

KINDS = {
    "normal": lambda n, u: n,
    "relu": lambda n, u: n.relu(),
    "outliers": lambda n, u: torch.where(u > 0.99, 50 * n, n),
    "negative": lambda n, u: -u,
    "few values": lambda n, u: (3 * n).round() / 3,
    "zeros": lambda n, u: 0 * n,
}


def losses(kind, size, scheme):
    """Return the losses of ranges tried at once and one by one; the narrowest hold no bin."""
    generator = torch.Generator().manual_seed(size)
    normal, even = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
    histogram = Histogram(512)
    histogram.update(KINDS[kind](normal, even))
    binned = histogram.binned()
    loss = InformationLoss(binned)
    factors = np.concatenate([np.linspace(1.0, 0.05, 20), np.geomspace(0.04, 1e-6, 6)])
    scale, zero_point = scale_and_zero_point(factors * binned.lo, factors * binned.hi, scheme, np)
    scale, zero_point = scale[:, None], zero_point[:, None]
    one_by_one = [
        loss(scale[i : i + 1], zero_point[i : i + 1], scheme)[0] for i in range(len(factors))
    ]
    return loss(scale, zero_point, scheme), np.array(one_by_one)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("size", [3, 40, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_of_many_losses_is_that_of_each_by_itself(kind, size, bits, symmetric):
    together, alone = losses(kind, size, TensorScheme(bits=bits, symmetric=symmetric))
    best = alone.argmin()  # of equal ones the first
    assert together.argmin() == best
    assert together[best] == alone[best]
    # The others are as they are, or say no more than that another is better.
    assert ((together == alone) | np.isinf(together)).all()
