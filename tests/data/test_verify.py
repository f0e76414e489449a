import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.data.cases import Case
from segfocal.data.verify import encode_label, load_case, verify_headers
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

from .nifti_files import OBLIQUE, image_of, label_of, save

SHAPE = (7, 6, 5)
BINARY = LabelScheme(("background", "tumour"), (0, 1))
CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")


def four_channels(folder, *, label=None, label_affine=OBLIQUE, channel_axis=3, name="BRATS_101"):
    image = np.moveaxis(image_of((*SHAPE, 4)), 3, channel_axis)
    return Case(
        name,
        (save(folder / "image.nii.gz", image, OBLIQUE),),
        save(folder / "label.nii.gz", label_of(SHAPE) if label is None else label, label_affine),
    )


def one_file_a_channel(folder, affines=(OBLIQUE, OBLIQUE), shapes=(SHAPE, SHAPE)):
    paths = tuple(
        save(folder / f"c_{i:04d}.nii.gz", image_of(shape, i), affine)
        for i, (affine, shape) in enumerate(zip(affines, shapes, strict=True))
    )
    return Case("c", paths, save(folder / "c.nii.gz", label_of(SHAPE), OBLIQUE))


def line_of(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_case_is_loaded_as_nibabel_reads_it(tmp_path):
    case = four_channels(tmp_path)
    loaded = load_case(case, BINARY, CHANNELS)
    oracle = nib.load(case.images[0])
    np.testing.assert_array_equal(loaded.image, np.moveaxis(oracle.get_fdata(), 3, 0))
    np.testing.assert_array_equal(loaded.classes, np.asanyarray(nib.load(case.label).dataobj))
    np.testing.assert_array_equal(loaded.affine, oracle.affine)
    assert loaded.image.dtype == np.float32
    assert loaded.classes.dtype == np.uint8
    assert loaded.case_id == "BRATS_101"
    np.testing.assert_allclose(loaded.zooms, oracle.header.get_zooms()[:3], rtol=1e-6)


def test_headers_tell_the_grid_of_the_case(tmp_path):
    grid = verify_headers(four_channels(tmp_path), CHANNELS)
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine, OBLIQUE, atol=1e-5)


def test_selected_channels_are_loaded_in_order(tmp_path):
    case = four_channels(tmp_path)
    every = load_case(case, BINARY, CHANNELS).image
    some = load_case(case, BINARY, CHANNELS, select=(2, 0)).image
    np.testing.assert_array_equal(some, every[[2, 0]])


def test_a_case_without_label_has_no_classes(tmp_path):
    case = Case("p", four_channels(tmp_path).images, None)
    assert load_case(case, BINARY, CHANNELS).classes is None


def test_ignored_values_are_encoded_as_ignored(tmp_path):
    label = label_of(SHAPE, (0, 1, 9))
    scheme = LabelScheme(("background", "tumour"), (0, 1), ignore_values=(9,))
    loaded = load_case(four_channels(tmp_path, label=label), scheme, CHANNELS)
    np.testing.assert_array_equal(loaded.classes, np.where(label == 9, 255, label))


def test_brats_4_read_by_the_scheme_of_2023_gets_the_preset_as_cure(tmp_path):
    case = four_channels(tmp_path, label=label_of(SHAPE, (0, 1, 2, 4)), name="BRATS_012")
    assert line_of(load_case, case, LabelScheme.preset("brats23"), CHANNELS) == (
        "BRATS_012: label holds {0,1,2,4}; the config declares {0,1,2,3}. "
        "BraTS 2018-22 uses 4 for ET: set data.labels: brats18-22."
    )


def test_brats_3_read_by_the_scheme_of_2020_gets_the_preset_as_cure(tmp_path):
    case = four_channels(tmp_path, label=label_of(SHAPE, (0, 1, 2, 3)))
    assert line_of(load_case, case, LabelScheme.preset("brats18-22"), CHANNELS).endswith(
        "the config declares {0,1,2,4}. BraTS uses 3 for ET since 2023: set data.labels: brats23, "
        "or brats24 where other cases hold 4, the resection cavity."
    )


@pytest.mark.parametrize(("preset", "value"), [("brats23", 4), ("brats18-22", 3)])
def test_a_4_beside_a_3_is_the_convention_of_2024(preset, value):
    label = np.array([0, 1, 2, 3, 4])
    with pytest.raises(UserError) as caught:
        encode_label(label, LabelScheme.preset(preset))
    assert str(caught.value).partition(". ")[2] == (
        "In BraTS 2024 4 is the resection cavity: if these are its labels, set data.labels: "
        f"brats24; else declare {value} in data.labels."
    )
    assert encode_label(label, LabelScheme.preset("brats24")).tolist() == [0, 1, 2, 3, 4]


