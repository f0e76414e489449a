import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.data.cases import Case
from segfocal.data.nifti import (
    Volume,
    read_image,
    read_label,
    smallest_integer,
    write_array,
    write_label,
)
from segfocal.data.nifti_header import read_header
from segfocal.data.phantom.stamp import STAMP
from segfocal.data.verify import verify_headers
from segfocal.errors import UserError

from .nifti_files import OBLIQUE, image_of, label_of, save

GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def case(*paths):
    return Case("BRATS_045", tuple(paths), None)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_image_equals_nibabels_reading(tmp_path, name, kind, dtype):
    path = save(tmp_path / name, image_of((7, 5, 3)).astype(dtype), OBLIQUE, kind=kind)
    volume = read_image(case(path))
    assert volume.data.dtype == np.float32
    assert volume.data.shape == (1, 7, 5, 3)
    assert volume.data.flags.c_contiguous
    assert volume.data.flags.writeable
    oracle = nib.load(path)
    np.testing.assert_array_equal(volume.data[0], oracle.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, oracle.affine)
    np.testing.assert_allclose(volume.zooms, oracle.header.get_zooms(), rtol=1e-6)


def test_big_endian_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(image_of((4, 3, 2)).astype(">i2"), OBLIQUE, header)
    nib.save(image, tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == struct.pack(">i", 348)
    np.testing.assert_array_equal(read_image(case(tmp_path / "b.nii")).data[0], image.dataobj)
    assert read_label(tmp_path / "b.nii").data.dtype.isnative


def test_four_dimensional_image_puts_channels_first(tmp_path):
    data = image_of((7, 5, 3, 4))
    volume = read_image(case(save(tmp_path / "m.nii.gz", data)))
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, 3, 0))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_channel_dim_names_the_axis_on_disk(tmp_path, axis):
    data = image_of((4, 7, 5, 3))
    path = save(tmp_path / "m.nii.gz", np.moveaxis(data, 0, axis))
    np.testing.assert_array_equal(read_image(case(path), channel_dim=axis).data, data)
    for beyond in (4, -5):
        with pytest.raises(UserError, match=rf"expected an axis from -4 to 3, got {beyond}\.$"):
            read_image(case(path), channel_dim=beyond)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -4])
def test_a_single_slice_may_have_its_channels_along_any_axis(tmp_path, axis):
    data = image_of((4, 7, 5, 1))
    path = save(tmp_path / "m.nii.gz", np.moveaxis(data, 0, axis))
    np.testing.assert_array_equal(read_image(case(path), channel_dim=axis).data, data)
    assert read_header(path).spatial_shape(axis) == (7, 5, 1)
    headers = verify_headers(case(path), ("a", "b", "c", "d"), channel_dim=axis)
    assert headers.shape == (7, 5, 1)


@pytest.mark.parametrize("shape", [(7, 5, 3, 1), (7, 5, 3, 1, 1)])
def test_axes_of_length_one_behind_the_third_are_dropped(tmp_path, shape):
    path = save(tmp_path / "one.nii.gz", image_of(shape))
    assert read_image(case(path)).data.shape == (1, 7, 5, 3)


def test_nifti_vector_image_has_its_channels_in_the_fifth_axis(tmp_path):
    data = image_of((7, 5, 3, 1, 2))
    path = save(tmp_path / "vector.nii.gz", data)
    np.testing.assert_array_equal(read_image(case(path)).data, np.moveaxis(data[:, :, :, 0], 3, 0))


def test_selected_channels_come_in_the_order_asked_for(tmp_path):
    data = image_of((7, 5, 3, 4))
    together = case(save(tmp_path / "m.nii.gz", data))
    apart = case(*(save(tmp_path / f"{i}.nii.gz", data[..., i]) for i in range(4)))
    for one in (together, apart):
        np.testing.assert_array_equal(
            read_image(one, channels=(3, 0)).data, np.moveaxis(data[..., [3, 0]], 3, 0)
        )
    with pytest.raises(UserError, match=r"BRATS_045: channel 4 .* the image holds 4"):
        read_image(together, channels=(0, 4))


def test_a_channel_that_was_not_selected_is_not_read(tmp_path):
    good = save(tmp_path / "0.nii.gz", image_of((7, 5, 3)))
    assert read_image(case(good, tmp_path / "gone.nii.gz"), channels=(0,)).data.shape[0] == 1


