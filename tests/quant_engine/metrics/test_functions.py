from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy

from quant_engine.errors import DataError
from quant_engine.metrics.functions import (
    calculate_quantization_error,
    cosine,
    kl_divergence,
    kl_divergences,
    sqnr_db,
    top1_agreement,
)
from tests.quant_engine.strategies import tensors

X = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
X_HAT = torch.tensor([[3.0, 0.0], [0.0, 1.0]])


def test_golden_values():
    assert sqnr_db(X, X_HAT) == pytest.approx(10 * math.log10(29 / 17))
    assert cosine(X, X_HAT) == pytest.approx((3 / 5 + 1) / 2)


@pytest.mark.parametrize("noise", [1e-7, 1e-3, 1.0])
def test_equal_to_numpy_in_float64(noise, generator):
    x = torch.randn(30, 40, generator=generator)
    x_hat = x + noise * torch.randn(30, 40, generator=generator)
    a, b = x.double().numpy(), x_hat.double().numpy()
    assert sqnr_db(x, x_hat) == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine(x, x_hat) == pytest.approx(cosines.mean())


def test_the_float_tensor_is_always_the_signal():
    assert sqnr_db(X, X_HAT) != sqnr_db(X_HAT, X)
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -math.inf
    assert sqnr_db(X, X) == math.inf


# --- divergence: scipy ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.1, 3.0])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_divergences_equal_scipys(noise, spread, generator):
    logits = spread * torch.randn(50, 10, generator=generator, dtype=torch.float64)
    changed = logits + noise * torch.randn(50, 10, generator=generator, dtype=torch.float64)
    ours = kl_divergences(logits, changed).numpy()
    p, q = softmax(logits.numpy(), axis=1), softmax(changed.numpy(), axis=1)
    # scipy sums p·log(p/q), whose terms cancel: its own error is near 1e-16.
    np.testing.assert_allclose(ours, rel_entr(p, q).sum(axis=1), rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(ours, entropy(p, q, axis=1), rtol=1e-6, atol=1e-14)
    assert kl_divergence(logits, changed) == pytest.approx(ours.mean())


def test_tiny_divergences_keep_their_digits():
    # For a small change d of the logits, KL = Var_p(d) / 2.
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5]], dtype=torch.float64)
    d = torch.tensor([[1.0, -1.0, 2.0, 0.3]], dtype=torch.float64)
    p = torch.softmax(logits, dim=1)
    variance = float((p * d.square()).sum() - (p * d).sum().square())
    for size in (1e-3, 1e-5, 1e-7):
        expected = size**2 * variance / 2
        assert kl_divergence(logits, logits + size * d) == pytest.approx(expected, rel=2e-3)


@given(tensors((3, 5), limit=1e30), tensors((3, 5), limit=1e30))
def test_divergences_are_never_negative_nor_nan(logits, changed):
    found = kl_divergences(logits, changed)
    assert found.shape == (3,)
    assert (found >= 0.0).all()
    assert kl_divergence(logits, logits) == 0.0


def test_a_constant_added_to_all_logits_changes_nothing(generator):
    logits = torch.randn(20, 10, generator=generator).double()
    assert kl_divergence(logits, logits + 7.0) == pytest.approx(0.0, abs=1e-15)


def test_swapped_arguments_give_another_divergence():
    p, q = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.0, 0.5]])
    expected = rel_entr(softmax([0.0, 3.0]), softmax([0.0, 0.5])).sum()
    assert kl_divergence(p, q) == pytest.approx(expected)
    assert kl_divergence(q, p) != pytest.approx(expected)


def test_sure_models_that_disagree_are_far_apart():
    p, q = torch.tensor([[0.0, 2000.0]]), torch.tensor([[2000.0, 0.0]])
    expected = -log_softmax([2000.0, 0.0])[1]
    assert kl_divergence(p, q) == pytest.approx(expected)


def test_classes_ruled_out_with_minus_infinity():
    inf = math.inf
    masked, other = torch.tensor([[0.0, 1.0, -inf]]), torch.tensor([[0.5, 0.0, -inf]])
    assert kl_divergence(masked, other) == pytest.approx(
        kl_divergence(masked[:, :2], other[:, :2]), rel=1e-12
    )
    full = torch.tensor([[0.0, 1.0, 2.0]])
    assert kl_divergence(full, masked) == inf
    assert kl_divergence(masked, full) == pytest.approx(
        rel_entr(softmax([0.0, 1.0, -inf]), softmax([0.0, 1.0, 2.0])).sum()
    )


def test_leading_axes_are_samples(generator):
    logits = torch.randn(2, 3, 5, generator=generator)
    changed = torch.randn(2, 3, 5, generator=generator)
    found = kl_divergences(logits, changed)
    torch.testing.assert_close(
        found.reshape(-1), kl_divergences(logits.reshape(6, 5), changed.reshape(6, 5))
    )


# --- predictions ----------------------------------------------------------------------------------


def test_agreement_by_hand():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    changed = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0], [0.0, 9.0]])
    assert top1_agreement(logits, changed) == 0.75


def test_no_samples_mean_no_loss():
    nothing = torch.empty(0, 3)
    assert kl_divergence(nothing, nothing) == 0.0
    assert top1_agreement(nothing, nothing) == 1.0
    assert cosine(nothing, nothing) == 1.0


@pytest.mark.parametrize("metric", [sqnr_db, cosine, kl_divergence, top1_agreement])
def test_shapes_that_differ_are_refused(metric):
    with pytest.raises(DataError, match=r"\(2, 2\) and \(2, 3\)"):
        metric(X, torch.zeros(2, 3))


# --- the dictionary of a tensor's errors ----------------------------------------------------------


def test_quantization_error_by_hand():
    found = calculate_quantization_error(X, None, X_HAT)
    assert found == {
        "mse": pytest.approx(17 / 4),
        "mae": pytest.approx(5 / 4),
        "snr_db": pytest.approx(10 * math.log10(29 / 17)),
        "psnr_db": pytest.approx(10 * math.log10(16 / (17 / 4))),
        "cosine_similarity": pytest.approx(11 / math.sqrt(29 * 10)),
        "relative_error": pytest.approx(5 / 9),
    }
    assert all(isinstance(value, float) for value in found.values())


def test_an_exact_stand_in_has_no_error():
    found = calculate_quantization_error(X, X.to(torch.int8), X)
    assert (found["snr_db"], found["psnr_db"]) == (math.inf, math.inf)
    assert (found["mse"], found["relative_error"], found["cosine_similarity"]) == (0.0, 0.0, 1.0)


def test_small_tensors_are_not_hidden_behind_a_floor():
    x = 1e-12 * X
    found = calculate_quantization_error(x, None, 1e-12 * X_HAT)
    assert found["snr_db"] == pytest.approx(10 * math.log10(29 / 17), rel=1e-4)
    assert found["relative_error"] == pytest.approx(5 / 9, rel=1e-4)


def test_zeros_that_do_not_stay_zeros_have_an_infinite_relative_error():
    found = calculate_quantization_error(torch.zeros(2), None, torch.ones(2))
    assert found["relative_error"] == math.inf
    assert found["snr_db"] == -math.inf


def test_empty_and_mismatched_tensors_are_refused():
    with pytest.raises(DataError, match="empty"):
        calculate_quantization_error(torch.empty(0), None, torch.empty(0))
    with pytest.raises(DataError, match="shapes"):
        calculate_quantization_error(X, None, X[0])
