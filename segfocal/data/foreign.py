"""NRRD and MetaImage files as the NIfTI they would be, so that one reader checks all of them.

pynrrd reads NRRD, SimpleITK reads MetaImage; each is imported when the first such file comes.
"""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from segfocal.data.defects import DefectError

FOREIGN_SUFFIXES = (".nrrd", ".mha", ".mhd")
"""Endings of the files that are read but never written."""

_DATA_OFFSET = 352
_ROTATION_TOLERANCE = 1e-4

_BROKEN = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, zlib.error)
"""What pynrrd lets through when a file is not what its header says."""

_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
_SHORT_SPACES = {
    "ras": "right-anterior-superior",
    "las": "left-anterior-superior",
    "lps": "left-posterior-superior",
}

_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int",
           "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip


def is_foreign(path: Path) -> bool:
    """Whether a file's name says NRRD or MetaImage."""
    return path.name.lower().endswith(FOREIGN_SUFFIXES)


def nifti_header_bytes(path: Path) -> bytes:
    """The NIfTI header that tells the file's grid; no voxel is read.

    Raises:
        DefectError: If the file is missing or damaged, its package is not installed, or it does not
            say where its voxels lie.
    """
    read = _nrrd_header if path.suffix.lower() == ".nrrd" else _metaimage_header
    shape, dtype, affine = read(path)
    return _header(path, shape, dtype, affine)


def nifti_bytes(path: Path) -> bytes:
    """The file as an uncompressed NIfTI file: header, then voxels; channels on the fourth axis.

    Raises:
        DefectError: As `nifti_header_bytes`.
    """
    read = _nrrd_voxels if path.suffix.lower() == ".nrrd" else _metaimage_voxels
    voxels, affine = read(path)
    header = _header(path, voxels.shape, voxels.dtype, affine)
    return header + voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).tobytes(order="F")


def _header(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], affine: npt.NDArray[np.float64]
) -> bytes:
    header = Nifti1Header(endianness="<")
    try:
        header.set_data_shape(shape)
        header.set_data_dtype(dtype)
        header.set_data_offset(_DATA_OFFSET)
        header.set_xyzt_units("mm")
        header.set_sform(affine, 1)
    except (HeaderDataError, ValueError) as error:
        raise DefectError(
            f"{path}: cannot be told as NIfTI: {' '.join(str(error).split())}."
        ) from error
    _set_qform(header, affine)
    return bytes(header.binaryblock) + bytes(_DATA_OFFSET - header.sizeof_hdr)


def _set_qform(header: Nifti1Header, affine: npt.NDArray[np.float64]) -> None:
    """Sets the rotation as well where one tells the grid; else the sform stands alone.

    It cannot tell sheared axes, and there is none of a singular affine, which `parse_header`
    refuses.
    """
    singular = np.linalg.det(affine[:3, :3]) == 0
    if singular or not np.isfinite(affine).all():
        header["qform_code"] = 0
        return
    header.set_qform(affine, 1, strip_shears=True)
    apart = np.abs(header.get_qform() - affine).max()
    if not apart <= _ROTATION_TOLERANCE * np.abs(affine).max():
        header["qform_code"] = 0


def _package(path: Path, name: str) -> Any:
    """A package that is not one of segfocal's own dependencies.

    Raises:
        DefectError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        distribution = {"nrrd": "pynrrd"}.get(name, name)
        raise DefectError(
            f"{path}: reading {path.suffix} files needs {distribution}: pip install {distribution}."
        ) from error


def _existing(path: Path) -> None:
    if not path.is_file():
        raise DefectError(f"{path}: does not exist. Copy it there.", "missing-file")


def _nrrd_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], npt.NDArray[np.float64]]:
    nrrd = _package(path, "nrrd")
    _existing(path)
    try:
        fields = nrrd.read_header(str(path))
        dtype = _nrrd_dtype(fields)
        sizes = tuple(int(size) for size in fields["sizes"])
    except (nrrd.NRRDError, *_BROKEN) as error:
        raise _damaged(path, "NRRD", error) from error
    affine, channel_axis = _nrrd_affine(path, fields, len(sizes))
    if channel_axis is not None:
        sizes = (*(s for i, s in enumerate(sizes) if i != channel_axis), sizes[channel_axis])
    return sizes, dtype, affine


def _nrrd_dtype(fields: Any) -> np.dtype[Any]:
    """Numpy's name for one of the words that the NRRD format knows for a type."""
    word = str(fields["type"])
    for name, words in _NRRD_TYPES.items():
        if word in words:
            return np.dtype(name)
    raise ValueError(f"type {word!r}")