def test_scaled_image_equals_nibabels_reading(tmp_path):
    image = nib.Nifti1Image(image_of((7, 5, 3)), np.eye(4))
    raw = bytearray(image.to_bytes())
    raw[112:120] = struct.pack("<ff", 0.25, -17.0)
    (tmp_path / "s.nii").write_bytes(raw)
    oracle = nib.load(tmp_path / "s.nii").get_fdata(dtype=np.float32)
    assert oracle.max() < 1000
    np.testing.assert_allclose(read_image(case(tmp_path / "s.nii")).data[0], oracle, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_voxels_that_are_not_finite_are_refused_by_case(tmp_path, bad):
    data = np.ones((4, 4, 4))
    data[1, 2, 3] = bad
    path = save(tmp_path / "n.nii.gz", data)
    with pytest.raises(UserError, match=r"^BRATS_045: n.nii.gz: 1 of 64 voxels are NaN, infinite"):
        read_image(case(path))


def test_opposite_infinities_do_not_hide_each_other(tmp_path):
    data = np.zeros((2, 2, 2))
    data[0, 0] = np.inf, -np.inf
    with pytest.raises(UserError, match="2 of 8 voxels"):
        read_image(case(save(tmp_path / "n.nii.gz", data)))


def test_the_largest_float32_is_accepted(tmp_path):
    data = np.full((8, 8, 8), np.finfo(np.float32).max)
    assert np.isfinite(read_image(case(save(tmp_path / "max.nii", data))).data).all()


def broken(raw, how):
    if how == "half":
        return raw[: len(raw) // 2]
    if how == "no trailer":
        return raw[:-8]
    if how == "one trailing byte lost":
        return raw[:-1]
    if how == "checksum":
        return raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:]
    if how == "length":
        return raw[:-1] + bytes([raw[-1] ^ 1])
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 0xFF
    return bytes(flipped)


@pytest.mark.parametrize(
    "how", ["half", "no trailer", "one trailing byte lost", "checksum", "length", "flipped byte"]
)
def test_damaged_gzip_is_refused_by_file(tmp_path, how):
    path = save(tmp_path / "d.nii.gz", image_of((16, 16, 16)))
    path.write_bytes(broken(path.read_bytes(), how))
    with pytest.raises(UserError, match=r"d\.nii\.gz: the gzip stream is (cut short|damaged)"):
        read_label(path)
    with pytest.raises(UserError, match=r"^BRATS_045: .*d\.nii\.gz: the gzip stream is"):
        read_image(case(path))


def test_a_whole_gzip_of_too_few_voxels_is_refused(tmp_path):
    path = save(tmp_path / "d.nii.gz", image_of((4, 4, 4)))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-2]))
    with pytest.raises(UserError, match=r"is cut short: 4x4x4 int16 needs 480 bytes.* has 478\."):
        read_label(path)


def test_gzip_in_several_members_is_read(tmp_path):
    path = save(tmp_path / "m.nii.gz", data := label_of((4, 4, 4)))
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:300]) + gzip.compress(raw[300:]))
    np.testing.assert_array_equal(read_label(path).data, data)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"<html>404</html>" * 50, "is not a NIfTI file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a NIfTI file"),
        (gzip.compress(b"x" * 1000, mtime=0), "is not a NIfTI file"),
    ],
)
def test_what_is_not_nifti_is_called_so(tmp_path, content, text):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    for read in (read_label, read_header):
        with pytest.raises(
            UserError, match=rf"{text}\. Expected .* Copy or convert the file again"
        ):
            read(path)