def test_a_4_beside_a_3_means_nothing_among_classes_without_regions():
    scheme = LabelScheme(("background", "a", "b", "c"), (0, 1, 2, 3))
    with pytest.raises(UserError, match=r"Declare 4 in data.labels, or set loss.ignore_index: 4"):
        encode_label(np.array([0, 1, 2, 3, 4]), scheme)


def test_a_mask_of_255_is_told_how_to_declare_it(tmp_path):
    case = four_channels(tmp_path, label=label_of(SHAPE, (0, 255)))
    assert line_of(load_case, case, BINARY, CHANNELS) == (
        "BRATS_101: label holds {0,255}; the config declares {0,1}. Set data.labels: "
        "{background: 0, tumour: 255} if that is tumour, or set loss.ignore_index: 255 if nobody "
        "annotated those voxels."
    )


def test_several_undeclared_values_are_listed_for_the_setting(tmp_path):
    case = four_channels(tmp_path, label=label_of(SHAPE, (0, 1, 7, 9)))
    assert line_of(load_case, case, BINARY, CHANNELS).endswith(
        "label holds {0,1,7,9}; the config declares {0,1}. Declare 7,9 in data.labels, or "
        "set loss.ignore_index: [7,9] if nobody annotated those voxels."
    )


def test_the_label_of_other_data_does_not_fill_the_screen(tmp_path):
    case = four_channels(tmp_path, label=label_of(SHAPE, tuple(range(100))))
    line = line_of(load_case, case, BINARY, CHANNELS)
    assert "{0,1,2,3,4,5,6,7,8,9,10,11 and 88 more}" in line
    assert "98 values are not declared: is this the label of other data?" in line
    assert len(line) < 200


def test_a_label_shifted_in_z_is_refused_by_millimetres(tmp_path):
    shifted = OBLIQUE.copy()
    shifted[2, 3] += 1.5
    line = line_of(load_case, four_channels(tmp_path, label_affine=shifted), BINARY, CHANNELS)
    assert line.startswith("BRATS_101: image and label affines differ by 1.5 mm in z.")


def test_the_affine_tolerance_is_the_callers(tmp_path):
    shifted = OBLIQUE.copy()
    shifted[2, 3] += 1.5
    case = four_channels(tmp_path, label_affine=shifted)
    assert load_case(case, BINARY, CHANNELS, affine_tolerance_mm=1.6).classes is not None
    with pytest.raises(UserError):
        load_case(case, BINARY, CHANNELS, affine_tolerance_mm=1.4)


def test_a_label_of_another_shape_is_refused(tmp_path):
    case = four_channels(tmp_path, label=label_of((7, 6, 4)))
    assert line_of(verify_headers, case, CHANNELS).startswith(
        "BRATS_101: image is 7x6x5, label is 7x6x4."
    )


def test_a_one_hot_label_is_refused(tmp_path):
    case = four_channels(tmp_path, label=label_of((*SHAPE, 3)))
    assert line_of(verify_headers, case, CHANNELS) == (
        "BRATS_101: label 7x6x5x3 is 4-D. Expected one integer per voxel of the image (7x6x5)."
    )


@pytest.mark.parametrize(
    ("axis", "setting", "words"),
    [
        (0, None, "4x7x6x5 is channel-first; set data.channel_dim: 0."),
        (3, 0, "7x6x5x4 is channel-last; set data.channel_dim: -1."),
        (1, None, "7x4x6x5 has its channels second; set data.channel_dim: 1."),
        (2, None, "7x6x4x5 has its channels third; set data.channel_dim: 2."),
    ],
)
def test_channels_in_another_axis_are_found_and_the_cure_works(tmp_path, axis, setting, words):
    case = four_channels(tmp_path, channel_axis=axis)
    line = line_of(load_case, case, BINARY, CHANNELS, channel_dim=setting)
    assert line == f"BRATS_101: image {words}"
    cure = int(line.rstrip(".").rsplit(" ", 1)[1])
    loaded = load_case(case, BINARY, CHANNELS, channel_dim=cure)
    np.testing.assert_array_equal(loaded.image, np.moveaxis(image_of((*SHAPE, 4)), 3, 0))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_negative_channel_dim_means_the_same_axis(tmp_path, axis):
    case = four_channels(tmp_path, channel_axis=axis)
    assert verify_headers(case, CHANNELS, channel_dim=axis - 4).shape == SHAPE