def _nrrd_voxels(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    nrrd = _package(path, "nrrd")
    _existing(path)
    try:
        voxels, fields = nrrd.read(str(path), index_order="F")
    except (nrrd.NRRDError, *_BROKEN) as error:
        raise _damaged(path, "NRRD", error) from error
    affine, channel_axis = _nrrd_affine(path, fields, voxels.ndim)
    return (voxels if channel_axis is None else np.moveaxis(voxels, channel_axis, -1)), affine


def _nrrd_affine(
    path: Path, fields: Any, num_axes: int
) -> tuple[npt.NDArray[np.float64], int | None]:
    """Voxel indices to RAS millimetres, and the axis that is no direction in space.

    A file without the field `space` is taken for left-posterior-superior, as ITK takes it.
    """
    named = str(fields.get("space", "left-posterior-superior")).lower()
    signs = _TO_RAS.get(_SHORT_SPACES.get(named, named))
    if signs is None:
        raise DefectError(
            f"{path}: NRRD space {named!r}: expected {', '.join(_TO_RAS)}. Save it in one of them."
        )
    units = {str(unit).lower() for unit in fields.get("space units", ())}
    if not units <= {"mm", "millimeter", "millimetre", ""}:
        raise DefectError(f"{path}: NRRD space units {sorted(units)}: expected mm.")
    if "data file" in fields or "datafile" in fields:
        raise DefectError(f"{path}: its voxels lie in another file. Save it as one .nrrd file.")
    directions = fields.get("space directions")
    if directions is None and "spacings" in fields:
        directions = _straight(np.asarray(fields["spacings"], dtype=np.float64))
    if directions is None:
        raise DefectError(
            f"{path}: has no space directions, so voxels have no place in the body. Save it again "
            f"with its geometry."
        )
    rows = [
        None if row is None or np.isnan(np.asarray(row, dtype=np.float64)).any() else row
        for row in directions
    ]
    spatial = [row for row in rows if row is not None]
    if len(rows) != num_axes or len(spatial) != 3 or num_axes > 4:
        raise DefectError(
            f"{path}: NRRD with {num_axes} axes, {len(spatial)} of them in space. Expected a 3-D "
            f"volume, or one axis of channels besides."
        )
    origin = np.asarray(fields.get("space origin", (0, 0, 0)), dtype=np.float64)
    if origin.shape != (3,):
        raise DefectError(f"{path}: NRRD space origin: expected 3 numbers, got {origin.size}.")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(spatial, dtype=np.float64).T
    affine[:3, 3] = origin
    affine[:3] *= np.asarray(signs)[:, None]
    return affine, next((axis for axis, row in enumerate(rows) if row is None), None)


def _straight(spacings: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Space directions where lengths alone are told: NaN for an axis that is none in space."""
    in_space = np.isfinite(spacings)
    directions = np.full((len(spacings), 3), np.nan)
    directions[in_space] = np.eye(in_space.sum(), 3) * spacings[in_space, None]
    return directions


def _metaimage_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], npt.NDArray[np.float64]]:
    sitk = _package(path, "SimpleITK")
    _existing(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, "MetaImage", error) from error
    channels = reader.GetNumberOfComponents()
    shape = (*reader.GetSize(), *((channels,) if channels > 1 else ()))
    dtype = _pixel_dtype(path, sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    return shape, dtype, _itk_affine(path, reader)


def _metaimage_voxels(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    sitk = _package(path, "SimpleITK")
    _existing(path)
    try:
        image = sitk.ReadImage(str(path), imageIO="MetaImageIO")
    except RuntimeError as error:
        raise _damaged(path, "MetaImage", error) from error
    array = sitk.GetArrayFromImage(image)  # axes reversed; the components of a vector stay last
    axes = list(range(image.GetDimension()))[::-1]
    voxels = array.transpose([*axes, *range(len(axes), array.ndim)])
    return voxels, _itk_affine(path, image)


def _itk_affine(path: Path, image: Any) -> npt.NDArray[np.float64]:
    """Index to RAS millimetres, from ITK's spacing, direction and origin in LPS."""
    dimension = image.GetDimension()
    if dimension not in (3, 4):
        raise DefectError(f"{path}: is {dimension}-D. Expected a volume.")
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)
    affine = np.eye(4)
    affine[:3, :3] = direction[:3, :3] * np.asarray(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= -1
    return affine


def _pixel_dtype(path: Path, name: str) -> np.dtype[Any]:
    """Numpy's name for ITK's `16-bit signed integer` or `vector of 32-bit float`."""
    words = name.removeprefix("vector of ").split()
    bits = words[0].removesuffix("-bit")
    kinds = {("signed", "integer"): "int", ("unsigned", "integer"): "uint", ("float",): "float"}
    kind = kinds.get(tuple(words[1:]))
    if kind is None or not bits.isdigit():
        raise DefectError(f"{path}: holds {name}. Expected integers or 32- or 64-bit floats.")
    return np.dtype(f"{kind}{bits}")


def _damaged(path: Path, kind: str, error: Exception) -> DefectError:
    reason = " ".join(str(error).split())
    return DefectError(f"{path}: is damaged or no {kind} file ({reason[-160:]}).")