def patched(path, offset, form, *values):
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, offset, *values)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("offset", "form", "values", "text"),
    [
        (40, "<2h", (3, -4), "makes no sense"),
        (40, "<h", (0,), "makes no sense"),
        (70, "<h", (32,), "complex64 numbers"),
        (70, "<h", (128,), "numbers. Expected integers or"),
        (70, "<h", (999,), "makes no sense"),
        (280, "<4f", (0, 0, 0, 0), "affine is singular"),
        (280, "<f", (float("nan"),), "affine is singular or not finite"),
        (344, "<4s", (b"ni1\0",), "hdr/.img pair"),
        (42, "<h", (30000,), "is cut short"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused_by_file(tmp_path, offset, form, values, text):
    path = save(tmp_path / "h.nii", image_of((4, 4, 4)))
    patched(path, offset, form, *values)
    with pytest.raises(UserError, match=f"h.nii: .*{text}") as caught:
        read_label(path)
    cures = ("file again.", "Mend the header.", "to one of these.", "to one .nii.gz file.")
    assert str(caught.value).endswith(cures)


def test_pixdim_zero_of_zero_is_read_as_one(tmp_path):
    path = save(tmp_path / "q.nii", image_of((4, 4, 4)), codes=(1, 0))
    patched(path, 76, "<f", 0.0)
    np.testing.assert_allclose(read_header(path).affine, nib.load(path).affine)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
def test_zooms_are_in_millimetres_whatever_the_unit(tmp_path, unit, factor):
    image = nib.Nifti1Image(image_of((4, 4, 4)), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "u.nii")
    np.testing.assert_allclose(
        read_header(tmp_path / "u.nii").zooms, np.array([2.0, 3.0, 4.0]) * factor
    )


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
def test_the_affine_is_in_millimetres_and_written_in_the_files_unit(tmp_path, unit, factor):
    image = nib.Nifti1Image(image_of((4, 5, 6)), OBLIQUE)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "u.nii")
    header = read_header(tmp_path / "u.nii")
    np.testing.assert_allclose(header.affine[:3], OBLIQUE[:3] * factor, rtol=1e-6)
    write_label(tmp_path / "w.nii", label_of((4, 5, 6)), tmp_path / "u.nii")
    written = nib.load(tmp_path / "w.nii")
    np.testing.assert_allclose(written.affine, OBLIQUE, rtol=1e-6)
    assert written.header.get_xyzt_units()[0] == unit


def test_a_header_needs_only_the_start_of_the_file(tmp_path):
    path = save(tmp_path / "h.nii.gz", np.random.default_rng(0).normal(size=(40, 40, 40)), OBLIQUE)
    path.write_bytes(path.read_bytes()[:100_000])
    header = read_header(path)
    assert header.shape == (40, 40, 40)
    np.testing.assert_allclose(header.affine, OBLIQUE, atol=1e-5)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"^.*gone.nii.gz: does not exist\. Copy it there\.$"):
        read_label(tmp_path / "gone.nii.gz")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_label(tmp_path)


def test_two_dimensional_image_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected a 3-D volume.*got 5x4 \(2-D\)"):
        read_image(case(save(tmp_path / "flat.nii", image_of((5, 4)))))


def test_channel_files_of_different_shape_are_named(tmp_path):
    one = save(tmp_path / "c_0000.nii.gz", image_of((5, 4, 3)))
    other = save(tmp_path / "c_0001.nii.gz", image_of((5, 4, 2)))
    with pytest.raises(UserError, match=r"c_0000.nii.gz is 5x4x3, c_0001.nii.gz is 5x4x2"):
        read_image(case(one, other))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [(np.uint8, np.uint8), (np.uint16, np.uint8), (np.int32, np.uint8), (np.float32, np.uint8),
     (np.float64, np.uint8)],
)  # fmt: skip
def test_label_comes_in_the_smallest_integer_type(tmp_path, stored, expected):
    data = label_of((6, 5, 4), (0, 1, 2, 4))
    label = read_label(save(tmp_path / "l.nii.gz", data.astype(stored), OBLIQUE)).data
    assert label.dtype == expected
    assert label.flags.c_contiguous
    assert label.flags.writeable
    np.testing.assert_array_equal(label, data)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.int8, np.int16, np.int32, np.uint16, np.uint32]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
    )
)
def test_labels_survive_a_round_trip(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("trip")
    source = save(folder / "s.nii", np.zeros(values.shape, np.int16), OBLIQUE)
    write_label(folder / "l.nii.gz", values, source)
    np.testing.assert_array_equal(read_label(folder / "l.nii.gz").data, values)
    np.testing.assert_array_equal(nib.load(folder / "l.nii.gz").dataobj, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("values", [(0, 1, 2, 4), (0, 1), (0, 3)])
def test_labels_that_a_writer_scaled_come_out_as_the_integers_they_were(tmp_path, dtype, values):
    data = label_of((6, 5, 4), values)
    path = save(tmp_path / "l.nii.gz", data.astype(np.float64), dtype=dtype)
    oracle = nib.load(path)
    assert oracle.dataobj.slope != 1.0
    np.testing.assert_array_equal(read_label(path).data, data)


@pytest.mark.parametrize(("slope", "inter"), [(1.0, 0.5), (0.5, 0.0), (0.3, 0.0)])
def test_scaling_that_gives_fractions_is_refused(tmp_path, slope, inter):
    path = save(tmp_path / "l.nii", label_of((4, 4, 4), (0, 1, 3)))
    patched(path, 112, "<ff", slope, inter)
    with pytest.raises(UserError, match="expected integers"):
        read_label(path)


def test_scaling_by_whole_numbers_is_applied(tmp_path):
    data = label_of((4, 4, 4), (0, 1, 3))
    path = save(tmp_path / "l.nii", data)
    patched(path, 112, "<ff", 2.0, 1.0)
    np.testing.assert_array_equal(read_label(path).data, 2 * data.astype(int) + 1)


@pytest.mark.parametrize("bad", [1.5, 0.99, np.nan, np.inf])
def test_a_float_label_that_is_no_integer_is_refused_by_file(tmp_path, bad):
    data = label_of((4, 4, 4)).astype(np.float32)
    data[1, 1, 1] = bad
    path = save(tmp_path / "half.nii.gz", data)
    with pytest.raises(UserError, match=rf"half.nii.gz: label holds {bad:g}, expected integers"):
        read_label(path)


def test_float_rounding_in_a_label_is_forgiven(tmp_path):
    data = label_of((4, 4, 4), (0, 1, 2))
    noisy = data + np.float32(4e-4)
    np.testing.assert_array_equal(read_label(save(tmp_path / "r.nii.gz", noisy)).data, data)


def test_one_hot_label_is_refused(tmp_path):
    path = save(tmp_path / "hot.nii.gz", label_of((5, 4, 3, 2)))
    with pytest.raises(UserError, match=r"expected a 3-D label.* got 5x4x3x2"):
        read_label(path)


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (2, 0), (0, 0), (1, 4)])
def test_written_label_has_the_sources_grid_to_the_bit(tmp_path, name, kind, codes):
    source = save(tmp_path / "s.nii.gz", image_of((7, 5, 3, 2)), OBLIQUE, codes=codes, kind=kind)
    values = label_of((7, 5, 3), (0, 1, 4))
    write_label(tmp_path / name, values, source)
    oracle, ours = nib.load(source), nib.load(tmp_path / name)
    for field in GEOMETRY:
        np.testing.assert_array_equal(ours.header[field], oracle.header[field], err_msg=field)
    np.testing.assert_array_equal(ours.header["pixdim"][:4], oracle.header["pixdim"][:4])
    np.testing.assert_array_equal(ours.affine, oracle.affine)
    assert type(ours) is kind
    assert ours.shape == (7, 5, 3)
    assert ours.get_data_dtype() == np.uint8
    assert ours.dataobj.slope == 1
    assert ours.dataobj.inter == 0
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), values)


