"""Volumes that nobody here made. SEGFOCAL_REALDATA points at the folder that holds them."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segfocal.data.cases import Case
from segfocal.data.layouts import list_inputs, read_dataset
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
