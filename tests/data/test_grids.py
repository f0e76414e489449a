import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.data.grids import check_overlap, check_same_grid, corner_displacement_mm
from segfocal.errors import UserError

from .nifti_files import OBLIQUE

SHAPE = (40, 30, 20)


def check(one, other, tolerance_mm=0.1, shape=SHAPE):
    check_same_grid(("image", "label"), (shape, shape), (one, other), tolerance_mm)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, (3, 4), elements=st.floats(-2, 2)))
def test_no_voxel_moves_further_than_the_corner_reported(change):
    other = OBLIQUE.copy()
    other[:3] += change
    shape = (4, 3, 5)
    every = np.array([(*i, 1) for i in itertools.product(*map(range, shape))])
    moved = np.linalg.norm((every @ other.T - every @ OBLIQUE.T)[:, :3], axis=1)
    reported = np.linalg.norm(corner_displacement_mm(OBLIQUE, other, shape))
    np.testing.assert_allclose(reported, moved.max(), atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_along_one_axis_is_named(axis):
    other = OBLIQUE.copy()
    other[axis, 3] -= 1.5
    with pytest.raises(
        UserError, match=f"^image and label affines differ by 1.5 mm in {'xyz'[axis]}\\."
    ):
        check(OBLIQUE, other)  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_volumes_overlap_up_to_the_outer_faces_of_their_voxels(axis, sign):
    spacing = np.diag([2.0, 0.5, 3.0, 1.0])
    for voxels, apart in [(SHAPE[axis] - 0.01, False), (SHAPE[axis] + 0.01, True)]:
        other = spacing.copy()
        other[axis, 3] = sign * voxels * spacing[axis, axis]
        given = (("t1", "t2"), (SHAPE, SHAPE), (spacing, other))
        if apart:
            with pytest.raises(UserError, match=rf"^t1 and t2 do not overlap in {'xyz'[axis]}:"):
                check_overlap(*given)
        else:
            check_overlap(*given)


def test_a_small_rotation_adds_up_over_the_volume():
    angle = 0.01
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.raises(UserError, match=r"differ by up to 0\.486 mm\. Resample"):
        check(np.eye(4), turn)
    assert np.hypot(39, 29) * angle == pytest.approx(0.486, abs=5e-4)


def test_a_mirrored_axis_is_told_by_its_orientation():
    with pytest.raises(UserError, match=r"78 mm in x \(image is RAS, label LAS\)"):
        check(np.eye(4), np.diag([-1.0, 1, 1, 1]))


def test_rounding_below_the_tolerance_passes_and_above_does_not():
    other = OBLIQUE.copy()
    other[0, 3] += 0.09
    check(OBLIQUE, other)
    other[0, 3] += 0.02
    with pytest.raises(UserError, match=r"affine_tolerance_mm is 0\.1\)"):
        check(OBLIQUE, other)
    check(OBLIQUE, other, tolerance_mm=0.2)


def test_another_shape_is_told_before_the_affine():
    with pytest.raises(UserError, match=r"^image is 4x5x6, label is 4x5x7\."):
        check_same_grid(("image", "label"), ((4, 5, 6), (4, 5, 7)), (np.eye(4), OBLIQUE))
