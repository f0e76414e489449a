import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from segfocal.metrics.surface import UNDEFINED, diagonal_mm, surface, surface_score

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.25, 4.0)]

TILTED = np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 1.8], [0.0, 0.0, 4.7]])
"""Edges of the voxels of a CT whose gantry was tilted by 21 degrees, as columns."""


def surface_by_hand(mask):
    """Voxels one of whose six neighbours is not in the mask."""
    inside = {tuple(voxel) for voxel in np.argwhere(mask)}
    steps = [s for s in itertools.product((-1, 0, 1), repeat=mask.ndim) if np.abs(s).sum() == 1]
    return [v for v in inside if any(tuple(np.add(v, step)) not in inside for step in steps)]


def by_hand(pred, ref, spacing, tolerance):
    edges = np.diag(spacing) if np.ndim(spacing) == 1 else spacing
    one, other = (
        np.einsum("ma,na->nm", edges, np.array(surface_by_hand(mask))) for mask in (pred, ref)
    )
    apart = np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1))
    there, back = apart.min(1), apart.min(0)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return hd95, both.mean(), np.mean(both <= tolerance)


@settings(deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([*SPACINGS, TILTED]), st.sampled_from([0.0, 1.0, 2.5])
)
def test_scores_equal_those_of_every_pair_of_surface_voxels(seed, spacing, tolerance):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 7, 3)
    pred, ref = (rng.random(shape) < rng.uniform(0.1, 0.9) for _ in range(2))
    pred.flat[0] = ref.flat[-1] = True
    got = surface_score(pred, ref, spacing, tolerance_mm=tolerance)
    expected = by_hand(pred, ref, spacing, tolerance)
    # the tolerance is met exactly by many distances, which are rounded in another order there
    assert (got.hd95_mm, got.assd_mm) == pytest.approx(expected[:2], rel=1e-12)
    assert got.nsd == pytest.approx(expected[2])
    assert not got.is_penalty


def blobs(seed, shape=(14, 17, 11)):
    rng = np.random.default_rng(seed)
    ref = np.zeros(shape, bool)
    for _ in range(3):
        low = rng.integers(0, 8, 3)
        ref[tuple(slice(a, a + b) for a, b in zip(low, rng.integers(2, 6, 3), strict=True))] = True
    return np.roll(ref, rng.integers(-2, 3, 3), (0, 1, 2)), ref


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_monais(seed, spacing):
    pred, ref = blobs(seed)
    got = surface_score(pred, ref, spacing, tolerance_mm=2.0)
    one, other = (torch.from_numpy(mask)[None, None] for mask in (pred, ref))
    hd95 = compute_hausdorff_distance(
        one, other, include_background=True, percentile=95, spacing=spacing
    )
    assd = compute_average_surface_distance(
        one, other, include_background=True, symmetric=True, spacing=spacing
    )
    nsd = compute_surface_dice(one, other, [2.0], include_background=True, spacing=spacing)
    # MONAI computes in float32
    assert got.hd95_mm == pytest.approx(float(hd95), rel=1e-6)
    assert got.assd_mm == pytest.approx(float(assd), rel=1e-6)
    assert got.nsd == pytest.approx(float(nsd), rel=1e-6)


def test_millimetres_follow_the_axis_of_the_shift():
    ref = np.zeros((9, 9, 9), bool)
    ref[2:5, 2:5, 2:5] = True
    for axis, spacing in enumerate((0.5, 1.0, 3.0)):
        got = surface_score(np.roll(ref, 2, axis), ref, (0.5, 1.0, 3.0), tolerance_mm=1.0)
        assert got.hd95_mm == pytest.approx(2 * spacing)


def test_what_a_header_rounds_decides_no_tolerance():
    ref = np.zeros((9, 5, 5), bool)
    ref[2:5, 2, 2] = True
    pred = np.roll(ref, 1, 1)
    for length in (2.0, 2.0000001, 1.9999999):
        assert surface_score(pred, ref, (1.0, length, 1.0), tolerance_mm=2.0).nsd == 1
    assert surface_score(pred, ref, (1.0, 2.01, 1.0), tolerance_mm=2.0).nsd == 0


def test_a_mask_is_at_no_distance_from_itself():
    _, ref = blobs(0)
    got = surface_score(ref, ref, (1.0, 2.0, 3.0), tolerance_mm=0.0)
    assert (got.hd95_mm, got.assd_mm, got.nsd, got.is_penalty) == (0, 0, 1, False)


def test_the_two_sides_are_worth_the_same():
    pred, ref = blobs(1)
    one = surface_score(pred, ref, (1.0, 2.0, 3.0), tolerance_mm=1.0)
    other = surface_score(ref, pred, (1.0, 2.0, 3.0), tolerance_mm=1.0)
    # a mean over two lists in another order
    assert astuple(other) == pytest.approx(astuple(one), rel=1e-12)


