"""Against SimpleITK, and scipy's map_coordinates at world coordinates worked out here."""

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


def places(affine, shape=SHAPE, first=OBLIQUE):
    """Where the first grid's voxel centres lie on another, in its voxels `(3, N)`."""
    index = np.indices(shape).reshape(3, -1)
    world = first[:3, :3] @ index + first[:3, 3:]
    return np.linalg.solve(affine[:3, :3], world - affine[:3, 3:])


def expected(data, affine):
    """Linear interpolation of `data` at the voxel centres of the first grid."""
    there = places(affine)
    values = map_coordinates(data.astype(np.float64), there, order=1, mode="nearest")
    ends = np.array(data.shape)[:, None] - 0.5
    values[((there < -0.5) | (there >= ends)).any(axis=0)] = data.min()
    return values.reshape(SHAPE)


def itk_image(data, affine):
    """As ITK holds it: world coordinates to the left and to the back."""
    sitk = pytest.importorskip("SimpleITK")
    edges = np.diag([-1.0, -1.0, 1.0]) @ affine[:3]
    lengths = np.linalg.norm(edges[:, :3], axis=0)
    image = sitk.GetImageFromArray(data.transpose().astype(np.float32))
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(edges[:, 3].tolist())
    image.SetDirection((edges[:, :3] / lengths).ravel().tolist())
    return image


def itk_resampled(data, affine, shape, first):
    """`data` on the grid `first` by ITK; its smallest value beyond its field of view."""
    sitk = pytest.importorskip("SimpleITK")
    moved = sitk.Resample(
        itk_image(data, affine),
        itk_image(np.zeros(shape), first),
        sitk.Transform(),
        sitk.sitkLinear,
        float(data.min()),
    )
    return sitk.GetArrayFromImage(moved).transpose()


def resampled(folder, data, affine, shape, first):
    """`data` on the grid `first` by segfocal, from files."""
    one = save(folder / "first.nii.gz", image_of(shape), first)
    other = save(folder / "other.nii.gz", data, affine)
    return read_on_first_grid(Case("c", (one, other), None)).data[1]


def random_affine(rng, kind):
    """A turned grid of 0.7 to 3 mm round the world's origin, as a header holds it (float32)."""
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if kind == "upright":
        turned = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if kind == "sheared":
        turned = turned @ (np.eye(3) + np.triu(rng.uniform(-0.4, 0.4, (3, 3)), 1))
    affine = np.eye(4)
    affine[:3, :3] = turned * rng.uniform(0.7, 3, 3)
    return affine


def centred(affine, shape, rng):
    """The grid moved so that its middle lies within 2 mm of the world's."""
    affine = affine.copy()
    affine[:3, 3] = rng.uniform(-2, 2, 3) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("shape", [(9, 14, 6), (16, 5, 11), (12, 9, 1), (2, 2, 2)])
@pytest.mark.parametrize("kind", ["oblique", "upright", "sheared"])
@pytest.mark.parametrize("seed", range(3))
def test_a_channel_is_what_itk_makes_of_it(tmp_path, kind, shape, seed):
    rng = np.random.default_rng(seed)
    data = image_of(shape, seed)
    size = (21, 19, 17)
    affine = centred(random_affine(rng, kind), shape, rng)
    first = centred(random_affine(rng, kind), size, rng)
    ours = resampled(tmp_path, data, affine, size, first)
    itk = itk_resampled(data, affine, size, first)
    # On a face itself rounding decides what is inside.
    ends = np.array(shape)[:, None] - 0.5
    there = places(affine, size, first)
    near = np.minimum(abs(there + 0.5), abs(there - ends)).min(axis=0).reshape(size) < 2e-4
    assert near.mean() < 0.01
    beyond_centres = ((there < 0) | (there > ends - 0.5)).any(axis=0)
    assert (beyond_centres & ((there > -0.5) & (there < ends)).all(axis=0)).any()
    # The noise spans 3500; ITK's and scipy's weights come from indices that differ by 1e-6.
    np.testing.assert_allclose(ours[~near], itk[~near], atol=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_on_the_faces_of_the_outermost_voxels_itk_takes_the_lower_ones_in(tmp_path, sign):
    """1 mm voxels whose centres lie on centres and faces of 2 mm voxels; all exact in binary."""
    data, size = image_of((3, 2, 4), 2), (12, 12, 12)
    first, affine = np.eye(4), np.diag([2.0 * sign, 2.0, 2.0 * sign, 1.0])
    first[:3, 3] = -3, -3, -3
    affine[:3, 3] = 4 * (sign < 0), 0, 6 * (sign < 0)
    ours = resampled(tmp_path, data, affine, size, first)
    np.testing.assert_array_equal(ours, itk_resampled(data, affine, size, first))
    faces = places(affine, size, first)[0].reshape(size)[:, 0, 0]
    assert {-0.5, 2.5} <= set(faces.tolist())


def test_a_face_is_not_torn_where_rounding_would_decide(tmp_path):
    """0.9 mm voxels whose centres lie on two faces of 2.7 mm voxels; both turned alike."""
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    first, affine = np.eye(4), np.eye(4)
    first[:3, :3], affine[:3, :3] = 0.9 * turned, 2.7 * turned
    first[:3, 3] = turned @ (-1.35, -1.35, -1.35)  # centre 0 of the one at -0.5 of the other
    first, affine = (grid.astype(np.float32).astype(np.float64) for grid in (first, affine))
    data, size = image_of((8, 8, 8)), (25, 24, 24)
    data[0, 0, 0] = -999
    lower, upper = places(affine, size, first)[0].reshape(size)[[0, -1]]
    assert (lower < -0.5).any()
    assert (lower > -0.5).any()
    assert (upper < 7.5).any()
    ours = resampled(tmp_path, data, affine, size, first)
    assert (ours[0, 2:, 2:] > -999).all()
    assert (ours[-1] == -999).all()


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
