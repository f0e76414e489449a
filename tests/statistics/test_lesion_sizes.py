from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.labels import LabelScheme
from segfocal.statistics.lesion_sizes import lesion_counts, lesion_sizes

maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 0, 1, 2, 255]),
)


def flooded(mask):
    """Component sizes by a flood fill over the 26 neighbours (8 in 2-d)."""
    left = {tuple(index) for index in np.argwhere(mask)}
    sizes = []
    while left:
        front, size = [left.pop()], 0
        while front:
            voxel = front.pop()
            size += 1
            for step in product((-1, 0, 1), repeat=mask.ndim):
                neighbour = tuple(at + by for at, by in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    front.append(neighbour)
        sizes.append(size)
    return sorted(sizes)


@settings(max_examples=80, deadline=None)
@given(maps)
def test_sizes_equal_a_flood_fill_of_classes_and_regions(classes):
    groups = [(1,), (2,), (1, 2), (3,)]
    found = lesion_sizes(classes, groups)
    assert [sizes.tolist() for sizes in found] == [
        flooded(np.isin(classes, group)) for group in groups
    ]


def test_the_lesions_of_one_case_are_counted_behind_axes_of_length_1():
    classes = np.zeros((4, 5, 3), np.uint8)
    classes[0, 0, 0] = classes[3, 4, 2] = 1
    scheme = LabelScheme(("background", "lesion"), (0, 1))
    assert lesion_counts(classes, scheme).tolist() == [2]
    assert lesion_counts(classes[None, None], scheme).tolist() == [2]
    assert lesion_counts(classes[:1], scheme).tolist() == [1]
    for batch in (np.stack([classes, classes]), np.stack([classes, classes])[None]):
        with pytest.raises(ValueError, match=r"got shape \((1, )?2, 4, 5, 3\)\. Pass one volume"):
            lesion_counts(batch, scheme)


def test_ignored_voxels_join_nothing():
    classes = np.array([1, 255, 1], np.uint8).reshape(3, 1, 1)
    assert lesion_sizes(classes, [(1,)])[0].tolist() == [1, 1]


@pytest.mark.parametrize("groups", [[], [(5,)]])
def test_nothing_to_find_is_nothing_found(groups):
    found = lesion_sizes(np.zeros((2, 2, 2), np.uint8), groups)
    assert [sizes.size for sizes in found] == [0] * len(groups)
