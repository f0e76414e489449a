"""Loading a case with every check that a run relies on; the cheap ones from headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal.data.cases import Case, naming
from segfocal.data.grids import AFFINE_TOLERANCE_MM, check_same_grid
from segfocal.data.nifti import read_image, read_label
from segfocal.data.nifti_header import Affine, Header, read_header, times
from segfocal.data.resample import check_overlap, read_on_first_grid
from segfocal.errors import UserError
from segfocal.labels import ClassMap, LabelScheme
from segfocal.statistics.voxel_counts import class_histogram

_MAX_LISTED = 12
_MAX_NAMED = 4
_TABLE_SPAN = 1 << 16


@dataclass(frozen=True)
class CaseGrid:
    """The grid of a case, from its headers.

    Attributes:
        case_id: The case.
        shape: Axis lengths `(X, Y, Z)`.
        affine: Voxel indices to world coordinates, float64 `(4, 4)`.
        zooms: Edge lengths of a voxel in mm.
    """

    case_id: str
    shape: tuple[int, int, int]
    affine: Affine
    zooms: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case in memory, verified.

    Attributes:
        case_id: The case.
        image: float32 `(C, X, Y, Z)`, the selected channels in the selected order.
        classes: Class indices `(X, Y, Z)`, uint8, `IGNORE_CLASS` where ignored; None without label.
        affine: Voxel indices to world coordinates, float64 `(4, 4)`.
        zooms: Edge lengths of a voxel in mm.
    """

    case_id: str
    image: npt.NDArray[np.float32]
    classes: ClassMap | None
    affine: Affine
    zooms: tuple[float, float, float]


def verify_headers(
    case: Case,
    channels: Sequence[str],
    *,
    channel_dim: int | None = None,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    resample_channels: bool = False,
) -> CaseGrid:
    """Checks what headers can tell: files, channel count, shapes, affines. A few milliseconds.

    Args:
        case: The case.
        channels: Name of every channel that its image files hold.
        channel_dim: Axis of the channels in a 4-D file; None is NIfTI's own, the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        resample_channels: Whether channel files may lie on other grids than the first.

    Raises:
        UserError: One line that begins with the case's id.
    """
    with naming(case.case_id):
        headers = [read_header(path) for path in case.images]
        first = headers[0]
        if len(headers) == 1:
            shape = _spatial_shape(first, channels, channel_dim)
        else:
            if len(headers) != len(channels):
                raise UserError(
                    f"has {len(headers)} channel files; the data has {len(channels)} channels "
                    f"({', '.join(channels)})."
                )
            shape = _spatial_shape(first, channels[:1], None)
        for name, header in zip(channels, headers, strict=False):
            if header is first:
                continue
            own = _spatial_shape(header, (name,), None)
            if resample_channels:
                check_overlap((channels[0], name), first, header)
                continue
            with _offering_to_resample():
                check_same_grid(
                    (channels[0], name),
                    (shape, own),
                    (first.affine, header.affine),
                    affine_tolerance_mm,
                )
        if case.label is not None:
            label = read_header(case.label)
            if len(label.shape) != 3:
                raise UserError(
                    f"label {times(label.shape)} is {len(label.shape)}-D. Expected one integer "
                    f"per voxel of the image ({times(shape)})."
                )
            check_same_grid(
                ("image", "label"),
                (shape, label.shape),
                (first.affine, label.affine),
                affine_tolerance_mm,
            )
    return CaseGrid(case.case_id, shape, first.affine, first.zooms)


def load_case(
    case: Case,
    scheme: LabelScheme,
    channels: Sequence[str],
    *,
    select: Sequence[int] | None = None,
    channel_dim: int | None = None,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    resample_channels: bool = False,
) -> LoadedCase:
    """Reads a case's image and label, each file once, and checks everything about them.

    Args:
        case: The case; without a label, `LoadedCase.classes` is None.
        scheme: What the label values mean.
        channels: Name of every channel that its image files hold.
        select: Which of them to load, in which order (`cases.channel_indices`); None is all.
        channel_dim: Axis of the channels in a 4-D file; None is NIfTI's own, the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        resample_channels: Whether channel files may lie on other grids than the first.

    Raises:
        UserError: One line that begins with the case's id: a missing or damaged file, a channel
            count, shape or affine that does not fit, voxels that are not finite, a label value
            that is not an integer or not declared.
    """
    verify_headers(
        case,
        channels,
        channel_dim=channel_dim,
        affine_tolerance_mm=affine_tolerance_mm,
        resample_channels=resample_channels,
    )
    if resample_channels and len(case.images) > 1:
        image = read_on_first_grid(case, select, affine_tolerance_mm=affine_tolerance_mm)
    else:
        image = read_image(case, channel_dim=channel_dim, channels=select)
    classes = None
    if case.label is not None:
        with naming(case.case_id):
            classes = encode_label(read_label(case.label).data, scheme)
    return LoadedCase(case.case_id, image.data, classes, image.affine, image.zooms)