def test_a_step_along_two_sheared_axes_is_as_long_as_it_is_in_space():
    """A slice up and four rows back, nearly straight up: 4.70 mm; the edges' lengths say 5.42."""
    ref = np.zeros((3, 8, 3), bool)
    ref[1, 6, 1] = True
    pred = np.roll(ref, (-4, 1), (1, 2))
    straight = math.hypot(1.8 - 4 * 0.5, 4.7)
    for turned in (TILTED, TILTED @ np.diag([-1, 1, 1]), np.roll(TILTED, 1, 0)):
        assert surface_score(pred, ref, turned, tolerance_mm=5.0).hd95_mm == pytest.approx(straight)
    lengths = np.linalg.norm(TILTED, axis=0)
    assert surface_score(pred, ref, lengths, tolerance_mm=5.0).hd95_mm > 1.1 * straight


@pytest.mark.parametrize("missed", [True, False])
def test_an_empty_side_costs_the_diagonal_and_more_than_any_prediction(missed):
    _, ref = blobs(2)
    nothing = np.zeros_like(ref)
    pair = (nothing, ref) if missed else (ref, nothing)
    got = surface_score(*pair, (1.0, 1.0, 2.5), tolerance_mm=2.0)
    diagonal = math.sqrt(14**2 + 17**2 + (11 * 2.5) ** 2)
    assert (got.hd95_mm, got.assd_mm) == pytest.approx((diagonal, diagonal))
    assert (got.nsd, got.is_penalty) == (0, True)
    corner = np.zeros_like(ref)
    corner[-1, -1, -1] = True
    assert surface_score(corner, ref, (1.0, 1.0, 2.5), tolerance_mm=2.0).hd95_mm < got.hd95_mm


def test_two_empty_sides_have_no_score():
    nothing = np.zeros((3, 3, 3), bool)
    assert surface_score(nothing, nothing, (1.0, 1.0, 1.0), tolerance_mm=1.0) is UNDEFINED
    assert math.isnan(UNDEFINED.hd95_mm)


def test_what_is_not_valid_leaves_both_sides():
    pred, ref = blobs(3)
    valid = np.ones_like(ref)
    valid[:, 6:] = False
    got = surface_score(pred, ref, (1.0, 1.0, 1.0), valid, tolerance_mm=1.0)
    assert got == surface_score(pred & valid, ref & valid, (1.0, 1.0, 1.0), tolerance_mm=1.0)
    pred[:, 6:] = True
    assert surface_score(pred, ref, (1.0, 1.0, 1.0), valid, tolerance_mm=1.0) == got


def test_a_voxel_at_the_border_of_the_volume_is_surface():
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26
    assert diagonal_mm((2, 3, 6), (1.0, 1.0, 1.0)) == 7


@pytest.mark.parametrize("lean", [1.8, -1.8])
def test_the_diagonal_of_sheared_axes_is_the_longest_of_four(lean):
    edges = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, lean], [0.0, 0.0, 4.0]])
    corners = np.array(list(itertools.product((0, 2), (0, 3), (0, 6)))) @ edges.T
    longest = max(np.linalg.norm(one - other) for one in corners for other in corners)
    assert diagonal_mm((2, 3, 6), edges) == pytest.approx(longest)


def test_inputs_are_left_as_they_were():
    pred, ref = blobs(4)
    before = pred.copy(), ref.copy()
    surface_score(pred, ref, (1.0, 1.0, 1.0), pred | ref, tolerance_mm=1.0)
    np.testing.assert_array_equal(pred, before[0])
    np.testing.assert_array_equal(ref, before[1])


@pytest.mark.parametrize(
    "spacing",
    [
        (1.0, 1.0),
        (1.0, 1.0, 0.0),
        (1.0, 1.0, math.inf),
        np.eye(4),  # an affine with its last row
        np.ones((3, 3)),  # edges in a line
        np.diag([1.0, 1.0, math.nan]),
    ],
)
def test_a_spacing_that_is_none_is_refused(spacing):
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match=r"^spacing_mm must be one positive length for each of 3"):
        surface_score(mask, mask, spacing, tolerance_mm=1.0)
    with pytest.raises(ValueError, match=r"^tolerance_mm must be at least 0, got -1"):
        surface_score(mask, mask, (1.0, 1.0, 1.0), tolerance_mm=-1.0)


def test_a_voxel_of_both_masks_lies_at_0_mm_from_itself_where_axes_are_sheared():
    """A product of matrices rounds one row otherwise than several: 1e-16 mm are not within 0 mm."""
    sheared = np.array([[1.07, -0.85, -0.51], [0.0, 1.13, -0.2], [0.0, 0.0, 1.72]])
    pred, ref = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    pred[3, 3, 2] = True
    ref[[0, 1, 1, 3], [1, 0, 0, 3], [0, 0, 3, 2]] = True
    assert surface_score(pred, ref, sheared, tolerance_mm=0).nsd == 0.4  # that voxel, twice of five
