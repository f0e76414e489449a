import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from segfocal.data.phantom import STAMP, write_phantom
from segfocal.data.phantom.case import Traits
from segfocal.data.phantom.geometry import Grid, ellipsoid_depth, polyline_distance
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.metrics.case_score import summarise
from segfocal.metrics.threshold_baseline import threshold_baseline

NUM_CASES = 12
FLAIR, T1GD = 0, 2
SMALL = (32, 38, 28)
TOUCHING = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "Task_PHANTOM"
    write_phantom(root, num_cases=NUM_CASES, num_test=2)
    return root


@pytest.fixture(scope="module")
def cases(phantom):
    """Name, image (X, Y, Z, 4), label (X, Y, Z), both as stored, and the two NIfTI images."""
    listed = json.loads((phantom / "dataset.json").read_text())["training"]
    loaded = []
    for entry in listed:
        image, label = nib.load(phantom / entry["image"]), nib.load(phantom / entry["label"])
        loaded.append((image, label, np.asarray(image.dataobj), np.asarray(label.dataobj)))
    return loaded


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_the_folder_is_a_data_set_in_msd_layout(phantom, cases):
    described = json.loads((phantom / "dataset.json").read_text())
    assert described["modality"] == {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}
    assert described["labels"] == {
        "0": "background",
        "1": "oedema",
        "2": "non-enhancing",
        "3": "enhancing",
        "255": "ignore",
    }
    assert described["tensorImageSize"] == "4D"
    assert (described["numTraining"], described["numTest"]) == (NUM_CASES, 2)
    assert len(described["training"]) == NUM_CASES == len(cases)
    assert all((phantom / path).exists() for path in described["test"])
    assert not list((phantom / "labelsTr").glob("*TEST*"))
    files = [path for path in phantom.rglob("*") if path.is_file()]
    assert len(files) == 2 * NUM_CASES + 2 + 1


def test_image_and_label_share_grid_and_affine(cases):
    for image, label, voxels, classes in cases:
        assert voxels.shape == (*classes.shape, 4)
        np.testing.assert_array_equal(image.affine, label.affine)
        assert (voxels.dtype, classes.dtype) == (np.int16, np.uint8)
        for file in (image, label):
            assert file.header["sform_code"] > 0
            assert file.header["qform_code"] > 0
            np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=1e-4)


def test_every_file_says_that_it_is_a_phantom(phantom):
    described = json.loads((phantom / "dataset.json").read_text())
    assert described["name"].startswith("PHANTOM")
    assert described["description"] == "SYNTHETIC PHANTOM - not clinical evidence" == STAMP
    assert described["synthetic"] is True
    for path in phantom.rglob("*.nii.gz"):
        assert nib.load(path).header["descrip"].item() == STAMP.encode()
        assert path.name.startswith("PHANTOM_")


def test_labels_are_those_of_the_msd_preset_with_ignore_255(cases):
    scheme = LabelScheme.preset("msd-task01", ignore_values=(255,))
    for _, _, _, classes in cases:
        assert scheme.undeclared(classes) == ()


def test_the_brain_is_one_piece_and_what_is_stripped_is_exactly_0_in_every_channel(cases):
    for _, _, voxels, classes in cases:
        brain = voxels > 0
        assert (voxels >= 0).all()
        np.testing.assert_array_equal(brain.all(-1), brain.any(-1))
        assert 0.15 < brain[..., 0].mean() < 0.6
        parts, number = ndimage.label(brain[..., 0], TOUCHING)
        assert np.bincount(parts.ravel())[1:].max() / brain[..., 0].sum() > 0.99, number
        lesion = (classes > 0) & (classes != 255)
        assert brain[..., 0][lesion].all()


