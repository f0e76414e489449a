import itertools
import math

import numpy as np
import pytest
import torch
from monai.metrics.utils import get_edge_surface_distance

from segfocal.metrics import surface_elements
from segfocal.metrics.surface_elements import hd95_of_elements

UNIT = (1.0, 1.0, 1.0)


def weighted_by_loop(distances, areas, share=0.95):
    """The smallest distance within which the share of the area lies."""
    total, within = sum(areas), 0.0
    for distance, area in sorted(zip(distances, areas, strict=True)):
        within += area
        if within >= share * total:
            return distance
    return max(distances)


@pytest.mark.parametrize("spacing", [UNIT, (0.5, 1.25, 4.0)])
@pytest.mark.parametrize("seed", range(4))
def test_areas_and_distances_are_monais(seed, spacing):
    rng = np.random.default_rng(seed)
    ref = np.zeros((12, 10, 9), bool)
    ref[2:8, 3:7, 1:6] = True
    pred = np.roll(ref, rng.integers(-1, 2, 3), (0, 1, 2)) & (rng.random(ref.shape) < 0.9)
    edges, distances, areas = get_edge_surface_distance(
        *(torch.from_numpy(mask) for mask in (pred, ref)),
        spacing=spacing,
        use_subvoxels=True,
        symmetric=True,
    )
    expected = max(
        weighted_by_loop(d.tolist(), a[e].tolist())
        for d, a, e in zip(distances, areas, edges, strict=True)
    )
    assert hd95_of_elements(pred, ref, spacing) == pytest.approx(expected, rel=1e-6)


def test_a_shifted_box_by_hand():
    """Two thirds of the area of a box move by a voxel or none, its far faces by three."""
    ref = np.zeros((20, 20, 20), bool)
    ref[4:12, 4:12, 4:12] = True
    assert hd95_of_elements(np.roll(ref, 3, 0), ref, UNIT) == pytest.approx(3)
    assert hd95_of_elements(np.roll(ref, 3, 2), ref, (1.0, 1.0, 2.0)) == pytest.approx(6)


def test_the_worse_direction_counts():
    ref = np.zeros((20, 8, 8), bool)
    ref[2:5, 2:5, 2:5] = True
    pred = ref.copy()
    pred[15:18, 2:5, 2:5] = True
    # every piece of the reference's surface is predicted; half of the prediction's is far away
    assert hd95_of_elements(pred, ref, UNIT) > 10
    assert hd95_of_elements(ref, pred, UNIT) == hd95_of_elements(pred, ref, UNIT)


def test_no_axis_is_taken_for_another():
    rng = np.random.default_rng(5)
    pred, ref = (rng.random((5, 6, 7)) < 0.4 for _ in range(2))
    spacing = (1.0, 2.0, 3.5)
    value = hd95_of_elements(pred, ref, spacing)
    for axes in itertools.permutations(range(3)):
        turned = hd95_of_elements(
            pred.transpose(axes), ref.transpose(axes), tuple(spacing[axis] for axis in axes)
        )
        assert turned == pytest.approx(value)


def test_distances_are_those_of_sheared_axes():
    """A step along two axes at 60 degrees is as long as one along either, not sqrt(2) of it."""
    ref = np.zeros((9, 9, 3), bool)
    ref[3, 5, 1] = True
    pred = np.roll(ref, (1, -1), (0, 1))
    at_60_degrees = np.array([[1.0, 0.5, 0.0], [0.0, math.sqrt(0.75), 0.0], [0.0, 0.0, 50.0]])
    assert hd95_of_elements(pred, ref, at_60_degrees) == pytest.approx(1)


def test_an_empty_side_is_infinitely_far():
    ref, nothing = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    ref[1, 1, 1:] = True
    assert hd95_of_elements(nothing, ref, UNIT) == math.inf
    assert hd95_of_elements(ref, nothing, UNIT) == math.inf
    assert math.isnan(hd95_of_elements(nothing, nothing, UNIT))
    assert hd95_of_elements(ref, ref, UNIT) == 0


@pytest.mark.parametrize(
    ("pred", "ref", "expected"),
    [
        ("020 100 102 210 221", "001 002 120 212", 1.4142135623730951),
        ("010 021 100 112 210", "212", 2.8284271247461903),
        ("010 101 112 202 222", "122 201 221", 2.23606797749979),
    ],
    ids=["areas", "areas of one voxel", "order of the sum"],
)
def test_a_place_of_95_percent_exactly_rounds_as_the_challenges(pred, ref, expected):
    """`surface-distance` 0.1 gave the numbers; areas in float32, or added up otherwise, do not."""
    masks = []
    for voxels in (pred, ref):
        masks.append(np.zeros((3, 3, 3), bool))
        for voxel in voxels.split():
            masks[-1][tuple(map(int, voxel))] = True
    assert hd95_of_elements(*masks, UNIT) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("code", "area"), [(0b11110000, 4), (0b11001100, 5), (0b10101010, 1)])
def test_areas_are_those_of_sheared_faces(code, area):
    """A wall across each axis, its four inner corners set: the parallelogram of the other edges."""
    edges = ((1.0, 0.0, 0.0), (0.0, 1.0, 3.0), (0.0, 0.0, 4.0))  # columns of 1, 1 and 5
    assert surface_elements._area_table(edges)[code] == pytest.approx(area)
