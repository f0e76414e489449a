"""Formulas against scikit-learn, numbers worked out by hand, and exact rational arithmetic."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from segfocal.errors import UserError
from segfocal.statistics.class_weights import SCHEMES, class_weights, compute_class_weights

counts_of_classes = st.lists(st.integers(1, 10**9), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_balanced_equals_scikit_learn(n):
    labels = np.repeat(np.arange(len(n)), n)
    expected = compute_class_weight("balanced", classes=np.arange(len(n)), y=labels)
    np.testing.assert_allclose(class_weights(n, "balanced"), expected, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(counts_of_classes)
def test_inverse_is_one_over_the_frequency(n):
    expected = [float(Fraction(sum(n), count)) for count in n]
    np.testing.assert_allclose(class_weights(n, "inverse"), expected, rtol=1e-12)
    np.testing.assert_allclose(class_weights(n, "inverse", beta=0.5), np.sqrt(expected), rtol=1e-12)
    np.testing.assert_array_equal(class_weights(n, "inverse", beta=0), np.ones(len(n)))


def test_median_frequency_by_hand():
    # Classes of 60, 30 and 10 voxels; the last is in one volume of 40 voxels only.
    # freq = .6, .3, .25; median .3.
    weights = class_weights([60, 30, 10], "median_frequency", holding=[100, 100, 40])
    np.testing.assert_allclose(weights, [0.3 / 0.6, 1.0, 0.3 / 0.25], rtol=1e-12)


def test_enet_equals_the_formula_in_decimal_arithmetic():
    # Paszke et al.: w = 1 / ln(c + p) with c = 1.02; here p is .9 and .1.
    expected = [float(1 / Decimal(total).ln()) for total in ("1.92", "1.12")]
    np.testing.assert_allclose(class_weights([900, 100], "enet"), expected, rtol=1e-12)


def test_generalized_dice_by_hand():
    np.testing.assert_allclose(class_weights([4, 10], "generalized_dice"), [0.0625, 0.01])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99, 0.999])
def test_effective_number_equals_its_geometric_sum(beta):
    # Cui et al. 2019, eq. 1: E_n = 1 + beta + beta^2 + ... + beta^(n-1)
    n = [1, 2, 17, 1000]
    expected = [1 / math.fsum(beta**k for k in range(count)) for count in n]
    np.testing.assert_allclose(
        class_weights(n, "effective_number", beta=beta), expected, rtol=1e-12
    )


def test_effective_number_does_not_cancel_for_beta_next_to_one():
    beta = 1 - 2.0**-40
    exact = Fraction(beta)
    n = [1, 2, 5]
    expected = [float((1 - exact) / (1 - exact**count)) for count in n]
    np.testing.assert_allclose(
        class_weights(n, "effective_number", beta=beta), expected, rtol=1e-13
    )
    naive = [(1 - beta) / (1 - beta**count) for count in n]
    assert not np.allclose(naive, expected, rtol=1e-13, atol=0)


def test_effective_number_without_beta_tells_voxel_counts_apart():
    # beta = 1 - 1/N: the weight is 1 / (N (1 - e^(-n/N))) up to 1/N.
    n = np.array([9_000_000, 100_000, 1_000])
    expected = 1 / (n.sum() * (1 - np.exp(-n / n.sum())))
    np.testing.assert_allclose(class_weights(n, "effective_number"), expected, rtol=1e-6)
    usual = class_weights(n * 100, "effective_number", beta=0.9999)
    np.testing.assert_allclose(usual / usual[0], [1, 1, 1], rtol=1e-4)


@pytest.mark.parametrize("beta", [0, 1e-300, 1e-17])
def test_effective_number_of_a_beta_next_to_nothing_weighs_all_alike(beta):
    np.testing.assert_array_equal(class_weights([1, 7], "effective_number", beta=beta), [1.0, 1.0])


def test_effective_number_of_a_single_voxel_is_finite():
    np.testing.assert_array_equal(class_weights([1], "effective_number"), [1.0])


@settings(max_examples=50, deadline=None)
@given(counts_of_classes, st.sampled_from(SCHEMES))
def test_a_rarer_class_never_weighs_less_and_every_weight_is_positive(n, scheme):
    weights = class_weights(n, scheme)
    order = np.argsort(n)[::-1]
    assert (weights > 0).all()
    assert np.isfinite(weights).all()
    assert (np.diff(weights[order]) >= -1e-12 * weights.max()).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), st.floats(0, 3))
def test_compute_class_weights_equals_its_published_lines(rates, beta):
    alpha = np.array([1.0 / rate**beta for rate in rates])
    alpha = alpha / alpha.mean()
    np.testing.assert_allclose(compute_class_weights(rates, beta), alpha, rtol=1e-9)
    assert compute_class_weights(rates, beta).mean() == pytest.approx(1)


def test_compute_class_weights_does_not_overflow():
    weights = compute_class_weights([1 - 1e-9, 1e-9], beta=40)
    np.testing.assert_allclose(weights, [0, 2], atol=1e-300)


@pytest.mark.parametrize("rates", [[], [0.5, 0.0], [-1.0], [np.nan], [np.inf, 1]])
def test_rates_that_are_no_frequencies_are_refused(rates):
    with pytest.raises(ValueError, match="class_rates must be positive and finite"):
        compute_class_weights(rates)


@pytest.mark.parametrize("beta", [-1, np.nan, np.inf])
def test_a_beta_that_is_no_exponent_is_refused(beta):
    with pytest.raises(ValueError, match="beta must be a finite number >= 0"):
        compute_class_weights([0.5, 0.5], beta)
    with pytest.raises(UserError, match="inverse needs a finite beta >= 0"):
        class_weights([1, 2], "inverse", beta=beta)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0, np.nan])
def test_effective_number_refuses_a_beta_outside_its_range(beta):
    with pytest.raises(UserError, match="effective_number needs 0 <= beta < 1"):
        class_weights([1, 2], "effective_number", beta=beta)


@pytest.mark.parametrize("scheme", ["balanced", "median_frequency", "enet", "generalized_dice"])
def test_a_scheme_without_beta_refuses_one(scheme):
    with pytest.raises(UserError, match=f"alpha: {scheme} has no beta. Drop loss.alpha_beta"):
        class_weights([1, 2], scheme, beta=0.9)


def test_an_unknown_scheme_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown scheme 'sqrt'\. Known: inverse, balanced, "):
        class_weights([1, 2], "sqrt")


@pytest.mark.parametrize("n", [[], [1, 0], [1, -2], [np.inf, 1], [np.nan, 1]])
def test_counts_that_are_not_positive_are_refused(n):
    with pytest.raises(ValueError, match="n must be positive counts"):
        class_weights(n, "balanced")


def test_a_power_beyond_any_number_is_refused_and_not_made_nan():
    with pytest.raises(UserError, match=r"inverse with beta 40 overflows: .* has 10 of 1e\+09"):
        class_weights([1e9 - 10, 10], "inverse", beta=40)
