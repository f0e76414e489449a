"""scikit-learn is the oracle of Brier score and calibration, `dice` that of Dice by threshold."""

import math
import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from segfocal.metrics import score_bins
from segfocal.metrics.calibration import (
    THRESHOLDS,
    ProbabilityTable,
    best_threshold,
    confusion_by_threshold,
    dice_by_threshold,
    probability_table,
    reliability,
)
from segfocal.metrics.overlap import dice

PLACES = st.one_of(st.floats(0, 1), st.integers(0, 100).map(lambda k: k / 100))
DRAWN = st.integers(1, 50).flatmap(
    lambda size: st.tuples(
        hnp.arrays(np.float64, size, elements=PLACES), hnp.arrays(np.bool_, size)
    )
)


@given(DRAWN)
def test_brier_score_is_scikit_learns(drawn):
    probs, ref = drawn
    expected = sklearn.metrics.brier_score_loss(ref, probs, pos_label=True)
    assert probability_table(probs, ref).brier == pytest.approx(expected, abs=1e-15)


@given(DRAWN, st.sampled_from([1, 4, 10, 20]))
def test_the_reliability_curve_is_scikit_learns(drawn, num_bins):
    probs, ref = drawn
    # numpy's linspace and a quotient differ in the last digit of some edges: keep off those alone
    ends = np.linspace(0, 1, num_bins + 1)
    probs = np.where(np.isin(probs, ends) & ~np.isin(probs, THRESHOLDS), 0.123, probs)
    found = reliability(probability_table(probs, ref), num_bins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frequency, confidence = sklearn.calibration.calibration_curve(ref, probs, n_bins=num_bins)
    held = found.voxels > 0
    np.testing.assert_allclose(found.frequency[held], frequency)
    np.testing.assert_allclose(found.confidence[held], confidence, atol=1e-15)
    assert np.isnan(found.frequency[~held]).all()
    expected = (np.abs(frequency - confidence) * found.voxels[held]).sum() / probs.size
    assert found.ece == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@given(drawn=DRAWN, place=st.integers(0, 98))
def test_dice_by_threshold_is_that_of_the_mask(kind, drawn, place):
    probs, ref = drawn[0].astype(kind), drawn[1]
    table, threshold = probability_table(probs, ref), float(THRESHOLDS[place])
    mask = probs > threshold  # as the predictor decides
    assert dice_by_threshold(table)[place] == pytest.approx(dice(mask, ref), nan_ok=True)
    counts = [one[place] for one in confusion_by_threshold(table)]
    assert counts == [(mask & ref).sum(), (mask & ~ref).sum(), (~mask & ref).sum()]


@given(DRAWN, DRAWN)
def test_a_sum_is_the_table_of_both(one, other):
    added = probability_table(*one) + probability_table(*other)
    whole = probability_table(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))
    np.testing.assert_array_equal(added.voxels, whole.voxels)
    np.testing.assert_array_equal(added.positives, whole.positives)
    np.testing.assert_allclose(added.probabilities, whole.probabilities)
    assert added.squared_errors == pytest.approx(whole.squared_errors)


def test_slabs_and_what_is_ignored_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    probs, ref = rng.random((6, 5, 4)), rng.random((6, 5, 4)) < 0.3
    valid = rng.random(probs.shape) < 0.7
    chosen = probability_table(probs[valid], ref[valid])
    probs[~valid] = np.nan
    monkeypatch.setattr(score_bins, "_SLAB_VOXELS", 21)
    found = probability_table(probs, ref, valid)
    np.testing.assert_array_equal(found.voxels, chosen.voxels)
    np.testing.assert_array_equal(found.positives, chosen.positives)
    assert found.brier == pytest.approx(chosen.brier)


def test_perfect_confidence_is_calibrated_and_its_opposite_is_not():
    ref = np.array([True, False])
    table = probability_table(np.array([1.0, 0.0]), ref)
    assert (table.brier, reliability(table).ece) == (0, 0)
    table = probability_table(np.array([0.0, 1.0]), ref)
    assert (table.brier, reliability(table).ece) == (1, 1)


def test_nothing_has_no_score():
    table = ProbabilityTable.empty()
    assert math.isnan(table.brier)
    assert math.isnan(reliability(table).ece)
    assert np.isnan(dice_by_threshold(table)).all()
    assert all(map(math.isnan, best_threshold(dice_by_threshold(table))))


def test_of_thresholds_that_are_alike_the_middle_one_is_best():
    table = probability_table(np.array([0.105, 0.955]), np.array([False, True]))
    assert best_threshold(dice_by_threshold(table)) == (0.5, 1.0)
    table = probability_table(np.array([0.605, 0.655]), np.array([False, True]))
    assert best_threshold(dice_by_threshold(table)) == (0.61, 1.0)
    absent = probability_table(np.array([0.3, 0.6]), np.array([False, False]))
    threshold, dice_there = best_threshold(dice_by_threshold(absent))
    assert (math.isnan(threshold), dice_there) == (True, 0)


def test_a_table_is_divided_into_equal_bins_alone():
    for num_bins in (7, 0, -5, 200):
        with pytest.raises(ValueError, match=rf"^num_bins must divide 100, got {num_bins}\.$"):
            reliability(ProbabilityTable.empty(), num_bins)
