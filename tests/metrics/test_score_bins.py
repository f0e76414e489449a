import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segfocal.metrics import score_bins
from segfocal.metrics.score_bins import NUM_BINS, ScoreHistogram, bin_of, score_histogram

CORNERS = [0.0, -0.0, 0.5, 1.0, 2.0**-8, 2.0**-32, 1e-44, 1 - 2.0**-24, 0.1]
SCORES = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda kind: hnp.arrays(
        kind,
        st.integers(1, 40),
        elements=st.one_of(
            st.floats(0, 1, width=32),
            st.sampled_from(np.array(CORNERS, np.float32).tolist()),
        ),
    )
)


def by_hand(scores, positive):
    """Bin to (positives, negatives, score or NaN) in plain Python."""
    found = {}
    for score, bin_, is_positive in zip(scores, bin_of(scores), positive, strict=True):
        counts, held = found.setdefault(int(bin_), ([0, 0], set()))
        counts[0 if is_positive else 1] += 1
        held.add(abs(float(score)))
    return {
        bin_: (*counts, held.pop() if len(held) == 1 else np.nan)
        for bin_, (counts, held) in sorted(found.items())
    }


def told(histogram):
    columns = (histogram.positives, histogram.negatives, histogram.scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(histogram.bins.tolist(), rows, strict=True))


@given(SCORES, st.integers(0, 2**32))
def test_every_bin_holds_its_voxels_and_the_one_score_it_has(scores, seed):
    positive = np.random.default_rng(seed).random(scores.size) < 0.4
    np.testing.assert_equal(told(score_histogram(scores, positive)), by_hand(scores, positive))


@given(SCORES)
def test_bins_ascend_with_the_score_and_are_as_narrow_as_said(scores):
    order = np.sort(scores)
    bins = bin_of(order)
    assert bins.min() >= 0
    assert bins.max() < NUM_BINS
    assert (np.diff(bins) >= 0).all()
    exact = order.astype(np.float64)
    near = np.minimum(exact, 1 - exact)
    together = np.flatnonzero(np.diff(bins) == 0)
    gaps = np.diff(exact)[together]
    farther = np.maximum(near[together], near[together + 1])
    assert (gaps <= np.maximum(np.minimum(2.0**-16, farther * 2.0**-8), 2.0**-32)).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_ends_of_the_scale_are_first_and_last_bin(kind):
    assert bin_of(np.array([0, 1], kind)).tolist() == [0, NUM_BINS - 1]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [100, 255, 256, 65535, 65536])
def test_even_steps_of_up_to_16_bits_have_a_bin_each(kind, steps):
    scores = (np.arange(steps + 1) / steps).astype(kind)
    assert len(np.unique(bin_of(scores))) == steps + 1
    assert score_histogram(scores, scores > 0.5).is_exact


@given(SCORES, SCORES, st.integers(0, 2**32))
def test_a_sum_is_the_histogram_of_both(one, other, seed):
    rng = np.random.default_rng(seed)
    masks = [rng.random(part.size) < 0.5 for part in (one, other)]
    both = np.concatenate([one, other])
    whole = score_histogram(both, np.concatenate(masks))
    added = score_histogram(one, masks[0]) + score_histogram(other, masks[1])
    np.testing.assert_equal(told(added), told(whole))
    np.testing.assert_equal(told(added + ScoreHistogram.empty()), told(whole))


def test_two_scores_of_two_cases_in_one_bin_are_several_in_either_order():
    one, other = (
        score_histogram(np.array([score]), np.ones(1, bool)) for score in (0.4, 0.4 + 1e-9)
    )
    for added in (one + other, other + one, (one + other) + one, one + (other + one)):
        assert np.isnan(added.scores).tolist() == [True]
    assert (one + one).scores.tolist() == [0.4]


def test_slabs_change_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    probs = np.round(rng.random((9, 8, 7)), 2).astype(np.float32)
    probs[4] += np.float32(1e-8) * (probs[4] < 0.001)  # a second score in the first bin
    ref, valid = rng.random((2, 9, 8, 7)) < 0.6
    whole = score_histogram(probs, ref, valid)
    monkeypatch.setattr(score_bins, "_SLAB_VOXELS", 60)
    np.testing.assert_equal(told(score_histogram(probs, ref, valid)), told(whole))
    np.testing.assert_equal(told(whole), by_hand(probs[valid], ref[valid]))


def test_what_lies_under_the_ignore_label_changes_nothing():
    probs = np.array([[0.1, np.nan], [7.0, 0.9]])
    ref = np.array([[False, True], [True, True]])
    valid = np.array([[True, False], [False, True]])
    assert told(score_histogram(probs, ref, valid)) == told(
        score_histogram(np.array([0.1, 0.9]), np.array([False, True]))
    )
    nothing = score_histogram(probs, ref, valid & False)
    assert (nothing.num_positives, nothing.num_negatives, nothing.is_exact) == (0, 0, True)


def test_tensors_and_half_precision_are_taken():
    scores = torch.tensor([0.25, 0.75], dtype=torch.float16)
    found = score_histogram(scores, torch.tensor([False, True]))
    assert found.scores.tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("probs", "ref", "valid", "message"),
    [
        ([0.5, 1.5], [True, False], None, "got 0.5 to 1.5. Apply softmax or sigmoid"),
        ([-0.1, 0.5], [True, False], None, "got -0.1 to 0.5"),
        ([np.nan, 0.5], [True, False], None, "from 0 to 1: got NaN"),
        ([1, 0], [True, False], None, "probs must be floats from 0 to 1, got int64."),
        ([0.1], [1], None, "ref must be a mask: expected dtype bool, got int64."),
        ([0.1], [True], [1.0], "valid must be a mask"),
        ([0.1], [[True]], None, r"ref and probs must have one shape: got \(1, 1\) and \(1,\)"),
    ],
)
def test_what_is_no_probability_is_refused(probs, ref, valid, message):
    with pytest.raises(ValueError, match=message):
        score_histogram(np.array(probs), np.array(ref), None if valid is None else np.array(valid))
