"""Volumes that nobody here made. SEGFOCAL_REALDATA points at the folder that holds them."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from segfocal.data.cases import Case
from segfocal.data.layouts import list_inputs, read_dataset
from segfocal.data.layouts.found import FileRules
from segfocal.data.nifti import read_label, write_label
from segfocal.data.verify import load_case, verify_headers
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.statistics.class_alpha import class_alpha
from segfocal.statistics.voxel_counts import VoxelCounts

ROOT = os.environ.get("SEGFOCAL_REALDATA")

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not ROOT, reason="SEGFOCAL_REALDATA does not point at the real volumes"),
]

BINARY = LabelScheme(("background", "lesion"), (0, 1))
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def root():
    return Path(ROOT)


def stroke():
    folder = root() / "isles22_case0009"
    name = "sub-strokecase0009_ses-0001_{}.nii.gz"
    raw = folder / "rawdata/sub-strokecase0009/ses-0001"
    mask = folder / "derivatives/sub-strokecase0009/ses-0001" / name.format("msk")
    return {k: raw / name.format(k) for k in ("dwi", "adc", "flair")}, mask


@pytest.mark.parametrize(
    ("folder", "layout", "num_cases"),
    [("Dataset101_Sarcoma", "nnunet", 12), ("Task04_Hippocampus", "msd", 60)],
)
def test_every_case_loads_as_nibabel_reads_it(folder, layout, num_cases):
    dataset = read_dataset(root() / folder)
    assert dataset.layout == layout
    assert len(dataset.cases) == num_cases
    counts = VoxelCounts(dataset.scheme)
    expected = np.zeros(dataset.scheme.num_classes, np.int64)
    for case in dataset.cases:
        loaded = load_case(case, dataset.scheme, dataset.channels)
        oracle = [nib.load(path).get_fdata(dtype=np.float32) for path in case.images]
        np.testing.assert_array_equal(loaded.image, np.stack(oracle))
        label = np.asanyarray(nib.load(case.label).dataobj)
        np.testing.assert_array_equal(loaded.classes, label)
        expected += [np.count_nonzero(label == c) for c in range(len(expected))]
        counts.add(loaded.classes, case_id=case.case_id)
        assert verify_headers(case, dataset.channels).shape == loaded.image.shape[1:]
    assert counts.voxels.tolist() == expected.tolist()
    alpha = class_alpha(counts).weights
    assert max(alpha) / min(alpha) == pytest.approx(expected.max() / expected.min())


def test_float_label_comes_out_as_integers():
    path = root() / "Task04_Hippocampus/labelsTr/hippocampus_003.nii.gz"
    assert nib.load(path).get_data_dtype() == np.float32
    assert read_label(path).data.dtype == np.uint8


def test_oblique_stroke_case_loads_from_two_channels():
    images, mask = stroke()
    case = Case("stroke", (images["dwi"], images["adc"]), mask)
    loaded = load_case(case, BINARY, ("DWI", "ADC"))
    assert loaded.image.shape == (2, 112, 112, 73)
    assert int(loaded.classes.sum()) == 523
    np.testing.assert_allclose(loaded.zooms, 2.0, atol=1e-6)


def test_a_channel_on_another_grid_is_refused():
    images, mask = stroke()
    case = Case("stroke", (images["dwi"], images["flair"]), mask)
    with pytest.raises(UserError, match=r"^stroke: DWI is 112x112x73, FLAIR is 512x512x29\."):
        load_case(case, BINARY, ("DWI", "FLAIR"))


def test_labels_with_gaps_are_encoded_and_decoded_to_themselves():
    folder = root() / "totalsegmentator_ct"
    values = np.asanyarray(nib.load(folder / "example_seg.nii.gz").dataobj)
    declared = tuple(int(value) for value in np.unique(values))
    scheme = LabelScheme(tuple(f"class{v}" for v in declared), declared)
    case = Case("ct", (folder / "example_ct_sm.nii.gz",), folder / "example_seg.nii.gz")
    classes = load_case(case, scheme, ("CT",)).classes
    assert classes.max() == len(declared) - 1 == 41
    np.testing.assert_array_equal(scheme.decode(classes), values)
    other = Case("ct", (folder / "example_ct.nii.gz",), case.label)
    with pytest.raises(UserError, match=r"^ct: image is 122x101x112, label is 122x101x30\."):
        verify_headers(other, ("CT",))


def test_a_label_written_beside_any_of_them_has_its_grid_to_the_bit(tmp_path):
    images, mask = stroke()
    sources = [*images.values(), mask, *sorted((root() / "totalsegmentator_ct").glob("*.nii.gz"))]
    for folder in ("Dataset101_Sarcoma", "Task04_Hippocampus"):
        sources += sorted((root() / folder / "imagesTr").iterdir())[:3]
    for source in sources:
        oracle = nib.load(source)
        values = np.zeros(oracle.shape, np.uint8)
        values[3:9, 4:9, 5:9] = 1
        write_label(tmp_path / "ours.nii.gz", values, source)
        ours = nib.load(tmp_path / "ours.nii.gz")
        for field in GEOMETRY:
            np.testing.assert_array_equal(ours.header[field], oracle.header[field])
        np.testing.assert_array_equal(ours.header["pixdim"][:4], oracle.header["pixdim"][:4])
        np.testing.assert_array_equal(ours.affine, oracle.affine)
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), values)


def test_inputs_are_listed_from_both_layouts_and_neither():
    sarcoma = root() / "Dataset101_Sarcoma"
    channels = read_dataset(sarcoma).channels
    assert len(list_inputs(sarcoma / "imagesTr", channels)) == 12
    assert len(list_inputs(root() / "Task04_Hippocampus" / "imagesTr", ("MRI",))) == 60
    assert len(list_inputs(root() / "pyradiomics", ("MR",))) == 4
    with pytest.raises(UserError, match=r"holds no volume .* It holds \.md files"):
        list_inputs(root(), ("MR",))


def test_the_stroke_case_is_bids_with_a_label_in_the_derivatives():
    folder = root() / "isles22_case0009"
    rules = FileRules(("adc", "dwi"))
    dataset = read_dataset(folder, labels={"background": 0, "lesion": 1}, rules=rules)
    images, mask = stroke()
    assert (dataset.layout, dataset.channels) == ("bids", ("adc", "dwi"))
    (case,) = dataset.cases
    assert case == Case("sub-strokecase0009_ses-0001", (images["adc"], images["dwi"]), mask)
    (listed,) = list_inputs(folder, ("dwi", "adc"))
    assert listed.images == (images["dwi"], images["adc"])


def test_flair_is_resampled_onto_the_grid_of_dwi_when_asked_to():
    images, mask = stroke()
    case = Case("stroke", (images["dwi"], images["flair"]), mask)
    loaded = load_case(case, BINARY, ("DWI", "FLAIR"), resample_channels=True)
    dwi, flair = nib.load(images["dwi"]), nib.load(images["flair"])
    np.testing.assert_array_equal(loaded.image[0], dwi.get_fdata(dtype=np.float32))
    values = flair.get_fdata()
    index = np.array([[56, 56, 36], [40, 70, 30], [60, 50, 45]])
    there = nib.affines.apply_affine(np.linalg.inv(flair.affine) @ dwi.affine, index).T
    oracle = map_coordinates(values, there, order=1)
    assert oracle.min() > 0
    np.testing.assert_allclose(loaded.image[1][tuple(index.T)], oracle, rtol=1e-4)


def test_the_41_classes_of_the_ct_are_found_with_their_gaps(tmp_path):
    folder = root() / "totalsegmentator_ct"
    path = tmp_path / "ct.csv"
    path.write_text("id,image,label\nct,example_ct_sm.nii.gz,example_seg.nii.gz\n")
    dataset = read_dataset(folder, labels="auto", rules=FileRules(case_list=path))
    values = np.unique(np.asanyarray(nib.load(folder / "example_seg.nii.gz").dataobj))
    assert dataset.scheme.values == tuple(values.tolist())
    assert (dataset.scheme.num_classes, dataset.scheme.values[-1]) == (42, 117)


@pytest.mark.parametrize(("name", "lesion_voxels"), [("breast1", 143), ("brain2", 453)])
def test_nrrd_reads_as_itk_reads_it(name, lesion_voxels):
    pytest.importorskip("nrrd")
    sitk = pytest.importorskip("SimpleITK")
    rules = FileRules(image_pattern="{case}_image.nrrd", label_pattern="{case}_label.nrrd")
    labels = {"background": 0, "lesion": 1}
    dataset = read_dataset(root() / "pyradiomics", labels=labels, rules=rules)
    case = next(case for case in dataset.cases if case.case_id == name)
    loaded = load_case(case, dataset.scheme, dataset.channels)
    oracle = sitk.ReadImage(str(case.images[0]))
    np.testing.assert_array_equal(loaded.image[0], sitk.GetArrayFromImage(oracle).transpose())
    assert int(loaded.classes.sum()) == lesion_voxels
    for index in ((0, 0, 0), (10, 20, 5)):
        lps = oracle.TransformIndexToPhysicalPoint(index)
        ras = nib.affines.apply_affine(loaded.affine, index)
        np.testing.assert_allclose(ras, (-lps[0], -lps[1], lps[2]), atol=1e-4)
