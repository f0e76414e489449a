"""NIfTI headers: the grid that a file declares, and whether it can be believed."""

from __future__ import annotations

import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from segfocal.data.defects import DefectError
from segfocal.data.foreign import is_foreign, nifti_header_bytes
from segfocal.data.gzip_stream import (
    MAGIC,
    MAX_RATIO,
    GzipCutShortError,
    GzipDamagedError,
    inflate,
)

Affine = npt.NDArray[np.float64]

SUFFIXES = (".nii.gz", ".nii")
"""Endings of the files that segfocal reads and writes."""

MAX_VOXELS = 1_000_000_000
"""Voxels (over all channels of a file) above which a header is not believed: 1000^3."""

HEADER_BYTES = 540
"""Length of the longer of the two headers, NIfTI-2's."""

_MAX_EXTENSION_BYTES = 1 << 26
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
        affine: Voxel indices of the first three axes to world coordinates in mm, float64 `(4, 4)`:
            the sform where it has a code, else the qform, else the voxel size alone.
        zooms: Edge lengths of a voxel in mm, from the affine.
        pixdim: The voxel size as the file writes it, before anything is mended.
        nifti: nibabel's header, with every other field as it stands in the file.
    """

    path: Path
    shape: tuple[int, ...]
    affine: Affine
    zooms: tuple[float, float, float]
    pixdim: tuple[float, float, float]
    nifti: Nifti1Header

    def spatial_shape(self, channel_dim: int | None = None) -> tuple[int, ...]:
        """Axis lengths without that of the channels, which only a 4-D file has.

        Args:
            channel_dim: Axis of the channels, from -4 to 3; None is the fourth.
        """
        shape = self.shape_with_channels(channel_dim)
        if len(shape) != 4:
            return shape
        axis = 3 if channel_dim is None else channel_dim % 4
        return shape[:axis] + shape[axis + 1 :]

    def shape_with_channels(self, channel_dim: int | None) -> tuple[int, ...]:
        """`shape`, and the fourth axis of a 4-D file whose channels lie along another.

        It may be 1 long: a single slice, channels first.

        Args:
            channel_dim: Axis of the channels, from -4 to 3; None is the fourth.
        """
        is_slice = len(self.shape) == 3 and int(self.nifti["dim"][0]) == 4
        if is_slice and channel_dim not in (None, 3, -1):
            return (*self.shape, 1)
        return self.shape

    @property
    def mm_per_unit(self) -> float:
        """Millimetres of the file's unit of length; 1 where it names none."""
        return _MM_PER_UNIT[self.nifti.get_xyzt_units()[0]]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers, in the file's byte order."""
        dtype: np.dtype[Any] = self.nifti.get_data_dtype()
        return dtype

    @property
    def offset(self) -> int:
        """Byte at which the voxels begin."""
        return int(self.nifti.get_data_offset())

    @property
    def num_voxels(self) -> int:
        """Numbers that the file promises, over all channels."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes that the voxels take."""
        return self.num_voxels * self.dtype.itemsize


def read_header(path: Path) -> Header:
    """The header of a volume; of a NIfTI file's data only the first kilobytes are read.

    Raises:
        DefectError: If the file is missing, is not NIfTI, or its header makes no sense.
    """
    if is_foreign(path):
        return parse_header(path, nifti_header_bytes(path))
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
            if start.startswith(MAGIC):
                stream.seek(0)
                start = b""
                for piece in inflate(stream, piece_bytes=HEADER_BYTES):
                    start += piece
                    if len(start) >= HEADER_BYTES:
                        break
    except (OSError, GzipDamagedError, GzipCutShortError) as error:
        raise unreadable(path, error) from error
    return parse_header(path, start)


def parse_header(path: Path, raw: bytes) -> Header:
    """The header at the start of `raw`.

    Raises:
        DefectError: If this is not a single-file NIfTI header, or it makes no sense.
    """
    nifti = _nibabel_header(path, raw[:HEADER_BYTES])
    if not bytes(nifti["magic"]).startswith((b"n+1", b"n+2")):
        raise DefectError(
            f"{path}: is the header of a .hdr/.img pair. Convert it to one .nii.gz file."
        )
    pixdim = tuple(float(length) for length in nifti["pixdim"][1:4])
    try:
        # Numbers of a damaged header overflow; what comes of it is judged below.
        with np.errstate(all="ignore"):
            nifti.check_fix(logger=_SILENT)
            affine = np.array(nifti.get_best_affine(), dtype=np.float64)
            affine[:3] *= _MM_PER_UNIT[nifti.get_xyzt_units()[0]]
            sizes = voxel_sizes(affine)
            singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0
        num_axes = int(nifti["dim"][0])
        shape = tuple(int(length) for length in nifti["dim"][1 : num_axes + 1])
        nifti.get_data_dtype()
        nifti.get_data_offset()
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise _senseless(path, str(error)) from error
    if singular or not np.isfinite(sizes).all():
        if not int(nifti["sform_code"]) and not np.isfinite(pixdim).all():
            told = ", ".join(f"{length:g}" for length in pixdim)
            raise DefectError(
                f"{path}: has the voxel size [{told}] mm (pixdim) and no sform to tell the true "
                f"one. Write the scanner's voxel size into it.",
                "spacing",
            )
        raise DefectError(
            f"{path}: its affine is singular or not finite, so voxels have no place in the body. "
            f"Mend the header."
        )
    if not 0 < num_axes < 8 or min(shape) < 1:
        raise _senseless(path, f"dim is {[int(length) for length in nifti['dim']]}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    return Header(
        path,
        shape,
        affine,
        (float(sizes[0]), float(sizes[1]), float(sizes[2])),
        (pixdim[0], pixdim[1], pixdim[2]),
        nifti,
    )


