import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segfocal.metrics.lesionwise import LesionCounts, count_lesions, match_lesions
from tests.metrics.flood_fill import flood_fill


def by_hand(pred, ref, valid, min_overlap):
    lesions, islands = flood_fill(ref & valid), flood_fill(pred & valid)
    painted = set().union(*islands)
    known = set().union(*lesions)
    found = sum(len(lesion & painted) >= min(min_overlap, len(lesion)) for lesion in lesions)
    return LesionCounts(len(lesions), found, sum(not island & known for island in islands))


SPARSE = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(
        *[
            hnp.arrays(np.float64, shape, elements=st.floats(0, 1), fill=st.floats(0, 1))
            for _ in range(3)
        ]
    )
)


@given(SPARSE, st.integers(1, 4))
def test_counts_equal_those_of_a_flood_fill(fields, min_overlap):
    pred, ref, valid = fields[0] > 0.7, fields[1] > 0.7, fields[2] < 0.9
    got = count_lesions(pred, ref, valid, min_overlap_voxels=min_overlap)
    assert got == by_hand(pred, ref, valid, min_overlap)


@given(SPARSE, st.integers(1, 4))
def test_lesions_by_name_are_those_of_a_flood_fill(fields, min_overlap):
    pred, ref, valid = fields[0] > 0.7, fields[1] > 0.7, fields[2] < 0.9
    got = match_lesions(pred, ref, valid, min_overlap_voxels=min_overlap)
    assert got.counts == count_lesions(pred, ref, valid, min_overlap_voxels=min_overlap)
    painted = {tuple(voxel) for voxel in np.argwhere(pred & valid)}
    known = {tuple(voxel) for voxel in np.argwhere(ref & valid)}
    lesions = [
        (len(part), len(part & painted) / len(part), tuple(np.mean(list(part), axis=0)))
        for part in flood_fill(ref & valid)
    ]
    told = [(lesion.voxels, lesion.overlap, lesion.centre) for lesion in got.lesions]
    assert flat(told) == pytest.approx(flat(lesions))
    false = [
        (len(part), 0.0, tuple(np.mean(list(part), axis=0)))
        for part in flood_fill(pred & valid)
        if not part & known
    ]
    told = [(island.voxels, island.overlap, island.centre) for island in got.false_positives]
    assert flat(told) == pytest.approx(flat(false))


def flat(parts):
    """Sizes, overlaps and centres in one order, rounded first: a mean may round either way."""
    rounded = [(size, round(share, 6), *np.round(centre, 6)) for size, share, centre in parts]
    return [number for part in sorted(rounded) for number in part]


def volume(*boxes):
    mask = np.zeros((12, 12, 12), bool)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in box)] = True
    return mask


FIRST = ((1, 3), (1, 3), (1, 3))
SECOND = ((6, 9), (6, 9), (6, 9))
ELSEWHERE = ((10, 12), (0, 2), (0, 2))


def test_counts_of_two_cases_add_up():
    assert LesionCounts(3, 1, 2) + LesionCounts(4, 2, 5) == LesionCounts(7, 3, 7)


def test_one_found_one_missed_one_made_up():
    counts = count_lesions(volume(FIRST, ELSEWHERE), volume(FIRST, SECOND))
    assert counts == LesionCounts(lesions=2, found=1, false_positives=1)
    assert counts.missed == 1
    assert counts.f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert (counts.sensitivity, counts.missed) == (1 / 2, 1)


def test_lesions_are_told_with_size_centre_and_overlap():
    pred = volume(((1, 3), (1, 3), (1, 2)), ELSEWHERE)
    found, missed = match_lesions(pred, volume(FIRST, SECOND)).lesions
    assert (found.voxels, found.centre, found.overlap, found.found) == (8, (1.5,) * 3, 0.5, True)
    assert (missed.voxels, missed.centre, missed.overlap, missed.found) == (
        27,
        (7.0,) * 3,
        0,
        False,
    )
    (island,) = match_lesions(pred, volume(FIRST, SECOND)).false_positives
    assert (island.voxels, island.centre, island.found) == (8, (10.5, 0.5, 0.5), False)


def test_nothing_has_no_lesion():
    match = match_lesions(volume(), volume())
    assert match.lesions == match.false_positives == ()
    assert math.isnan(match.counts.sensitivity)


def test_voxels_that_share_only_a_corner_are_one_lesion():
    ref = np.zeros((4, 4, 4), bool)
    ref[0, 0, 0] = ref[1, 1, 1] = True
    assert count_lesions(ref, ref).lesions == 1


def test_one_island_over_two_lesions_finds_both_and_is_no_false_positive():
    ref, pred = volume(FIRST, SECOND), volume(((0, 12), (0, 12), (0, 12)))
    assert count_lesions(pred, ref) == LesionCounts(2, 2, 0)


def test_two_islands_in_one_lesion_find_it_once():
    ref = volume(((0, 9), (0, 3), (0, 3)))
    pred = volume(((0, 2), (0, 3), (0, 3)), ((5, 7), (0, 3), (0, 3)))
    assert count_lesions(pred, ref) == LesionCounts(1, 1, 0)


def test_a_lesion_needs_the_asked_overlap_or_all_of_itself():
    ref = volume(SECOND, ((0, 1), (0, 1), (0, 2)))
    pred = volume(((6, 7), (6, 7), (6, 9)), ((0, 1), (0, 1), (0, 2)))
    found = [count_lesions(pred, ref, min_overlap_voxels=n).found for n in (1, 3, 4)]
    assert found == [2, 2, 1]


def test_a_lesion_under_the_ignore_label_is_neither_missed_nor_a_false_positive():
    ref, pred = volume(FIRST, SECOND), volume(SECOND, ELSEWHERE)
    valid = ~volume(FIRST, ELSEWHERE)
    assert count_lesions(pred, ref, valid) == LesionCounts(1, 1, 0)


def test_no_lesion_and_no_island_has_no_f1():
    nothing = np.zeros((3, 3, 3), bool)
    counts = count_lesions(nothing, nothing)
    assert counts == LesionCounts(0, 0, 0)
    assert math.isnan(counts.f1)
    assert count_lesions(volume(FIRST), volume()).f1 == 0


def test_inputs_are_left_as_they_were():
    ref, pred = volume(FIRST, SECOND), volume(SECOND)
    before = ref.copy(), pred.copy()
    count_lesions(pred, ref, volume(FIRST))
    np.testing.assert_array_equal(ref, before[0])
    np.testing.assert_array_equal(pred, before[1])


def test_an_overlap_of_0_voxels_is_refused():
    with pytest.raises(ValueError, match=r"^min_overlap_voxels must be at least 1, got 0"):
        count_lesions(volume(), volume(), min_overlap_voxels=0)


def test_tensors_count_as_the_arrays_they_hold():
    masks = np.random.default_rng(0).random((3, 6, 6, 6)) > 0.7
    assert count_lesions(*map(torch.from_numpy, masks)) == count_lesions(*masks)