def test_qform_and_sform_that_disagree_are_both_kept(tmp_path):
    image = nib.Nifti1Image(image_of((5, 4, 3)), OBLIQUE)
    image.header.set_sform(OBLIQUE, 2)
    image.header.set_qform(np.diag([-1.0, 1.0, 2.0, 1.0]), 1)
    nib.save(image, tmp_path / "s.nii.gz")
    oracle = nib.load(tmp_path / "s.nii.gz")
    write_label(tmp_path / "o.nii.gz", label_of((5, 4, 3)), tmp_path / "s.nii.gz")
    ours = nib.load(tmp_path / "o.nii.gz")
    np.testing.assert_array_equal(ours.get_qform(), oracle.get_qform())
    np.testing.assert_array_equal(ours.get_sform(), oracle.get_sform())
    assert not np.allclose(ours.get_qform(), ours.get_sform())


def test_written_label_takes_no_text_of_the_source(tmp_path):
    image = nib.Nifti1Image(image_of((5, 4, 3)), np.eye(4))
    image.header["descrip"] = b"John Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 1950"))
    nib.save(image, tmp_path / "s.nii")
    write_label(tmp_path / "o.nii", label_of((5, 4, 3)), tmp_path / "s.nii")
    written = (tmp_path / "o.nii").read_bytes()
    assert b"John" not in written
    assert b"1950" not in written
    assert len(written) == 352 + 60


@pytest.mark.parametrize("write", [write_label, write_array])
def test_what_is_made_of_the_phantom_says_so(tmp_path, write):
    values = label_of((5, 4, 3))
    image = nib.Nifti1Image(image_of((5, 4, 3)), np.eye(4))
    nib.save(image, tmp_path / "real.nii")
    image.header["descrip"] = STAMP
    nib.save(image, tmp_path / "phantom.nii")
    write(tmp_path / "a.nii", values, tmp_path / "real.nii")
    write(tmp_path / "b.nii", values, tmp_path / "phantom.nii")
    write(tmp_path / "c.nii", values, tmp_path / "real.nii", synthetic=True)
    headers = [nib.load(tmp_path / f"{name}.nii").header for name in "abc"]
    said = [bytes(header["descrip"]).rstrip(b"\0") for header in headers]
    assert said == [b"", STAMP.encode(), STAMP.encode()]