def size_on_disk(path: Path) -> tuple[int, bool]:
    """Length of a file in bytes, and whether it is a gzip stream.

    Of NRRD and MetaImage the length says nothing (they compress inside): it counts as endless, and
    their readers find out.

    Raises:
        DefectError: If it cannot be opened.
    """
    if is_foreign(path):
        return sys.maxsize, False
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_size, stream.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise unreadable(path, error) from error


def check_promise(
    header: Header, file_bytes: int, zipped: bool, *, max_voxels: int = MAX_VOXELS
) -> None:
    """Refuses numbers that are no voxels, and sizes that cannot or should not be true.

    Nothing is allocated before this was asked.

    Args:
        header: The header.
        file_bytes: Length of the file on disk.
        zipped: Whether it is a gzip stream.
        max_voxels: Number of voxels above which the header is not believed.

    Raises:
        DefectError: If the numbers are complex or RGB, there are more than `max_voxels`, or the
            file is too short for them.
    """
    dtype = header.dtype
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "RGB" if dtype.names else str(dtype)
        raise DefectError(
            f"{header.path}: holds {kind} numbers. Expected integers or 32- or 64-bit floats. "
            f"Convert the file to one of these."
        )
    if header.num_voxels > max_voxels:
        fact = f"{header.path}: its header promises {times(header.shape)} voxels"
        raise DefectError(
            f"{fact}, more than data.max_voxels ({max_voxels}). Mend the header, or raise "
            f"data.max_voxels if the volume is that large.",
            "too-large",
            fact,
        )
    smallest = header.nifti.single_vox_offset
    if not smallest <= header.offset <= smallest + _MAX_EXTENSION_BYTES:
        raise _senseless(header.path, f"vox_offset is {header.offset}.")
    if zipped and header.num_bytes > MAX_RATIO * file_bytes:
        raise too_short(header, f"a gzip file of {file_bytes} bytes cannot hold them")
    if not zipped and header.offset + header.num_bytes > file_bytes:
        raise too_short(header, f"the file has {file_bytes}")


def too_short(header: Header, what_came: str) -> DefectError:
    """The error for a file that holds fewer bytes than its header promises."""
    return DefectError(
        f"{header.path}: is cut short: {times(header.shape)} {header.dtype.name} needs "
        f"{header.offset + header.num_bytes} bytes, {what_came}. Copy or download the file again.",
        "cut-short",
    )


def stored_scaling(header: Header) -> tuple[float, float] | None:
    """Slope and intercept of the stored numbers; None where they mean themselves.

    Raises:
        DefectError: If the intercept is not finite.
    """
    try:
        slope, inter = header.nifti.get_slope_inter()
    except HeaderDataError as error:
        raise _senseless(header.path, f"{error}.") from error
    return None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)


def case_stem(path: Path) -> str:
    """A file's name without `.nii` or `.nii.gz`, in letters of either size, or another ending."""
    name = path.name.lower()
    return next((path.name[: -len(s)] for s in SUFFIXES if name.endswith(s)), path.stem)


def times(shape: tuple[int, ...]) -> str:
    """A shape as people write it: `240x240x155`."""
    return "x".join(str(length) for length in shape)


def unreadable(path: Path, error: OSError | GzipDamagedError | GzipCutShortError) -> DefectError:
    """The error for a file whose bytes cannot be had."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return DefectError(
                f"{path}: is a link that leads nowhere. Fetch what it points at (git annex get, "
                f"datalad get), or copy the file there.",
                "missing-file",
            )
        return DefectError(f"{path}: does not exist. Copy it there.", "missing-file")
    if isinstance(error, GzipCutShortError):
        return DefectError(
            f"{path}: the gzip stream is cut short. Copy or download the file again.",
            "damaged-gzip",
        )
    if isinstance(error, GzipDamagedError):
        return DefectError(
            f"{path}: the gzip stream is damaged ({error}). Copy or download the file again.",
            "damaged-gzip",
        )
    return DefectError(f"{path}: cannot be read: {error.strerror or error}.")


def _nibabel_header(path: Path, block: bytes) -> Nifti1Header:
    """The block as nibabel holds it, unchecked."""
    if len(block) >= 540 and Nifti2Header.may_contain_header(block):
        return Nifti2Header(block[:540], check=False)
    if len(block) >= 348 and Nifti1Header.may_contain_header(block):
        return Nifti1Header(block[:348], check=False)
    what = "is empty" if not block else "is not a NIfTI file"
    raise DefectError(
        f"{path}: {what}. Expected NIfTI-1 or NIfTI-2 (.nii or .nii.gz). Copy "
        f"or convert the file again."
    )


def _senseless(path: Path, why: str) -> DefectError:
    return DefectError(
        f"{path}: its NIfTI header makes no sense: {why.removesuffix('.')}. Copy or "
        f"convert the file again."
    )
