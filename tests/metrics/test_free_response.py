"""Candidates and curves against a flood fill and a count at every confidence, in plain Python."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segfocal.metrics.free_response import (
    FROC_RATES,
    LesionCandidates,
    froc,
    lesion_candidates,
)
from segfocal.metrics.lesionwise import count_lesions
from tests.metrics.flood_fill import flood_fill


def by_hand(probs, ref, valid, threshold):
    lesions = flood_fill(ref & valid)
    candidates = [
        (part, max(float(probs[voxel]) for voxel in part))
        for part in flood_fill((probs > threshold) & valid)
    ]
    found = [max([sure for part, sure in candidates if part & one], default=0) for one in lesions]
    everything = set().union(*lesions)
    return sorted(found), sorted(sure for part, sure in candidates if not part & everything)


LEVELS = st.integers(0, 10).map(lambda level: level / 10)
VOLUMES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=LEVELS, fill=st.just(0.0)),
        *[hnp.arrays(np.float64, shape, elements=st.floats(0, 1), fill=LEVELS) for _ in range(2)],
    )
)


@given(VOLUMES, st.sampled_from([0.0, 0.1, 0.45]))
def test_candidates_equal_those_of_a_flood_fill(volumes, threshold):
    probs, ref, valid = volumes[0], volumes[1] > 0.7, volumes[2] < 0.9
    got = lesion_candidates(probs, ref, valid, threshold=threshold)
    told = (sorted(got.lesions.tolist()), sorted(got.false_positives.tolist()))
    assert told == by_hand(probs, ref, valid, threshold)


@given(VOLUMES, st.sampled_from([0.0, 0.1, 0.45]))
def test_all_candidates_together_find_what_the_mask_finds(volumes, threshold):
    probs, ref, valid = volumes[0], volumes[1] > 0.7, volumes[2] < 0.9
    curve = froc(lesion_candidates(probs, ref, valid, threshold=threshold))
    counts = count_lesions(probs > threshold, ref, valid)
    assert curve.num_lesions == counts.lesions
    assert (curve.found[-1:].sum(), curve.false_positives[-1:].sum()) == (
        counts.found,
        counts.false_positives,
    )


CONFIDENCES = st.lists(st.integers(0, 8).map(lambda level: level / 8), max_size=12)
CANDIDATES = st.builds(
    lambda lesions, false, cases: LesionCandidates(
        np.array(lesions, float), np.array([one for one in false if one], float), cases
    ),
    CONFIDENCES,
    CONFIDENCES,
    st.integers(1, 5),
)


@given(CANDIDATES)
def test_the_curve_equals_a_count_at_every_confidence(candidates):
    curve = froc(candidates)
    confidences = {*candidates.lesions.tolist(), *candidates.false_positives.tolist()} - {0}
    assert curve.thresholds.tolist() == sorted(confidences, reverse=True)
    area, before = 0.0, 0
    for place, least in enumerate(curve.thresholds):
        found = sum(one >= least for one in candidates.lesions)
        false = sum(one >= least for one in candidates.false_positives)
        assert (curve.found[place], curve.false_positives[place]) == (found, false)
        assert curve.false_positives_per_case[place] == false / candidates.num_cases
        if curve.num_lesions:
            assert curve.sensitivity[place] == found / curve.num_lesions
            area += (found - before) / curve.num_lesions * found / (found + false)
            before = found
    expected = area if curve.num_lesions else math.nan
    assert curve.average_precision == pytest.approx(expected, nan_ok=True)
    for rate in FROC_RATES:
        allowed = [
            sum(one >= least for one in candidates.lesions)
            for least in confidences
            if sum(one >= least for one in candidates.false_positives)
            <= rate * candidates.num_cases
        ]
        best = max(allowed, default=0) / curve.num_lesions if curve.num_lesions else math.nan
        assert curve.sensitivity_at(rate) == pytest.approx(best, nan_ok=True)


@given(CANDIDATES, CANDIDATES)
def test_cases_add_up(one, other):
    both = one + other + LesionCandidates.empty()
    assert both.num_cases == one.num_cases + other.num_cases
    curve = froc(both)
    for place, least in enumerate(curve.thresholds):
        found = sum((part.lesions >= least).sum() for part in (one, other))
        assert curve.found[place] == found


def test_a_lesion_hit_twice_counts_once_with_the_surest_hit():
    ref = np.array([[1, 1, 1, 1, 0, 0, 0]], bool)
    probs = np.array([[0.3, 0.0, 0.0, 0.8, 0.0, 0.0, 0.6]])
    for order in (slice(None), slice(None, None, -1)):
        found = lesion_candidates(probs[:, order], ref[:, order])
        assert (found.lesions.tolist(), found.false_positives.tolist()) == ([0.8], [0.6])
    curve = froc(found)
    assert (curve.average_precision, curve.sensitivity_at(0), curve.score) == (1, 1, 1)


def test_a_candidate_across_two_lesions_finds_both():
    ref = np.array([[1, 0, 1, 0, 0, 1]], bool)
    probs = np.array([[0.3, 0.9, 0.2, 0.0, 0.0, 0.1]])
    assert lesion_candidates(probs, ref).lesions.tolist() == [0.9, 0.9, 0.0]


def test_a_missed_lesion_caps_the_area():
    curve = froc(LesionCandidates(np.array([0.9, 0.0]), np.zeros(0)))
    assert (curve.average_precision, curve.sensitivity_at(8)) == (0.5, 0.5)


def test_the_score_is_the_mean_at_seven_rates():
    # 8 cases: one false positive is 1/8 a case; the second lesion costs nine
    false = np.array([0.8, *[0.5] * 8])
    curve = froc(LesionCandidates(np.array([0.7, 0.4]), false, num_cases=8))
    assert [curve.sensitivity_at(rate) for rate in FROC_RATES] == [0.5] * 4 + [1.0] * 3
    assert curve.sensitivity_at(0) == 0
    assert curve.score == pytest.approx((4 * 0.5 + 3) / 7)


def test_without_a_lesion_nothing_is_defined_but_false_positives_are_counted():
    found = lesion_candidates(np.array([[0.4, 0.0]]), np.zeros((1, 2), bool))
    curve = froc(found)
    assert curve.false_positives.tolist() == [1]
    assert math.isnan(curve.average_precision)
    assert math.isnan(curve.score)
    assert np.isnan(curve.sensitivity).all()
    nothing = froc(LesionCandidates.empty())
    assert (nothing.num_lesions, nothing.num_cases, len(nothing.thresholds)) == (0, 0, 0)


def test_lesions_without_a_candidate_are_missed_not_undefined():
    curve = froc(lesion_candidates(np.zeros((1, 2)), np.array([[True, False]])))
    assert (curve.average_precision, curve.score, curve.num_lesions) == (0, 0, 1)


def test_what_lies_under_the_ignore_label_joins_makes_and_spoils_nothing():
    ref = np.array([[1, 1, 1, 0, 0, 0, 0]], bool)
    probs = np.array([[0.9, np.nan, 0.2, 0.0, 0.6, 0.7, 0.6]])
    valid = np.array([[1, 0, 1, 1, 1, 0, 1]], bool)
    found = lesion_candidates(probs, ref, valid)
    assert (found.lesions.tolist(), found.false_positives.tolist()) == ([0.9, 0.2], [0.6, 0.6])


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_a_threshold_lies_between_0_and_1(threshold):
    with pytest.raises(ValueError, match="threshold must be at least 0 and below 1, got"):
        lesion_candidates(np.zeros((1, 2)), np.zeros((1, 2), bool), threshold=threshold)


@pytest.mark.parametrize("value", [math.nan, 1.5, -1.0])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="probs must be probabilities from 0 to 1: got"):
        lesion_candidates(np.array([[0.0, value]]), np.zeros((1, 2), bool))