def test_a_channel_count_that_fits_no_axis_names_the_channels(tmp_path):
    line = line_of(verify_headers, four_channels(tmp_path), ("CT", "PET"))
    assert line.startswith("BRATS_101: image 7x6x5x4 holds 4 channels; expected 2 (CT, PET).")


def test_a_single_channel_where_more_are_declared_is_refused(tmp_path):
    path = save(tmp_path / "i.nii.gz", image_of(SHAPE))
    line = line_of(verify_headers, Case("c", (path,), None), ("CT", "PET"))
    assert line.startswith("c: image 7x6x5 holds 1 channel; expected 2 (CT, PET).")


def test_what_headers_leave_in_doubt_is_told_to_who_asks(tmp_path):
    case = four_channels(tmp_path)  # sheared: a qform cannot say so
    doubts = []
    verify_headers(case, CHANNELS, doubts=doubts)
    assert [(doubt.case_id, doubt.kind) for doubt in doubts] == [("BRATS_101", "forms")] * 2


@pytest.mark.parametrize("affine", [np.eye(4), OBLIQUE], ids=["two that agree", "sform alone"])
def test_forms_are_not_compared_where_they_agree_or_there_is_one(tmp_path, affine):
    image = nib.Nifti1Image(image_of(SHAPE), affine)
    image.header["qform_code"], image.header["sform_code"] = (affine[0, 1] == 0), 1
    nib.save(image, tmp_path / "i.nii.gz")
    doubts = []
    verify_headers(Case("c", (tmp_path / "i.nii.gz",), None), ("CT",), doubts=doubts)
    assert doubts == []


def test_too_few_channel_files_are_refused(tmp_path):
    line = line_of(verify_headers, one_file_a_channel(tmp_path), ("CT", "MR", "PET"))
    assert line == "c: has 2 channel files; the data has 3 channels (CT, MR, PET)."


def test_channel_files_on_other_grids_are_named_by_channel(tmp_path):
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 2
    case = one_file_a_channel(tmp_path, affines=(OBLIQUE, shifted))
    assert line_of(verify_headers, case, ("CT", "PET")).startswith(
        "c: CT and PET affines differ by 2 mm in x."
    )
    case = one_file_a_channel(tmp_path, shapes=(SHAPE, (7, 6, 9)))
    assert line_of(verify_headers, case, ("CT", "PET")).startswith("c: CT is 7x6x5, PET is 7x6x9.")


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 5, 1, 2, 2)])
def test_what_is_not_a_volume_is_refused(tmp_path, shape):
    path = save(tmp_path / "flat.nii.gz", image_of(shape))
    assert "-D (flat.nii.gz). Expected a 3-D volume" in line_of(
        verify_headers, Case("c", (path,), None), ("CT",)
    )


def test_an_axis_that_does_not_exist_is_refused(tmp_path):
    line = line_of(verify_headers, four_channels(tmp_path), CHANNELS, channel_dim=4)
    assert line == "BRATS_101: data.channel_dim: expected an axis from -4 to 3, got 4."


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_damaged_file_is_refused_with_the_case(tmp_path, which):
    case = four_channels(tmp_path)
    path = tmp_path / f"{which}.nii.gz"
    path.write_bytes(path.read_bytes()[:-5])
    assert line_of(load_case, case, BINARY, CHANNELS).startswith(f"BRATS_101: {path}: the gzip")


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    )
)
def test_encoding_equals_a_loop_over_the_declared_values(values):
    declared = sorted({0, *(int(v) for v in np.unique(values))})[:200]
    values = np.where(np.isin(values, declared), values, 0).astype(values.dtype)
    ignored = (declared[-1],) if declared[-1] != 0 else ()
    kept = [v for v in declared if v not in ignored]
    if len(kept) < 2:
        kept = [0, 1 if 1 not in ignored else 2]
    scheme = LabelScheme(tuple(f"c{v}" for v in kept), tuple(kept), ignore_values=ignored)
    expected = np.full(values.shape, 255, np.uint8)
    for index, value in enumerate(kept):
        expected[values == value] = index
    before = values.copy()
    encoded = encode_label(values, scheme)
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, expected)
    np.testing.assert_array_equal(values, before)
