"""Loading a case with every check that a run relies on; the cheap ones from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal.data.cases import Case, naming
from segfocal.data.defects import DefectError, Problem
from segfocal.data.grids import AFFINE_TOLERANCE_MM
from segfocal.data.header_defects import CaseGrid, read_case_headers
from segfocal.data.nifti import read_image, read_label
from segfocal.data.nifti_header import MAX_VOXELS, Affine
from segfocal.data.resample import read_on_first_grid
from segfocal.labels import ClassMap, LabelScheme
from segfocal.statistics.class_histogram import class_histogram

_MAX_LISTED = 12
_MAX_NAMED = 4
_TABLE_SPAN = 1 << 16


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case in memory, verified.

    Attributes:
        case_id: The case.
        image: float32 `(C, X, Y, Z)`, the selected channels in the selected order.
        classes: Class indices `(X, Y, Z)`, uint8, `IGNORE_CLASS` where ignored; None without label.
        affine: Voxel indices to world coordinates in mm, float64 `(4, 4)`.
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
    max_voxels: int = MAX_VOXELS,
    doubts: list[Problem] | None = None,
) -> CaseGrid:
    """Checks what headers can tell: files, sizes, channel count, shapes, affines.

    Args:
        case: The case.
        channels: Name of every channel that its image files hold.
        channel_dim: Axis of the channels in a 4-D file; None is NIfTI's own, the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        resample_channels: Whether channel files may lie on other grids than the first.
        max_voxels: Voxels of a file above which its header is not believed.
        doubts: Gets what a run does not stop for, appended.

    Raises:
        UserError: The first error that `read_case_headers` finds, after the case's id.
    """
    found = read_case_headers(
        case,
        channels,
        channel_dim=channel_dim,
        affine_tolerance_mm=affine_tolerance_mm,
        resample_channels=resample_channels,
        max_voxels=max_voxels,
    )
    with naming(case.case_id):
        for defect in found.defects:
            if defect.severity == "error":
                raise defect
    if doubts is not None:
        doubts += [Problem.of(case.case_id, defect) for defect in found.defects]
    assert found.grid is not None
    return found.grid


def load_case(
    case: Case,
    scheme: LabelScheme,
    channels: Sequence[str],
    *,
    select: Sequence[int] | None = None,
    channel_dim: int | None = None,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    resample_channels: bool = False,
    max_voxels: int = MAX_VOXELS,
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
        max_voxels: Voxels of a file above which its header is not believed.

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
        max_voxels=max_voxels,
    )
    if resample_channels and len(case.images) > 1:
        image = read_on_first_grid(
            case, select, affine_tolerance_mm=affine_tolerance_mm, max_voxels=max_voxels
        )
    else:
        image = read_image(case, channel_dim=channel_dim, channels=select, max_voxels=max_voxels)
    classes = None
    if case.label is not None:
        with naming(case.case_id):
            classes = encode_label(read_label(case.label, max_voxels=max_voxels).data, scheme)
    return LoadedCase(case.case_id, image.data, classes, image.affine, image.zooms)


def blank_channels(image: npt.NDArray[Any], channels: Sequence[str]) -> tuple[str, ...]:
    """Names of the channels of `(C, X, Y, Z)` that hold one value in every voxel."""
    return tuple(name for name, one in zip(channels, image, strict=True) if float(np.ptp(one)) == 0)


def encode_label(values: npt.NDArray[Any], scheme: LabelScheme) -> ClassMap:
    """`scheme.encode(values)`, several times faster on a volume, with a cure in the error.

    The scheme encodes the distinct values; the voxels go through a table.

    Args:
        values: Integers of any shape, as read from a label file.
        scheme: What they mean.

    Returns:
        Class indices of the same shape, uint8.

    Raises:
        DefectError: If a value is not declared.

    Example:
        >>> scheme = LabelScheme(("background", "tumour"), (0, 1), ignore_values=(-1,))
        >>> encode_label(np.array([[0, 1, -1]]), scheme).tolist()
        [[0, 1, 255]]
    """
    is_byte = values.dtype == np.uint8
    present = np.flatnonzero(class_histogram(values)) if is_byte else np.unique(values)
    check_declared(present, scheme)
    codes = scheme.encode(present)
    low, high = int(present[0]), int(present[-1])
    if high - low >= _TABLE_SPAN:
        return np.take(codes, np.searchsorted(present, values))
    table = np.zeros(high - low + 1, dtype=np.uint8)
    table[present.astype(np.int64) - low] = codes
    return np.take(table, values if low == 0 else values.astype(np.int64) - low)


def check_declared(present: npt.NDArray[Any], scheme: LabelScheme) -> None:
    """Refuses label values that nobody declared, with the cure for the usual reasons.

    Args:
        present: The distinct values of a label, sorted.
        scheme: What they mean.

    Raises:
        DefectError: If a value is not declared.
    """
    undeclared = scheme.undeclared(present)
    if undeclared:
        raise DefectError(
            f"label holds {_braces(present)}; the config declares "
            f"{_braces(scheme.declared_values)}. {_cure(present, undeclared, scheme)}",
            "undeclared-label",
        )


def _cure(present: npt.NDArray[Any], undeclared: tuple[int, ...], scheme: LabelScheme) -> str:
    declared = set(scheme.values)
    if undeclared == (4,) and declared == {0, 1, 2, 3} and 3 not in present:
        return "BraTS 2018-22 uses 4 for ET: set data.labels: brats18-22."
    if undeclared == (3,) and declared == {0, 1, 2, 4} and 4 not in present:
        return (
            "BraTS uses 3 for ET since 2023: set data.labels: brats23, or brats24 where other "
            "cases hold 4, the resection cavity."
        )
    if len(undeclared) > _MAX_NAMED:
        return f"{len(undeclared)} values are not declared: is this the label of other data?"
    if scheme.regions and {*declared, *undeclared} == {0, 1, 2, 3, 4} and len(undeclared) == 1:
        return (
            "In BraTS 2024 4 is the resection cavity: if these are its labels, set data.labels: "
            f"brats24; else declare {undeclared[0]} in data.labels."
        )
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