def test_the_set_holds_each_kind_of_case(cases):
    codes = ["".join(nib.aff2axcodes(image.affine)) for image, *_ in cases]
    assert {"RAS", "LPS", "LAS", "PIR"} == set(codes)
    tilts = [nib.affines.obliquity(image.affine).max() for image, *_ in cases]
    assert sum(np.rad2deg(tilt) > 10 for tilt in tilts) >= 2
    ratios = [max(z) / min(z) for z in (image.header.get_zooms()[:3] for image, *_ in cases)]
    assert sum(ratio > 1.5 for ratio in ratios) == 1
    labels = [set(np.unique(classes)) for *_, classes in cases]
    assert sum(values <= {0, 255} for values in labels) == 1
    assert sum({1, 2} <= values and 3 not in values for values in labels) == 2
    assert sum(255 in values for values in labels) == 3


def test_stored_voxels_sit_where_the_affine_says(cases):
    # The sagittal sinus is on top: in every orientation the brain's widest slice lies below the
    # middle of its extent, and left and right half are alike while front and back are not.
    for image, _, _, _ in cases:
        upright = np.asarray(nib.as_closest_canonical(image).dataobj)[..., 0] > 0
        right, front, top = (np.flatnonzero(upright.any(axis=o)) for o in ((1, 2), (0, 2), (0, 1)))
        zooms = nib.as_closest_canonical(image).header.get_zooms()
        widths = [(v[-1] - v[0] + 1) * z for v, z in zip((right, front, top), zooms, strict=False)]
        assert widths[1] > widths[0] > 100
        top_slice = upright[:, :, top[-1] - len(top) // 12]
        low_slice = upright[:, :, top[0] + len(top) // 3]
        assert top_slice.sum() < low_slice.sum()


def test_lesions_are_1_to_5_a_case_with_satellites_of_about_10_voxels(cases):
    sizes = []
    for *_, classes in cases:
        if (classes == 255).any() or not classes.any():
            continue
        parts, number = ndimage.label(classes > 0, TOUCHING)
        assert 1 <= number <= 7
        tumour, _ = ndimage.label(classes >= 2, TOUCHING)
        sizes += np.bincount(tumour.ravel())[1:].tolist()
        assert np.bincount(parts.ravel())[1:].max() > 500
    assert sum(8 <= size <= 13 for size in sizes) >= 3


def test_the_enhancing_rim_lies_round_the_necrosis_and_the_core_inside_the_oedema(cases):
    for *_, classes in cases:
        if 3 not in classes:
            continue
        for inner, outer in ((2, (3, 255)), (3, (1, 2, 255))):
            shell = ndimage.binary_dilation(classes == inner, TOUCHING) & (classes != inner)
            assert np.isin(classes[shell], outer).mean() > 0.3


def test_unlabelled_distractors_look_like_tumour_to_a_threshold(cases):
    for _, _, voxels, classes in cases:
        if (classes == 3).sum() < 200:
            continue
        healthy = (classes == 0) & (voxels[..., 0] > 0)
        vessels = voxels[..., T1GD][healthy] > np.median(voxels[..., T1GD][classes == 3])
        assert vessels.sum() > 30
        caps = voxels[..., FLAIR][healthy] > np.median(voxels[..., FLAIR][classes == 1])
        assert caps.sum() > 30


def test_the_best_threshold_stays_below_half_on_enhancing_tumour(cases):
    scheme = LabelScheme.preset("msd-task01", ignore_values=(255,))
    pairs = [
        (np.moveaxis(voxels, -1, 0).astype(np.float32), classes) for _, _, voxels, classes in cases
    ]
    result = threshold_baseline(pairs[::2], pairs[1::2], scheme.target_names, scheme.target_classes)
    assert summarise(result.scores)["ET"].dice < 0.5
    assert result.thresholds[2].dice < 0.5
    assert result.thresholds[2].channel == T1GD


def test_a_case_is_the_same_however_many_there_are_and_each_time(tmp_path):
    write_phantom(tmp_path / "few", num_cases=2, num_test=1, shape=SMALL)
    write_phantom(tmp_path / "more", num_cases=4, num_test=2, shape=SMALL, num_threads=1)
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    del few["dataset.json"]
    assert few.items() <= more.items()


def test_no_two_cases_are_equal_and_another_seed_gives_others(tmp_path):
    write_phantom(tmp_path / "a", num_cases=6, num_test=2, shape=SMALL)
    write_phantom(tmp_path / "b", num_cases=6, num_test=2, shape=SMALL, seed=1)
    images = [
        hashlib.sha256(np.asarray(nib.load(path).dataobj).tobytes()).hexdigest()
        for root in ("a", "b")
        for path in (tmp_path / root).rglob("images*/*.nii.gz")
    ]
    assert len(images) == len(set(images)) == 16


def test_an_earlier_phantom_is_replaced_whole(tmp_path):
    write_phantom(tmp_path, num_cases=3, num_test=1, shape=SMALL)
    write_phantom(tmp_path, num_cases=2, num_test=0, shape=SMALL)
    assert sorted(path.name for path in tmp_path.rglob("*.gz")) == 2 * [
        "PHANTOM_001.nii.gz"
    ] + 2 * ["PHANTOM_002.nii.gz"]


def test_a_folder_with_anything_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "BRATS_001.nii.gz").write_bytes(b"precious")
    (tmp_path / "dataset.json").write_text('{"name": "BRATS"}')
    before = digests(tmp_path)
    with pytest.raises(UserError, match=r"holds .*, which is not the phantom's\. Pass an empty"):
        write_phantom(tmp_path, num_cases=1, shape=SMALL)
    assert digests(tmp_path) == before


def test_a_real_data_set_description_is_never_overwritten(tmp_path):
    (tmp_path / "dataset.json").write_text('{"name": "BRATS"}')
    with pytest.raises(UserError, match=r"holds dataset\.json, which is not the phantom's"):
        write_phantom(tmp_path, num_cases=1, shape=SMALL)
    assert (tmp_path / "dataset.json").read_text() == '{"name": "BRATS"}'


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_cases": 0}, r"^phantom: num_cases must be at least 1, got 0\.$"),
        ({"shape": (64, 64, 8)}, r"^phantom: shape must be at least \(24, 28, 20\), got"),
    ],
)
def test_sizes_that_make_no_brain_are_refused(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        write_phantom(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_progress_counts_every_case(tmp_path):
    seen = []
    write_phantom(
        tmp_path, num_cases=2, num_test=1, shape=SMALL, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_traits_depend_on_the_index_alone():
    assert sum(not Traits.of(index).tumour for index in range(1000)) == 1
    assert sum(Traits.of(index).anisotropic for index in range(1000)) == 1


def test_depth_in_a_sphere_is_exact_and_in_an_ellipsoid_near_its_surface():
    at = Grid((21, 23, 25), (2.0, 2.0, 2.0)).coordinates()
    radius = np.sqrt((at**2).sum(0))
    depth = ellipsoid_depth(at, (0, 0, 0), (15, 15, 15))
    np.testing.assert_allclose(depth[radius > 0], (15 - radius)[radius > 0], atol=1e-3)
    pole = np.array([0, 0, 29.0], np.float32).reshape(3, 1, 1, 1)
    assert ellipsoid_depth(pole, (0, 0, 0), (10, 20, 30)).item() == pytest.approx(1, abs=0.05)


def test_polyline_distance_equals_the_nearest_of_many_points_on_it():
    points = np.array([[-8, 0, 1], [3, 4, 0], [9, -2, -6]], float)
    at = Grid((7, 8, 9), (3.0, 3.0, 3.0)).coordinates()
    fine = np.concatenate(
        [a + np.linspace(0, 1, 2001)[:, None] * (b - a) for a, b in zip(points, points[1:])]  # noqa: B905, RUF007
    )
    gaps = np.linalg.norm(at.reshape(3, -1).T[:, None] - fine[None], axis=2).min(1)
    distance, place = polyline_distance(at, points)
    np.testing.assert_allclose(distance.ravel(), gaps, atol=1e-2)
    assert place.min() >= 0
    assert place.max() <= 1
