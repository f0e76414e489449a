"""Against scipy's own map_coordinates at world coordinates worked out here."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from segfocal.data.cases import Case
from segfocal.data.resample import read_on_first_grid
from segfocal.data.verify import load_case, verify_headers
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

from .nifti_files import OBLIQUE, image_of, label_of, save

SHAPE, OTHER = (12, 10, 8), (9, 14, 6)
SCHEME = LabelScheme(("background", "lesion"), (0, 1))


def other_grid():
    """Twice rotated against OBLIQUE, overlapping it in part."""
    affine = OBLIQUE.copy()
    affine[:3, :3] = OBLIQUE[:3, :3] @ np.array([[0, 0.8, 0], [1.2, 0, 0], [0, 0.1, 1.1]])
    affine[:3, 3] += (2.0, 3.0, -4.0)
    return affine


@pytest.fixture
def case(tmp_path):
    first = save(tmp_path / "dwi.nii.gz", image_of(SHAPE), OBLIQUE)
    second = save(tmp_path / "flair.nii.gz", image_of(OTHER, 1), other_grid())
    label = save(tmp_path / "label.nii.gz", label_of(SHAPE), OBLIQUE)
    return Case("c", (first, second), label)


def expected(data, affine):
    """Linear interpolation of `data` at the voxel centres of the first grid."""
    index = np.indices(SHAPE).reshape(3, -1)
    world = OBLIQUE[:3, :3] @ index + OBLIQUE[:3, 3:]
    there = np.linalg.solve(affine[:3, :3], world - affine[:3, 3:])
    values = map_coordinates(
        data.astype(np.float64), there, order=1, mode="constant", cval=data.min()
    )
    return values.reshape(SHAPE)


def test_a_channel_is_interpolated_where_the_first_has_its_voxels(case):
    loaded = load_case(case, SCHEME, ("dwi", "flair"), resample_channels=True)
    np.testing.assert_array_equal(loaded.image[0], image_of(SHAPE))
    oracle = expected(image_of(OTHER, 1), other_grid())
    inside = oracle > image_of(OTHER, 1).min()
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_allclose(loaded.image[1], oracle, atol=0.5)
    assert loaded.classes.shape == SHAPE


def test_without_being_asked_to_it_is_refused_with_the_cure(case):
    with pytest.raises(UserError) as caught:
        load_case(case, SCHEME, ("dwi", "flair"))
    assert str(caught.value) == (
        "c: dwi is 12x10x8, flair is 9x14x6. Resample one onto the other's grid, or check that "
        "they belong together. To have the channel resampled, set data.resample_channels: true."
    )


def test_a_selection_keeps_the_first_files_grid(case):
    alone = read_on_first_grid(case, [1])
    both = read_on_first_grid(case)
    np.testing.assert_array_equal(alone.data[0], both.data[1])
    np.testing.assert_array_equal(alone.affine, both.affine)


def test_channels_on_one_grid_are_read_as_they_are(tmp_path, case):
    same = save(tmp_path / "adc.nii.gz", image_of(SHAPE, 3), OBLIQUE)
    volume = read_on_first_grid(Case("c", (case.images[0], same), None))
    np.testing.assert_array_equal(volume.data[1], image_of(SHAPE, 3))


def test_a_label_on_another_grid_is_refused_all_the_same(tmp_path, case):
    label = save(tmp_path / "bad.nii.gz", label_of(OTHER), other_grid())
    with pytest.raises(UserError, match=r"^c: image is 12x10x8, label is 9x14x6\."):
        verify_headers(Case("c", case.images, label), ("dwi", "flair"), resample_channels=True)


def test_a_channel_that_lies_elsewhere_is_refused(tmp_path, case):
    away = other_grid()
    away[2, 3] += 500
    far = save(tmp_path / "far.nii.gz", image_of(OTHER), away)
    with pytest.raises(UserError) as caught:
        verify_headers(Case("c", (case.images[0], far), None), ("dwi", "flair"),
                       resample_channels=True)  # fmt: skip
    assert str(caught.value) == (
        "c: dwi and flair do not overlap in z: nothing to resample. Check that they belong "
        "together."
    )
