import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.data.defects import DefectError
from segfocal.data.label_values import (
    LabelDecoder,
    count_label_values,
    value_histogram,
    without_repeats,
)
from segfocal.data.nifti import read_label
from segfocal.data.nifti_header import read_header

from .nifti_files import label_of, save

STORED = ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"]


def patched(path, slope, inter):
    raw = bytearray(path.read_bytes())
    struct.pack_into("<ff", raw, 112, slope, inter)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("stored", STORED)
def test_counts_are_those_of_numpy_whatever_the_type(tmp_path, stored):
    data = label_of((11, 9, 7), (0, 1, 2, 4, 117)).astype(stored)
    nib.save(nib.Nifti1Image(data, np.eye(4), dtype=stored), tmp_path / "l.nii.gz")
    counted = count_label_values(tmp_path / "l.nii.gz")
    values, voxels = np.unique(data.astype(np.int64), return_counts=True)
    np.testing.assert_array_equal(counted.values, values)
    np.testing.assert_array_equal(counted.voxels, voxels)
    assert counted.values.dtype == counted.voxels.dtype == np.int64
    assert counted.header.shape == (11, 9, 7)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(STORED[:7]), hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
    ).filter(lambda a: abs(int(a.min())) <= 2**53 and abs(int(a.max())) <= 2**53),
    st.booleans(),
)
def test_counting_equals_reading_then_counting(tmp_path_factory, values, big):
    folder = tmp_path_factory.mktemp("count")
    header = nib.Nifti1Header(endianness=">" if big else "<")
    image = nib.Nifti1Image(values, np.eye(4), header, dtype=values.dtype)
    nib.save(image, folder / "l.nii.gz")
    counted = count_label_values(folder / "l.nii.gz")
    expected = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(counted.values, expected[0])
    np.testing.assert_array_equal(counted.voxels, expected[1])
    np.testing.assert_array_equal(read_label(folder / "l.nii.gz").data, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_scaled_labels_give_the_integers_they_were(tmp_path, dtype):
    data = label_of((9, 8, 7), (0, 1, 2, 4))
    path = save(tmp_path / "l.nii.gz", data.astype(np.float64), dtype=dtype)
    assert nib.load(path).dataobj.slope != 1
    counted = count_label_values(path)
    expected = np.unique(data, return_counts=True)
    np.testing.assert_array_equal(counted.values, expected[0])
    np.testing.assert_array_equal(counted.voxels, expected[1])


def test_integers_under_a_whole_slope_never_become_floats(tmp_path):
    stored = np.array([0, 1, 16_777_217, 2**31 - 1], np.int32).reshape(2, 2, 1)
    path = patched(save(tmp_path / "l.nii", stored), 3.0, -1.0)
    decoded = LabelDecoder(read_header(path)).decode(stored)
    assert decoded.dtype == np.int64
    assert decoded.ravel().tolist() == [-1, 2, 50_331_650, 3 * (2**31 - 1) - 1]
    assert read_label(path).data.ravel().tolist() == decoded.ravel().tolist()


def test_every_wrong_voxel_is_counted_also_under_the_background(tmp_path):
    data = label_of((16, 16, 16), (0, 1, 3))
    data[:, :, :12] = 0
    path = patched(save(tmp_path / "l.nii", data), 1.0, 0.5)
    for read in (read_label, count_label_values):
        with pytest.raises(DefectError) as caught:
            read(path)
        assert caught.value.kind == "label-not-integer"
        assert str(caught.value) == (
            f"{path}: label holds 0.5, expected integers (4096 voxels are not). Was it resampled "
            f"with interpolation? Resample labels with nearest neighbour."
        )


@pytest.mark.parametrize(
    ("value", "stored"),
    [(1e300, "f8"), (-1e17, "f8"), (2**54, "f8"), (1e30, "f4"), (2**54, "i8"), (2**63, "u8")],
)
def test_a_number_that_is_no_label_is_refused(tmp_path, value, stored):
    data = np.zeros((4, 4, 4), stored)
    data[1, 1, 1] = value
    path = tmp_path / "l.nii.gz"
    nib.save(nib.Nifti1Image(data, np.eye(4), dtype=stored), path)
    for read in (read_label, count_label_values):
        with pytest.raises(DefectError, match=r"label holds .*, which is no label\."):
            read(path)


def test_counting_takes_less_memory_than_the_label(tmp_path):
    data = np.zeros((240, 240, 155), np.uint8)
    data[100:130, 100:140, 60:90] = 2
    path = save(tmp_path / "l.nii.gz", data)
    count_label_values(path)
    tracemalloc.start()
    counted = count_label_values(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted.voxels.tolist() == [data.size - 36_000, 36_000]
    assert peak < data.nbytes
    assert peak < 8 * data.size / 8  # an eighth of the float64 volume that nibabel makes


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(st.sampled_from(STORED), st.integers(1, 60), elements=st.integers(0, 3)),
    st.integers(0, 3),
)
def test_leaving_out_repeats_loses_only_the_first_value(values, first):
    values[: values.size // 2] = first
    left = without_repeats(values)
    expected = {v: int((values == v).sum()) for v in np.unique(values).tolist()}
    expected[values[0].item()] -= values.size - left.size
    found = {v: int((left == v).sum()) for v in expected}
    assert found == expected


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(st.sampled_from(STORED[:8]), st.integers(1, 40)))
def test_the_histogram_of_any_integers_equals_unique(values):
    if values.max() > 2**62:
        values = values // 4
    found, occurrences = value_histogram(values)
    expected = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_array_equal(occurrences, expected[1])
