"""Images and labels from NIfTI files, each byte read once; labels and maps back to NIfTI files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header

from segfocal.data.cases import Case, naming
from segfocal.data.defects import DefectError
from segfocal.data.label_values import LabelDecoder
from segfocal.data.nifti_header import (
    MAX_VOXELS,
    SUFFIXES,
    Affine,
    Header,
    read_header,
    stored_scaling,
    times,
)
from segfocal.data.nifti_voxels import Stored, read_stored
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError
from segfocal.files import atomic_write

_GZIP_LEVEL = 6
_SLAB_VOXELS = 1 << 17
_TABLE_BYTES = 2
_GEOMETRY_FIELDS = (
    "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        data: Image: float32 `(C, X, Y, Z)`. Label: the smallest integer type, `(X, Y, Z)`.
        affine: Voxel indices (X, Y, Z) to world coordinates in mm, float64 `(4, 4)`.
        zooms: Edge lengths of a voxel in mm.
        header: nibabel's header of the (first) file.
    """

    data: npt.NDArray[Any]
    affine: Affine
    zooms: tuple[float, float, float]
    header: Nifti1Header


def read_image(
    case: Case,
    *,
    channel_dim: int | None = None,
    channels: Sequence[int] | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """The image of a case, channels first.

    Args:
        case: One file per channel, or one file with all of them.
        channel_dim: Axis of the channels in a 4-D file; None is NIfTI's own, the fourth.
        channels: Which channels to read, in which order; None is all.
        max_voxels: Voxels of a file above which its header is not believed.

    Returns:
        float32 `(C, X, Y, Z)`, C-contiguous. Integers are converted straight to float32.

    Raises:
        UserError: `case_id: ...` for a missing or damaged file, files of different shape, a
            channel that is not there, a volume that is not 3-D, or voxels that are NaN or infinite.
    """
    with naming(case.case_id):
        if len(case.images) == 1:
            stored = read_stored(case.images[0], max_voxels=max_voxels)
            return _select_channels(stored, channel_dim, channels)
        paths = [case.images[i] for i in _in_range(channels, len(case.images))]
        headers = [read_header(path) for path in paths]
        for header in headers:
            if len(header.shape) != 3:
                raise UserError(
                    f"{header.path}: expected a 3-D volume with one channel, got "
                    f"{times(header.shape)}."
                )
            if header.shape != headers[0].shape:
                raise UserError(
                    f"channel files differ in shape: {paths[0].name} is {times(headers[0].shape)}, "
                    f"{header.path.name} is {times(header.shape)}. Resample them to one grid."
                )
        data = np.empty((len(paths), *headers[0].shape), dtype=np.float32)
        for channel, path in zip(data, paths, strict=True):
            one = read_stored(path, max_voxels=max_voxels)
            _fill(channel, one.header, one.array)
        return Volume(data, headers[0].affine, headers[0].zooms, headers[0].nifti)


def read_label(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """The label values of a file, whatever type they are stored in.

    Floats and scaled integers that are integers but for rounding come out as integers; integers
    never become floats on the way.

    Args:
        path: The label file.
        max_voxels: Number of voxels above which its header is not believed.

    Returns:
        Integers `(X, Y, Z)` in the smallest of uint8, int16, int32, int64 that holds them,
        C-contiguous.

    Raises:
        DefectError: If the file is missing or damaged, is not 3-D, or holds a value that is not
            an integer.
    """
    return label_volume(read_stored(path, max_voxels=max_voxels))


def label_volume(stored: Stored) -> Volume:
    """The label values that a file's stored numbers mean; see `read_label`.

    Raises:
        DefectError: If they are not 3-D, or not integers.
    """
    header = stored.header
    decoder = LabelDecoder(header)
    if stored.array.dtype.kind in "iu" and stored_scaling(header) is None:
        plain = decoder.decode(stored.array)
        low, high = int(plain.min()), int(plain.max())
        values = np.array(plain, dtype=smallest_integer(low, high), order="C")
    elif stored.array.dtype.kind in "iu" and stored.array.dtype.itemsize <= _TABLE_BYTES:
        values = _translated(stored.array, decoder)
    else:
        values = _decoded(stored.array, decoder)
    return Volume(values, header.affine, header.zooms, header.nifti)


def _translated(stored: npt.NDArray[Any], decoder: LabelDecoder) -> npt.NDArray[Any]:
    """Scaled numbers of one or two bytes: each that occurs is decoded once, the rest is a table."""
    flat = stored.reshape(-1, order="F")
    slabs = [slice(start, start + _SLAB_VOXELS) for start in range(0, flat.size, _SLAB_VOXELS)]
    low, high = int(flat.min()), int(flat.max())
    occurrences = np.zeros(high - low + 1, dtype=np.int64)
    for slab in slabs:
        occurrences += np.bincount(flat[slab].astype(np.int64) - low, minlength=occurrences.size)
    present = np.flatnonzero(occurrences)
    decoded = decoder.decode((present + low).astype(stored.dtype), occurrences[present])
    decoder.finish()
    dtype = smallest_integer(int(decoded.min()), int(decoded.max()))
    table = np.zeros(occurrences.size, dtype=dtype)
    table[present] = decoded
    values = np.empty(flat.size, dtype=dtype)
    for slab in slabs:
        values[slab] = table[flat[slab].astype(np.int64) - low]
    return np.array(values.reshape(stored.shape, order="F"), order="C")


def _decoded(stored: npt.NDArray[Any], decoder: LabelDecoder) -> npt.NDArray[Any]:
    """Twice over slabs, for the range and for the values: no second volume of 64-bit numbers."""
    flat = stored.reshape(-1, order="F")
    slabs = [slice(start, start + _SLAB_VOXELS) for start in range(0, flat.size, _SLAB_VOXELS)]
    lows, highs = [], []
    for slab in slabs:
        decoded = decoder.decode(flat[slab])
        lows.append(int(decoded.min()))
        highs.append(int(decoded.max()))
    decoder.finish()
    values = np.empty(flat.size, dtype=smallest_integer(min(lows), max(highs)))
    for slab in slabs:
        values[slab] = decoder.decode(flat[slab])
    return np.array(values.reshape(stored.shape, order="F"), order="C")


def write_label(
    path: Path,
    values: npt.NDArray[Any],
    like: Volume | Path,
    *,
    channel_dim: int | None = None,
    synthetic: bool = False,
) -> None:
    """A label file on the grid of its source, complete or absent.

    Shape, both forms with their codes, voxel size and unit of length are the source's to the bit.
    The numbers are stored in the smallest integer type, unscaled. Nothing else is taken from the
    source: neither extensions nor free text, which may name a patient.

    Args:
        path: `.nii` or `.nii.gz`, in a folder that exists. The same voxels give the same bytes.
        values: Integers `(X, Y, Z)` as the file shall hold them (`LabelScheme.decode`).
        like: The source volume, or the path of the image it came from.
        channel_dim: Axis of the channels in a 4-D file `like`; None is NIfTI's own, the fourth.
        synthetic: Stamp the file as made from the phantom; one whose source is stamped always is.

    Raises:
        UserError: If `path` has another ending, or `like` cannot be read.
        ValueError: If `values` are not integers or not on the source's grid.
    """
    if values.dtype.kind not in "iu":
        raise ValueError(f"values must be integers, got {values.dtype}.")
    dtype = smallest_integer(int(values.min()), int(values.max()))
    _write(path, values, dtype, like, channel_dim, synthetic)


def write_array(
    path: Path,
    values: npt.NDArray[Any],
    like: Volume | Path,
    *,
    channel_dim: int | None = None,
    synthetic: bool = False,
) -> None:
    """A map of floats (a probability) on the grid of its source, complete or absent.

    Args:
        path: `.nii` or `.nii.gz`, in a folder that exists.
        values: `(X, Y, Z)`; stored as float32.
        like: The source volume, or the path of the image it came from.
        channel_dim: Axis of the channels in a 4-D file `like`; None is NIfTI's own, the fourth.
        synthetic: Stamp the file as made from the phantom; one whose source is stamped always is.

    Raises:
        UserError: If `path` has another ending, or `like` cannot be read.
        ValueError: If `values` are not on the source's grid.
    """
    _write(path, values, np.dtype(np.float32), like, channel_dim, synthetic)


def is_stamped(header: Nifti1Header) -> bool:
    """Whether a file says that it was made from the phantom."""
    return bytes(header["descrip"]).startswith(STAMP.encode())


def smallest_integer(low: int, high: int) -> np.dtype[Any]:
    """The smallest of uint8, int16, int32 and int64 that holds both numbers."""
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def _select_channels(
    stored: Stored, channel_dim: int | None, channels: Sequence[int] | None
) -> Volume:
    """One file that holds every channel."""
    header = stored.header
    arrays = channels_first(header, stored.array, channel_dim)
    wanted = _in_range(channels, len(arrays))
    data = np.empty((len(wanted), *arrays.shape[1:]), dtype=np.float32)
    for channel, index in zip(data, wanted, strict=True):
        _fill(channel, header, arrays[index])
    return Volume(data, header.affine, header.zooms, header.nifti)


def channels_first(
    header: Header, stored: npt.NDArray[Any], channel_dim: int | None
) -> npt.NDArray[Any]:
    """A view `(C, X, Y, Z)` of what one file stores.

    Raises:
        UserError: If the file is neither 3-D nor 4-D, or `channel_dim` is not one of its axes.
    """
    stored = stored.reshape(header.shape_with_channels(channel_dim), order="F")
    if stored.ndim not in (3, 4):
        raise DefectError(
            f"{header.path}: expected a 3-D volume, or 4-D with channels, got "
            f"{times(header.shape)} ({len(header.shape)}-D).",
            "shape",
        )
    if stored.ndim == 3:
        return stored[None]
    axis = 3 if channel_dim is None else channel_dim
    if not -4 <= axis < 4:
        raise UserError(f"data.channel_dim: expected an axis from -4 to 3, got {axis}.")
    return np.moveaxis(stored, axis, 0)


def _fill(channel: npt.NDArray[np.float32], header: Header, stored: npt.NDArray[Any]) -> None:
    """Converts one channel in place; refuses voxels that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        channel[...] = stored
        scaling = stored_scaling(header)
        if scaling is not None:
            channel *= np.float32(scaling[0])
            channel += np.float32(scaling[1])
        # Finite float32 cannot overflow a float64 sum: it is finite exactly if all of them are.
        if np.isfinite(channel.sum(dtype=np.float64)):
            return
    raise not_finite(header, int(channel.size - np.isfinite(channel).sum()), channel.size)


def not_finite(header: Header, num_bad: int, num_voxels: int) -> DefectError:
    """The error for a channel with voxels that float32 has no number for."""
    return DefectError(
        f"{header.path.name}: {num_bad} of {num_voxels} voxels are NaN, infinite or too large for "
        f"float32. Set them to 0 (or to the air value) in the file.",
        "not-finite",
    )


def _in_range(channels: Sequence[int] | None, num_channels: int) -> Sequence[int]:
    if channels is None:
        return range(num_channels)
    for index in channels:
        if not 0 <= index < num_channels:
            raise UserError(
                f"channel {index} (counted from 0) was asked for; the image holds {num_channels}."
            )
    return channels


def _write(
    path: Path,
    values: npt.NDArray[Any],
    dtype: np.dtype[Any],
    like: Volume | Path,
    channel_dim: int | None,
    synthetic: bool,
) -> None:
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: expected a name that ends in .nii or .nii.gz.")
    if isinstance(like, Path):
        read = read_header(like)
        shape, source = read.spatial_shape(channel_dim), read.nifti
    else:
        shape, source = like.data.shape[-3:], like.header
    if values.shape != shape:
        raise ValueError(f"values must lie on the source's grid {shape}, got {values.shape}.")
    header = _header_like(source, shape, dtype)
    if synthetic or is_stamped(source):
        header["descrip"] = STAMP
    with atomic_write(path) as stream:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as zipped:
                _write_voxels(zipped, header, values, dtype)
        else:
            _write_voxels(stream, header, values, dtype)


def _header_like(
    source: Nifti1Header, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Nifti1Header:
    header = type(source)()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    for field in _GEOMETRY_FIELDS:
        header[field] = source[field]
    header["pixdim"][:4] = source["pixdim"][:4]
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _write_voxels(
    stream: BinaryIO | gzip.GzipFile,
    header: Nifti1Header,
    values: npt.NDArray[Any],
    dtype: np.dtype[Any],
) -> None:
    header.write_to(stream)
    for slab in np.moveaxis(values, -1, 0):
        stream.write(slab.astype(dtype, copy=False).tobytes(order="F"))
