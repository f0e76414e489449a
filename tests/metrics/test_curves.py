"""scikit-learn is the oracle; the scores are drawn with ties, and packed into bins on purpose."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from segfocal.metrics.curves import (
    auroc,
    average_precision,
    precision_recall_curve,
    roc_curve,
)
from segfocal.metrics.score_bins import bin_of, score_histogram


@st.composite
def tied(draw):
    """Few scores, and a class for each voxel."""
    steps = draw(st.sampled_from([1, 2, 7, 255]))
    scores = draw(hnp.arrays(np.int64, st.integers(2, 60), elements=st.integers(0, steps)))
    positive = draw(hnp.arrays(np.bool_, scores.size))
    return scores / steps, positive


@st.composite
def packed(draw):
    """Scores of which many share one of three bins, in any order of the classes."""
    size = draw(st.integers(2, 60))
    base = draw(hnp.arrays(np.float64, size, elements=st.sampled_from([0.01, 0.4, 0.4, 0.99])))
    steps = draw(hnp.arrays(np.int64, size, elements=st.integers(0, 6)))
    positive = draw(hnp.arrays(np.bool_, size))
    return base + 1e-9 * steps, positive


@given(tied())
def test_areas_equal_scikit_learns_where_no_bin_is_mixed(drawn):
    scores, positive = drawn
    histogram = score_histogram(scores, positive)
    assert histogram.is_exact
    assume(positive.any())
    got = average_precision(histogram)
    assert got.value == pytest.approx(sklearn.metrics.average_precision_score(positive, scores))
    assert got.error == 0
    assume(not positive.all())
    got = auroc(histogram)
    assert got.value == pytest.approx(sklearn.metrics.roc_auc_score(positive, scores))
    assert got.error == 0


@given(packed())
def test_areas_lie_within_the_error_of_scikit_learns(drawn):
    scores, positive = drawn
    histogram = score_histogram(scores, positive)
    assume(positive.any())
    got = average_precision(histogram)
    exact = sklearn.metrics.average_precision_score(positive, scores)
    assert abs(got.value - exact) <= got.error + 1e-12
    assume(not positive.all())
    got = auroc(histogram)
    assert abs(got.value - sklearn.metrics.roc_auc_score(positive, scores)) <= got.error + 1e-12


@pytest.mark.parametrize("is_first", [True, False])
def test_the_error_is_reached_by_the_best_and_the_worst_order_in_a_bin(is_first):
    """Three of a class and five others in one bin, above and below it more of both."""
    own = 0.4 + 1e-12 * (np.full(3, 20) if is_first else np.arange(3))
    other = 0.4 + 1e-12 * np.arange(5, 10)
    scores = np.concatenate([own, other, [0.9, 0.8, 0.1, 0.05]])
    positive = np.array([True] * 3 + [False] * 5 + [True, False, True, False])
    assert len(np.unique(bin_of(scores[:8]))) == 1
    histogram = score_histogram(scores, positive)
    for area, exact in (
        (auroc(histogram), sklearn.metrics.roc_auc_score(positive, scores)),
        (average_precision(histogram), sklearn.metrics.average_precision_score(positive, scores)),
    ):
        assert exact - area.value == pytest.approx(area.error if is_first else -area.error)
    assert auroc(histogram).error == pytest.approx(15 / 2 / (5 * 7))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.5, 0.003])
def test_a_networks_scores_are_right_to_four_decimals(kind, share):
    """Most voxels lie below 1e-5, as a trained network's do, and some lesions among them."""
    rng = np.random.default_rng(3)
    positive = rng.random(200_000) < share
    logits = rng.normal(-12, 3, positive.size) + 7 * positive
    scores = (1 / (1 + np.exp(-logits))).astype(kind)
    histogram = score_histogram(scores, positive)
    for area, exact in (
        (auroc(histogram), sklearn.metrics.roc_auc_score(positive, scores)),
        (average_precision(histogram), sklearn.metrics.average_precision_score(positive, scores)),
    ):
        assert abs(area.value - exact) <= area.error < 1e-4
        assert area.value == pytest.approx(exact, abs=5e-5)


@given(tied())
def test_curves_pass_through_scikit_learns_points(drawn):
    scores, positive = drawn
    assume(positive.any() and not positive.all())
    histogram = score_histogram(scores, positive)
    fpr, tpr = roc_curve(histogram)
    expected = sklearn.metrics.roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])
    assert auroc(histogram).value == pytest.approx(sklearn.metrics.auc(fpr, tpr))
    precision, recall = precision_recall_curve(histogram)
    expected = sklearn.metrics.precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision, expected[0][:-1][::-1])
    np.testing.assert_allclose(recall, expected[1][:-1][::-1])


@pytest.mark.parametrize("scores", [[], [0.2, 0.7]])
def test_a_class_without_a_voxel_has_no_area(scores):
    histogram = score_histogram(np.array(scores), np.zeros(len(scores), bool))
    for area in (auroc(histogram), average_precision(histogram)):
        assert math.isnan(area.value)
        assert math.isnan(area.error)
    assert np.isnan(precision_recall_curve(histogram)[1]).all()


def test_a_class_in_every_voxel_has_precision_but_no_roc():
    histogram = score_histogram(np.array([0.2, 0.7]), np.ones(2, bool))
    assert average_precision(histogram).value == 1
    assert math.isnan(auroc(histogram).value)


def test_counts_of_a_thousand_volumes_do_not_overflow():
    histogram = score_histogram(np.array([0.2, 0.7, 0.7]), np.array([False, True, False]))
    many = histogram
    for _ in range(33):
        many = many + many
    assert many.num_positives == 2**33
    assert auroc(many).value == auroc(histogram).value == 0.75
    assert average_precision(many).value == average_precision(histogram).value == 0.5