def encode_label(values: npt.NDArray[Any], scheme: LabelScheme) -> ClassMap:
    """`scheme.encode(values)`, several times faster on a volume, with a cure in the error.

    The scheme encodes the distinct values; the voxels go through a table.

    Args:
        values: Integers of any shape, as read from a label file.
        scheme: What they mean.

    Returns:
        Class indices of the same shape, uint8.

    Raises:
        UserError: If a value is not declared.

    Example:
        >>> scheme = LabelScheme(("background", "tumour"), (0, 1), ignore_values=(-1,))
        >>> encode_label(np.array([[0, 1, -1]]), scheme).tolist()
        [[0, 1, 255]]
    """
    is_byte = values.dtype == np.uint8
    present = np.flatnonzero(class_histogram(values)) if is_byte else np.unique(values)
    undeclared = scheme.undeclared(present)
    if undeclared:
        raise UserError(
            f"label holds {_braces(present)}; the config declares "
            f"{_braces(scheme.declared_values)}. {_cure(present, undeclared, scheme)}"
        )
    codes = scheme.encode(present)
    low, high = int(present[0]), int(present[-1])
    if high - low >= _TABLE_SPAN:
        return np.take(codes, np.searchsorted(present, values))
    table = np.zeros(high - low + 1, dtype=np.uint8)
    table[present.astype(np.int64) - low] = codes
    return np.take(table, values if low == 0 else values.astype(np.int64) - low)


@contextmanager
def _offering_to_resample() -> Iterator[None]:
    """Adds the other cure to an error about two channels."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error} To have the channel resampled, set data.resample_channels: true."
        ) from error


def _spatial_shape(
    header: Header, channels: Sequence[str], channel_dim: int | None
) -> tuple[int, int, int]:
    """The shape without the channel axis, or why the file does not hold these channels."""
    shape = header.shape
    if len(shape) == 3 and len(channels) == 1:
        return (shape[0], shape[1], shape[2])
    if len(shape) not in (3, 4):
        raise UserError(
            f"image {times(shape)} is {len(shape)}-D ({header.path.name}). Expected a 3-D volume, "
            f"or 4-D with channels."
        )
    names = f"{len(channels)} ({', '.join(channels)})"
    if len(shape) == 3:
        raise UserError(
            f"image {times(shape)} holds 1 channel; expected {names}. Merge the channels into one "
            f"4-D file, or name the missing files."
        )
    axis = 3 if channel_dim is None else channel_dim
    if not -4 <= axis < 4:
        raise UserError(f"data.channel_dim: expected an axis from -4 to 3, got {axis}.")
    if shape[axis] == len(channels):
        spatial = [length for i, length in enumerate(shape) if i != axis % 4]
        return (spatial[0], spatial[1], spatial[2])
    for other, words, setting in (
        (3, "is channel-last", -1),
        (0, "is channel-first", 0),
        (1, "has its channels second", 1),
        (2, "has its channels third", 2),
    ):
        if shape[other] == len(channels):
            raise UserError(f"image {times(shape)} {words}; set data.channel_dim: {setting}.")
    raise UserError(
        f"image {times(shape)} holds {shape[axis]} channels; expected {names}. Declare every "
        f"channel in dataset.json, or set data.channel_dim to their axis."
    )


def _cure(present: npt.NDArray[Any], undeclared: tuple[int, ...], scheme: LabelScheme) -> str:
    declared = set(scheme.values)
    if undeclared == (4,) and declared == {0, 1, 2, 3} and 3 not in present:
        return "BraTS 2018-22 uses 4 for ET: set data.labels: brats18-22."
    if undeclared == (3,) and declared == {0, 1, 2, 4} and 4 not in present:
        return "BraTS uses 3 for ET since 2023: set data.labels: brats23."
    if len(undeclared) > _MAX_NAMED:
        return f"{len(undeclared)} values are not declared: is this the label of other data?"
    listed = ",".join(str(value) for value in undeclared)
    ignore = listed if len(undeclared) == 1 else f"[{listed}]"
    unannotated = f"set loss.ignore_index: {ignore} if nobody annotated those voxels"
    if scheme.num_classes == 2 and not scheme.regions and present.tolist() == [0, *undeclared]:
        labels = f"{{{scheme.names[0]}: 0, {scheme.names[1]}: {listed}}}"
        return f"Set data.labels: {labels} if that is {scheme.names[1]}, or {unannotated}."
    return f"Declare {listed} in data.labels, or {unannotated}."


def _braces(values: Sequence[int] | npt.NDArray[Any]) -> str:
    listed = [str(int(value)) for value in values[:_MAX_LISTED]]
    more = len(values) - len(listed)
    return "{" + ",".join(listed) + (f" and {more} more" if more > 0 else "") + "}"
