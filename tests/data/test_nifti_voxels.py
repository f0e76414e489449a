import gzip
import struct
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from segfocal.data import nifti_voxels
from segfocal.data.defects import DefectError
from segfocal.data.nifti_voxels import StoredVoxels, read_stored

from .nifti_files import image_of, save


def rewritten(path, change):
    """The file with its (decompressed) bytes changed."""
    raw = path.read_bytes()
    zipped = raw.startswith(b"\x1f\x8b")
    inner = bytearray(gzip.decompress(raw) if zipped else raw)
    inner = change(inner) or inner
    path.write_bytes(gzip.compress(bytes(inner)) if zipped else bytes(inner))
    return path


def packed(offset, form, *values):
    return lambda raw: struct.pack_into(form, raw, offset, *values)


def line_of(call, *args, **options):
    with pytest.raises(DefectError) as caught:
        call(*args, **options)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("piece_bytes", [7, 541, 1 << 20])
def test_pieces_are_the_stored_numbers_wherever_they_are_cut(
    tmp_path, monkeypatch, name, kind, dtype, piece_bytes
):
    path = save(tmp_path / name, image_of((7, 5, 3)).astype(dtype), kind=kind)
    plain = nifti_voxels.inflate
    monkeypatch.setattr(nifti_voxels, "inflate", lambda s: plain(s, piece_bytes=piece_bytes))
    monkeypatch.setattr(nifti_voxels, "PIECE_BYTES", piece_bytes)
    pieces = list(StoredVoxels(path).pieces())
    assert all(piece.size for piece in pieces)
    found = np.concatenate(pieces)
    oracle = nib.load(path).dataobj.get_unscaled()
    np.testing.assert_array_equal(found, np.asarray(oracle).ravel(order="F"))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read_stored(path).array, oracle)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_extension_before_the_voxels_is_passed_over(tmp_path, name):
    image = nib.Nifti1Image(image_of((7, 5, 3)), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / name)
    stored = read_stored(tmp_path / name)
    assert stored.header.offset > 5000
    np.testing.assert_array_equal(stored.array, np.asarray(image.dataobj))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_some_bytes_behind_the_last_voxel_are_counted(tmp_path, name):
    path = rewritten(save(tmp_path / name, image_of((7, 5, 3))), lambda raw: raw + b"abc")
    stored = read_stored(path)
    assert stored.trailing_bytes == 3
    np.testing.assert_array_equal(stored.array, image_of((7, 5, 3)))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_hides_most_of_the_file_is_refused(tmp_path, name):
    path = rewritten(save(tmp_path / name, image_of((7, 5, 3))), lambda raw: raw + bytes(2 << 20))
    kind, line = line_of(read_stored, path)
    assert kind == "too-large"
    assert line == (
        f"{path}: goes on for more than 1048576 bytes after the 7x5x3 int16 voxels that its header "
        f"promises. Mend the header, or convert the file again."
    )


def test_more_voxels_than_the_cap_are_refused_by_the_header(tmp_path):
    path = save(tmp_path / "a.nii.gz", image_of((7, 5, 3)))
    assert read_stored(path, max_voxels=105).array.size == 105
    kind, line = line_of(read_stored, path, max_voxels=104)
    assert kind == "too-large"
    assert line == (
        f"{path}: its header promises 7x5x3 voxels, more than data.max_voxels (104). Mend the "
        f"header, or raise data.max_voxels if the volume is that large."
    )


def test_a_million_million_voxels_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", image_of((7, 5, 3)))
    rewritten(path, packed(42, "<3h", 30000, 30000, 30000))
    assert line_of(read_stored, path)[0] == "too-large"


def test_a_small_gzip_cannot_hold_what_deflate_cannot_shrink(tmp_path):
    path = save(tmp_path / "a.nii.gz", image_of((7, 5, 3)))
    rewritten(path, packed(42, "<3h", 900, 900, 900))
    size = path.stat().st_size
    kind, line = line_of(read_stored, path)
    assert kind == "cut-short"
    assert line == (
        f"{path}: is cut short: 900x900x900 int16 needs 1458000352 bytes, a gzip file of {size} "
        f"bytes cannot hold them. Copy or download the file again."
    )


def test_a_plain_file_that_is_cut_short_is_known_before_it_is_read(tmp_path):
    path = rewritten(save(tmp_path / "a.nii", image_of((7, 5, 3))), lambda raw: raw[:-1])
    kind, line = line_of(StoredVoxels, path)
    assert kind == "cut-short"
    assert line == (
        f"{path}: is cut short: 7x5x3 int16 needs 562 bytes, the file has 561. Copy or download "
        f"the file again."
    )


def test_a_true_bomb_within_the_cap_is_read(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((200, 200, 100), np.uint8))
    assert path.stat().st_size < 50_000
    assert not read_stored(path).array.any()


@pytest.mark.parametrize("offset", [0.0, 16.0, -1.0, 1e30, float("nan"), float("inf"), 1e9])
def test_a_place_of_the_voxels_that_cannot_be_is_refused(tmp_path, offset):
    path = rewritten(save(tmp_path / "a.nii.gz", image_of((7, 5, 3))), packed(108, "<f", offset))
    kind, line = line_of(read_stored, path)
    assert kind == "unreadable"
    assert "its NIfTI header makes no sense: " in line


def test_memory_that_is_not_to_be_had_is_one_line(tmp_path):
    path = tmp_path / "a.nii"
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 1000, 900))
    header.set_data_dtype(np.float64)
    with path.open("wb") as stream:
        header.write_to(stream)
        stream.truncate(352 + 8 * 900_000_000)
    code = (
        "import pathlib, resource, sys\n"
        "from segfocal.data.nifti_voxels import read_stored\n"
        "from segfocal.data.defects import DefectError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try: read_stored(pathlib.Path(sys.argv[1]))\n"
        "except DefectError as error: print(error.kind, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"too-large {path}: 1000x1000x900 float64 needs 6.7 GB of memory, which is not to be had. "
        f"Close other programs, or crop the volume.\n"
    )