def test_a_volume_serves_as_source_as_its_file_does(tmp_path):
    source = save(tmp_path / "s.nii.gz", image_of((7, 5, 3, 2)), OBLIQUE)
    values = label_of((7, 5, 3))
    write_label(tmp_path / "a.nii.gz", values, source)
    write_label(tmp_path / "b.nii.gz", values, read_image(case(source)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_channel_first_source_lends_its_spatial_grid_through_the_volume(tmp_path):
    source = save(tmp_path / "s.nii.gz", image_of((2, 7, 5, 3)), OBLIQUE)
    volume = read_image(case(source), channel_dim=0)
    write_label(tmp_path / "o.nii.gz", values := label_of((7, 5, 3)), volume)
    np.testing.assert_array_equal(read_label(tmp_path / "o.nii.gz").data, values)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_a_file_with_its_channels_anywhere_lends_its_spatial_grid(tmp_path, axis):
    source = save(tmp_path / "s.nii.gz", np.moveaxis(image_of((7, 5, 3, 2)), 3, axis), OBLIQUE)
    write_label(tmp_path / "o.nii.gz", values := label_of((7, 5, 3)), source, channel_dim=axis)
    written = nib.load(tmp_path / "o.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), values)
    np.testing.assert_array_equal(written.affine, nib.load(source).affine)
    assert written.header.get_zooms() == nib.load(source).header.get_zooms()[:3]


def test_neither_time_nor_file_name_enters_the_bytes(tmp_path):
    source = save(tmp_path / "s.nii.gz", image_of((5, 4, 3)))
    write_label(tmp_path / "patient.nii.gz", label_of((5, 4, 3)), source)
    raw = (tmp_path / "patient.nii.gz").read_bytes()
    flags, time_stamp = raw[3], raw[4:8]
    assert flags == 0
    assert time_stamp == bytes(4)


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_memory_order_does_not_change_the_file(tmp_path, layout):
    source = save(tmp_path / "s.nii", image_of((7, 5, 3)))
    values = label_of((7, 5, 3))
    write_label(tmp_path / "c.nii", values, source)
    other = np.repeat(values, 2, axis=1)[:, ::2] if layout == "strided" else np.array(
        values, order=layout
    )  # fmt: skip
    write_label(tmp_path / "o.nii", other, source)
    assert (tmp_path / "c.nii").read_bytes() == (tmp_path / "o.nii").read_bytes()


def test_probabilities_are_written_as_float32(tmp_path):
    source = save(tmp_path / "s.nii.gz", image_of((5, 4, 3)), OBLIQUE)
    values = np.random.default_rng(0).random((5, 4, 3))
    write_array(tmp_path / "p.nii.gz", values, source)
    ours = nib.load(tmp_path / "p.nii.gz")
    assert ours.get_data_dtype() == np.float32
    np.testing.assert_array_equal(ours.get_fdata(dtype=np.float32), values.astype(np.float32))
    np.testing.assert_array_equal(ours.affine, nib.load(source).affine)


def test_what_cannot_be_written_is_refused_before_a_file_appears(tmp_path):
    source = save(tmp_path / "s.nii.gz", image_of((5, 4, 3)))
    with pytest.raises(ValueError, match=r"grid \(5, 4, 3\), got \(5, 4, 2\)"):
        write_label(tmp_path / "o.nii.gz", label_of((5, 4, 2)), source)
    with pytest.raises(ValueError, match="values must be integers, got float64"):
        write_label(tmp_path / "o.nii.gz", np.zeros((5, 4, 3)), source)
    with pytest.raises(UserError, match=r"o.nrrd: expected a name that ends in .nii or .nii.gz"):
        write_label(tmp_path / "o.nrrd", label_of((5, 4, 3)), source)
    assert names(tmp_path) == ["s.nii.gz"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 255, np.uint8),
        (0, 256, np.int16),
        (-1, 1, np.int16),
        (0, 32768, np.int32),
        (0, 2**31, np.int64),
    ],
)
def test_smallest_integer_type_at_its_edges(low, high, expected):
    assert smallest_integer(low, high) == expected


def test_reading_leaves_the_case_alone_and_gives_volumes(tmp_path):
    path = save(tmp_path / "a.nii.gz", image_of((5, 4, 3)))
    before = path.read_bytes()
    volume = read_image(case(path))
    volume.data[...] = 0
    assert isinstance(volume, Volume)
    assert path.read_bytes() == before
