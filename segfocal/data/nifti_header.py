"""NIfTI headers: the grid that a file declares, and whether its bytes keep the promise."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from segfocal.data.foreign import is_foreign, nifti_bytes, nifti_header_bytes
from segfocal.errors import UserError

Affine = npt.NDArray[np.float64]

SUFFIXES = (".nii.gz", ".nii")
"""Endings of the files that segfocal reads and writes."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = 540
_FIRST_CHUNK_BYTES = 1 << 16
_MM_PER_UNIT = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
_SILENT = logging.getLogger("segfocal.data.nifti_header")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, eq=False)
class Header:
    """What the header of a NIfTI file says.

    Attributes:
        path: The file, for messages.
        shape: Axis lengths on disk, without lengths of 1 behind the third axis.
        affine: Voxel indices of the first three axes to world coordinates, float64 `(4, 4)`: the
            sform where it has a code, else the qform, else the voxel size alone.
        zooms: Edge lengths of a voxel in mm, from the affine.
        nifti: nibabel's header, with every field as it stands in the file.
    """

    path: Path
    shape: tuple[int, ...]
    affine: Affine
    zooms: tuple[float, float, float]
    nifti: Nifti1Header


def read_header(path: Path) -> Header:
    """The header of a volume; of a NIfTI file's data only the first kilobytes are read.

    Raises:
        UserError: If the file is missing, is not NIfTI, or its header makes no sense.
    """
    if is_foreign(path):
        return parse_header(path, nifti_header_bytes(path))
    try:
        with path.open("rb") as stream:
            start = stream.read(_FIRST_CHUNK_BYTES)
        if start.startswith(_GZIP_MAGIC):
            start = zlib.decompressobj(wbits=31).decompress(start, _HEADER_BYTES)
    except (OSError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return parse_header(path, start)


def read_bytes(path: Path) -> bytes:
    """The whole file, decompressed; of a gzip stream length and checksum are verified.

    Raises:
        UserError: If the file is missing, or its gzip stream is cut short or damaged.
    """
    if is_foreign(path):
        return nifti_bytes(path)
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP_MAGIC) else raw
    except EOFError as error:
        raise UserError(
            f"{path}: the gzip stream is cut short. Copy or download the file again."
        ) from error
    except (OSError, zlib.error) as error:
        raise _unreadable(path, error) from error


def parse_header(path: Path, raw: bytes) -> Header:
    """The header at the start of `raw`.

    Raises:
        UserError: If this is not a single-file NIfTI header, or it makes no sense.
    """
    block = raw[:_HEADER_BYTES]
    kind: type[Nifti1Header]
    if len(block) >= 540 and Nifti2Header.may_contain_header(block):
        kind, size = Nifti2Header, 540
    elif len(block) >= 348 and Nifti1Header.may_contain_header(block):
        kind, size = Nifti1Header, 348
    else:
        what = "is empty" if not raw else "is not a NIfTI file"
        raise UserError(f"{path}: {what}. Expected NIfTI-1 or NIfTI-2 (.nii or .nii.gz).")
    nifti = kind(block[:size], check=False)
    if not bytes(nifti["magic"]).startswith((b"n+1", b"n+2")):
        raise UserError(
            f"{path}: is the header of a .hdr/.img pair. Convert it to one .nii.gz file."
        )
    try:
        nifti.check_fix(logger=_SILENT)
        affine = np.asarray(nifti.get_best_affine(), dtype=np.float64)
        unit = nifti.get_xyzt_units()[0]
        num_axes = int(nifti["dim"][0])
        shape = tuple(int(length) for length in nifti["dim"][1 : num_axes + 1])
    except (HeaderDataError, KeyError, ValueError) as error:
        raise UserError(f"{path}: its NIfTI header makes no sense: {error}.") from error
    zooms = tuple(float(zoom) * _MM_PER_UNIT[unit] for zoom in voxel_sizes(affine))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0:
        raise UserError(
            f"{path}: its affine is singular or not finite, so voxels have no place in the body. "
            f"Mend the header."
        )
    if not shape or min(shape) < 1:
        raise UserError(f"{path}: its NIfTI header makes no sense: dim is {list(nifti['dim'])}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    return Header(path, shape, affine, (zooms[0], zooms[1], zooms[2]), nifti)


def stored_array(header: Header, raw: bytes) -> npt.NDArray[Any]:
    """The numbers as stored, unscaled: a read-only Fortran-ordered view of `raw`.

    Raises:
        UserError: If the file holds fewer bytes than its header promises, or numbers that are
            neither integers nor real floats (complex, RGB).
    """
    dtype = header.nifti.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UserError(
            f"{header.path}: holds {dtype} numbers. Expected integers or 32- or 64-bit floats."
        )
    offset = int(header.nifti.get_data_offset())
    count = math.prod(header.shape)
    if offset + count * dtype.itemsize > len(raw):
        raise UserError(
            f"{header.path}: is cut short: {times(header.shape)} {dtype.name} needs "
            f"{offset + count * dtype.itemsize} bytes, the file has {len(raw)}. "
            f"Copy or download the file again."
        )
    flat = np.frombuffer(raw, dtype=dtype, count=count, offset=offset)
    return flat.reshape(header.shape, order="F")


def stored_scaling(header: Header) -> tuple[float, float] | None:
    """Slope and intercept of the stored numbers; None where they mean themselves.

    Raises:
        UserError: If the intercept is not finite.
    """
    try:
        slope, inter = header.nifti.get_slope_inter()
    except HeaderDataError as error:
        raise UserError(f"{header.path}: its NIfTI header makes no sense: {error}.") from error
    return None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)


def case_stem(path: Path) -> str:
    """A file's name without `.nii` or `.nii.gz`."""
    return next((path.name[: -len(s)] for s in SUFFIXES if path.name.endswith(s)), path.stem)


def times(shape: tuple[int, ...]) -> str:
    """A shape as people write it: `240x240x155`."""
    return "x".join(str(length) for length in shape)


def _unreadable(path: Path, error: OSError | zlib.error) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: does not exist.")
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return UserError(
            f"{path}: the gzip stream is damaged ({error}). Copy or download the file again."
        )
    return UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.")
