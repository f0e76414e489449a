"""NRRD and MetaImage against ITK's reader, which shares no line with ours (pynrrd reads NRRD)."""

import gzip
import importlib
import sys

import numpy as np
import pytest

from segfocal.data.cases import Case
from segfocal.data.layouts import read_dataset
from segfocal.data.nifti import read_image, read_label, write_label
from segfocal.data.nifti_header import read_header
from segfocal.data.verify import load_case, verify_headers
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

from .nifti_files import OBLIQUE, image_of, label_of, save, write_json

nrrd = pytest.importorskip("nrrd")


@pytest.fixture(scope="module")
def sitk():
    return pytest.importorskip("SimpleITK")


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (6, 5, 4)
NAMES = {
    "right-anterior-superior": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS,
}


def rotation():
    """A rotated, anisotropic grid without shear: ITK refuses directions that are not orthogonal."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag([-0.8, 0.9, 2.5])
    affine[:3, 3] = (12.5, -33.25, 7.0)
    return affine


def write_nrrd(path, data, affine=None, space="left-posterior-superior", **fields):
    """A file whose RAS affine is `affine`."""
    affine = rotation() if affine is None else affine
    world = NAMES[space] @ affine
    directions = [list(column) for column in world[:3, :3].T]
    header = {"space": space, "space directions": directions, "space origin": world[:3, 3]}
    nrrd.write(str(path), data, header | fields, index_order="F")
    return path


def write_metaimage(sitk, path, data, affine=None, vector=False):
    world = LPS @ (rotation() if affine is None else affine)
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    axes = (*range(2, -1, -1), 3) if vector else tuple(range(data.ndim))[::-1]
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(axes)), isVector=vector)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def itk_affine(image):
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = direction @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


@pytest.mark.parametrize("space", NAMES)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_reads_as_itk_reads_it(tmp_path, sitk, space, encoding):
    path = write_nrrd(tmp_path / "a.nrrd", image_of(SHAPE), space=space, encoding=encoding)
    oracle = sitk.ReadImage(str(path))
    volume = read_image(Case("a", (path,), None))
    np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(oracle).transpose())
    np.testing.assert_allclose(volume.affine, itk_affine(oracle), atol=1e-5)
    np.testing.assert_allclose(volume.affine, rotation(), atol=1e-5)
    np.testing.assert_allclose(volume.zooms, (0.8, 0.9, 2.5), atol=1e-6)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_metaimage_reads_as_it_was_written(tmp_path, sitk, name, dtype):
    data = np.abs(image_of(SHAPE)).astype(dtype)
    path = write_metaimage(sitk, tmp_path / name, data)
    volume = read_image(Case("a", (path,), None))
    np.testing.assert_array_equal(volume.data[0], data)
    np.testing.assert_allclose(volume.affine, rotation(), atol=1e-5)
    assert read_header(path).nifti.get_data_dtype() == dtype


@pytest.mark.parametrize("first", [True, False])
def test_channels_of_an_nrrd_come_on_the_fourth_axis(tmp_path, first):
    data = image_of((*SHAPE, 2))
    path = tmp_path / "a.nrrd"
    directions = [list(column) for column in (LPS @ rotation())[:3, :3].T]
    nothing = [np.nan] * 3
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array([nothing, *directions] if first else [*directions, nothing]),
        "space origin": [0.0, 0.0, 0.0],
    }
    stored = np.moveaxis(data, 3, 0) if first else data
    nrrd.write(str(path), stored, header, index_order="F")
    assert read_header(path).shape == (*SHAPE, 2)
    volume = read_image(Case("a", (path,), None))
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, 3, 0))


@pytest.mark.parametrize("channel_axis", [None, 0, 3])
def test_an_nrrd_with_spacings_alone_reads_as_itk_reads_it(tmp_path, sitk, channel_axis):
    data, spacings, kinds = image_of((*SHAPE, 2)), [0.8, 0.9, 2.5], ["domain"] * 3
    if channel_axis is None:
        data = data[..., :1]
        stored = data[..., 0]
    else:
        spacings.insert(channel_axis, float("nan"))
        kinds.insert(channel_axis, "vector")
        stored = np.moveaxis(data, 3, channel_axis)
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), stored, {"spacings": spacings, "kinds": kinds}, index_order="F")
    volume = read_image(Case("a", (path,), None))
    np.testing.assert_allclose(volume.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-6)
    np.testing.assert_allclose(volume.zooms, (0.8, 0.9, 2.5), atol=1e-6)
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, 3, 0))


def test_components_of_a_metaimage_are_channels(tmp_path, sitk):
    data = image_of((*SHAPE, 2))
    path = write_metaimage(sitk, tmp_path / "a.mha", data, vector=True)
    assert read_header(path).shape == (*SHAPE, 2)
    volume = read_image(Case("a", (path,), None))
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, 3, 0))


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_a_case_of_mixed_formats_loads_and_its_prediction_is_nifti(tmp_path, sitk, kind):
    label = label_of(SHAPE)
    if kind == "nrrd":
        image = write_nrrd(tmp_path / "i.nrrd", image_of(SHAPE))
    else:
        image = write_metaimage(sitk, tmp_path / "i.mha", image_of(SHAPE))
    case = Case("a", (image,), save(tmp_path / "l.nii.gz", label, rotation()))
    scheme = LabelScheme(("background", "lesion"), (0, 1))
    assert verify_headers(case, ("CT",)).shape == SHAPE
    np.testing.assert_array_equal(load_case(case, scheme, ("CT",)).classes, label)
    write_label(tmp_path / "out.nii.gz", label, image)
    again = read_label(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(again.data, label)
    np.testing.assert_allclose(again.affine, rotation(), atol=1e-5)
    with pytest.raises(UserError, match=r"out.nrrd: expected a name that ends in .nii or .nii.gz"):
        write_label(tmp_path / "out.nrrd", label, image)


def test_sheared_axes_are_kept_by_the_sform_alone(tmp_path):
    header = read_header(write_nrrd(tmp_path / "a.nrrd", image_of(SHAPE), OBLIQUE))
    np.testing.assert_allclose(header.affine, OBLIQUE, atol=1e-5)
    assert (int(header.nifti["qform_code"]), int(header.nifti["sform_code"])) == (0, 1)


def test_every_type_of_the_format_is_known(tmp_path):
    for dtype in ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]:
        data = np.arange(24).reshape(2, 3, 4).astype(dtype)
        path = write_nrrd(tmp_path / f"{dtype}.nrrd", data)
        assert read_header(path).nifti.get_data_dtype() == np.dtype(dtype)
        np.testing.assert_array_equal(read_image(Case("a", (path,), None)).data[0], data)


def line(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(path):
    return read_image(Case("a", (path,), None))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damaged_files_are_named(tmp_path, sitk, suffix):
    path = tmp_path / f"a{suffix}"
    assert line(read_header, path) == f"{path}: does not exist. Copy it there."
    path.write_bytes(b"NRRD0004\ntype: short\nnonsense" if suffix == ".nrrd" else b"NDims = x\n")
    for call in (read_header, read):
        assert f"{path}: is damaged or no " in line(call, path)
    data = image_of((20, 20, 20))
    if suffix == ".nrrd":
        write_nrrd(path, data)
    else:
        write_metaimage(sitk, path, data)
    read(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert f"{path}: is damaged or no " in line(read, path)


def test_a_flipped_byte_in_the_gzip_of_an_nrrd_is_found(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", image_of((20, 20, 20)))
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\n\n") + 2
    assert gzip.decompress(bytes(raw[start:]))
    raw[-5] ^= 1  # the checksum in the trailer
    path.write_bytes(raw)
    assert f"a: {path}: is damaged or no NRRD file" in line(read, path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": "scanner-xyz"}, "NRRD space 'scanner-xyz': expected right-anterior-superior"),
        ({"space units": ["um", "um", "um"]}, "NRRD space units ['um']: expected mm."),
        ({"space directions": None}, "has no space directions, so voxels have no place"),
    ],
)
def test_geometry_that_is_not_told_is_refused(tmp_path, fields, message):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([1.0, 1.0, 1.0]),
        "space origin": [0.0, 0.0, 0.0],
    } | fields
    header = {key: value for key, value in header.items() if value is not None}
    if fields.get("space directions", 0) is None:
        header = {}
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), image_of(SHAPE), header, index_order="F")
    assert message in line(read_header, path)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [("a.nrrd", "nrrd", "pynrrd"), ("a.mha", "SimpleITK", "SimpleITK")],
)
def test_a_package_that_is_not_there_is_named_with_its_cure(
    tmp_path, monkeypatch, name, package, install
):
    path = tmp_path / name
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    suffix = path.suffix
    assert line(read_header, path) == (
        f"{path}: reading {suffix} files needs {install}: pip install {install}."
    )


def test_neither_package_is_imported_for_nifti(tmp_path, monkeypatch):
    def refuse(name):
        raise AssertionError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    assert read(save(tmp_path / "a.nii.gz", image_of(SHAPE))).data.shape == (1, *SHAPE)


def test_an_nrrd_whose_voxels_lie_elsewhere_is_refused(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", image_of(SHAPE), encoding="raw")
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    (tmp_path / "a.raw").write_bytes(voxels)
    path.write_bytes(head + b"\ndata file: a.raw\n\n")
    expected = f"{path}: its voxels lie in another file. Save it as one .nrrd file."
    assert line(read_header, path) == expected
    assert line(read, path) == f"a: {expected}"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_header_of_noise_is_refused_in_one_line_or_read(tmp_path, sitk, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        write_nrrd(path, image_of(SHAPE))
    else:
        write_metaimage(sitk, path, image_of(SHAPE))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    lines = []
    for _ in range(150):
        noisy = bytearray(whole)
        for place in random.integers(0, min(len(noisy), 400), random.integers(1, 5)):
            noisy[place] = random.choice(list(b"0123456789 -.()\nenan:\x00\xff"))
        path.write_bytes(noisy)
        for call in (read_header, read):
            try:
                call(path)
            except UserError as error:
                lines.append(str(error))
    assert len(lines) > 50
    assert not any("\n" in line for line in lines)


def test_an_nnunet_data_set_of_nrrd_files_is_read(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    write_nrrd(tmp_path / "imagesTr" / "a_0000.nrrd", image_of(SHAPE))
    write_nrrd(tmp_path / "labelsTr" / "a.nrrd", label_of(SHAPE))
    plain = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}}
    write_json(tmp_path / "dataset.json", plain | {"file_ending": ".nrrd", "numTraining": 1})
    dataset = read_dataset(tmp_path)
    loaded = load_case(dataset.cases[0], dataset.scheme, dataset.channels)
    np.testing.assert_array_equal(loaded.image[0], image_of(SHAPE))
    np.testing.assert_array_equal(loaded.classes, label_of(SHAPE))


def test_an_origin_of_two_numbers_is_refused(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", image_of(SHAPE))
    whole = path.read_bytes()
    start = whole.index(b"space origin: (")
    end = whole.index(b"\n", start)
    path.write_bytes(whole[:start] + b"space origin: (1,2)" + whole[end:])
    expected = f"{path}: NRRD space origin: expected 3 numbers, got 2."
    assert line(read_header, path) == expected
