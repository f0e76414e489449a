"""Cubes of known volumes, sorted by hand."""

import math

import numpy as np
import pytest

from segfocal.metrics import Lesion, LesionCounts, LesionMatch, match_lesions
from segfocal.metrics.lesion_sizes import SIZE_EDGES_MM3, lesions_by_size


def of(voxels, *, found=False, scored=True):
    return Lesion(voxels, (0.0,), 0.0, found, scored)


def counts(bins):
    return [(one.counts.lesions, one.counts.found, one.counts.false_positives) for one in bins]


def test_lesions_lie_in_the_bin_of_their_volume():
    match = LesionMatch((of(5), of(6, found=True), of(50, found=True)), (of(5), of(500)))
    bins = lesions_by_size([(match, 2.0)], [11, 100])
    assert [(one.from_mm3, one.below_mm3) for one in bins] == [
        (0, 11), (11, 100), (100, math.inf)
    ]  # fmt: skip
    assert counts(bins) == [(1, 0, 1), (1, 1, 0), (1, 1, 1)]


def test_cases_are_added_up_each_with_its_voxels():
    match = LesionMatch((of(4, found=True),), ())
    assert counts(lesions_by_size([(match, 1.0), (match, 3.0), (match, 3.0)], [10])) == [
        (1, 1, 0), (2, 2, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("edge", [0.1, 0.3, 0.7, 9.0])
def test_a_lesion_of_just_the_volume_is_in_the_bin_above(edge):
    """Voxels of a tenth of it, in float32 as NIfTI has them: ten are the edge, nine are less."""
    voxel_mm3 = float(np.float32(edge / 10))
    bins = lesions_by_size([(LesionMatch((of(9), of(10)), ()), voxel_mm3)], [edge])
    assert counts(bins) == [(1, 0, 0), (1, 0, 0)]


def test_lesions_left_out_for_their_size_are_in_no_bin():
    match = LesionMatch((of(3, scored=False), of(30)), ())
    assert sum((one.counts for one in lesions_by_size([(match, 1.0)])), LesionCounts(0, 0, 0)) == (
        match.counts
    )


def test_bins_hold_the_lesions_that_matching_counts():
    rng = np.random.default_rng(0)
    ref, pred = rng.random((2, 30, 30, 30)) > 0.93
    match = match_lesions(pred, ref)
    bins = lesions_by_size([(match, 0.7)], [1, 2, 5])
    assert sum((one.counts for one in bins), LesionCounts(0, 0, 0)) == match.counts
    sizes = np.array([lesion.voxels for lesion in match.lesions]) * 0.7
    assert [one.counts.lesions for one in bins] == np.histogram(sizes, [0, 1, 2, 5, np.inf])[
        0
    ].tolist()


def test_without_a_case_bins_are_empty():
    bins = lesions_by_size([])
    assert len(bins) == len(SIZE_EDGES_MM3) + 1
    assert counts(bins) == [(0, 0, 0)] * 5
