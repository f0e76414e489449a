"""What the headers of a case have against it: all of it, not only the first thing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from segfocal.data.cases import Case, MissingFile
from segfocal.data.defects import DefectError, collecting
from segfocal.data.grids import (
    AFFINE_TOLERANCE_MM,
    apart_mm,
    check_overlap,
    check_same_grid,
    corner_displacement_mm,
)
from segfocal.data.nifti_header import (
    MAX_VOXELS,
    Affine,
    Header,
    check_promise,
    read_header,
    size_on_disk,
    times,
)


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

    @property
    def shape_ras(self) -> tuple[int, int, int]:
        """Axis lengths along R, A, S."""
        r, a, s = self.axes_ras
        return (self.shape[r], self.shape[a], self.shape[s])

    @property
    def spacing_ras_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along R, A, S."""
        r, a, s = self.axes_ras
        return (self.zooms[r], self.zooms[a], self.zooms[s])

    @property
    def axes_ras(self) -> list[int]:
        """The axes of the file that lie along R, A, S."""
        axes: list[int] = np.argsort(io_orientation(self.affine)[:, 0]).tolist()
        return axes


@dataclass(frozen=True, eq=False)
class CaseHeaders:
    """What the headers of a case say.

    Attributes:
        grid: The image's grid; None where it cannot be told.
        images: A header per image file, in the case's order; None for one that cannot be read.
        label: The label's header; None without a label, or where it cannot be read.
        defects: Everything wrong, in the order of the checks.
    """

    grid: CaseGrid | None
    images: tuple[Header | None, ...]
    label: Header | None
    defects: tuple[DefectError, ...]


def read_case_headers(
    case: Case,
    channels: Sequence[str],
    *,
    channel_dim: int | None = None,
    affine_tolerance_mm: float = AFFINE_TOLERANCE_MM,
    resample_channels: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> CaseHeaders:
    """Reads every header of a case and compares them. A few milliseconds.

    Of a case that lacks files, those that are there are compared.

    Args:
        case: The case.
        channels: Name of every channel of the data set.
        channel_dim: Axis of the channels in a 4-D file; None is NIfTI's own, the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        resample_channels: Whether channel files may lie on other grids than the first.
        max_voxels: Voxels of a file above which its header is not believed.
    """
    defects = [_absence(file) for file in case.missing]
    lacks_first = bool(channels) and channels[0] not in case.held(channels)
    channels = case.held(channels)
    images = [_believed(path, max_voxels, defects) for path in case.images]
    label = None if case.label is None else _believed(case.label, max_voxels, defects)
    names = channels if len(images) > 1 else ("image",)
    # Before files are compared: a bad voxel size or orientation is why they differ.
    for name, header in [*zip(names, images, strict=False), ("label", label)]:
        if header is not None:
            defects += orientation_defects(header, name, affine_tolerance_mm)
    shapes = _image_shapes(images, channels, channel_dim, defects)
    first, shape = (images[0], shapes[0]) if images else (None, None)
    if lacks_first and resample_channels:
        # The grid that the others would be brought onto, and the label's, is not known.
        first, shape = None, None
    for name, header, other in list(zip(channels, images, shapes, strict=False))[1:]:
        if first and header and shape and other:
            with collecting(defects):
                if resample_channels:
                    check_overlap(
                        (channels[0], name), (shape, other), (first.affine, header.affine)
                    )
                    continue
                with _offering_to_resample():
                    check_same_grid(
                        (channels[0], name),
                        (shape, other),
                        (first.affine, header.affine),
                        affine_tolerance_mm,
                    )
    if label is not None and first is not None and shape is not None:
        with collecting(defects):
            _check_label_grid(label, first, shape, affine_tolerance_mm)
    grid = CaseGrid(case.case_id, shape, first.affine, first.zooms) if first and shape else None
    return CaseHeaders(grid, tuple(images), label, tuple(defects))


def orientation_defects(header: Header, name: str, tolerance_mm: float) -> list[DefectError]:
    """Voxel size and the two forms of one file.

    Args:
        header: Its header.
        name: What to call the file in messages.
        tolerance_mm: Largest distance between corners that is taken for rounding.
    """
    found: list[DefectError] = []
    sform_code, qform_code = int(header.nifti["sform_code"]), int(header.nifti["qform_code"])
    if not all(0 < length < math.inf for length in header.pixdim):
        # Only the sform does without pixdim; the qform would be drawn with an invented size.
        made_up = sform_code == 0 and not all(0 < abs(z) < math.inf for z in header.pixdim)
        found.append(_spacing_defect(header, name, made_up=made_up))
    if sform_code == 0 and qform_code == 0:
        found.append(
            DefectError(
                f"{name} has neither a qform nor an sform code: left and right are anyone's guess. "
                f"Write the scanner's orientation into {header.path.name}.",
                "no-orientation",
            )
        )
    if sform_code and qform_code:
        with collecting(found):
            _check_forms(header, name, tolerance_mm)
    return found


@contextmanager
def _offering_to_resample() -> Iterator[None]:
    """Adds the other cure to a defect of two channels."""
    try:
        yield
    except DefectError as defect:
        raise DefectError(
            f"{defect} To have the channel resampled, set data.resample_channels: true.",
            defect.kind,
            str(defect),
        ) from defect


def _absence(file: MissingFile) -> DefectError:
    fact = f"{file.name} is missing, expected {file.expected}. Copy it there"
    return DefectError(
        f"{fact}, or leave the case out by data.exclude.", "missing-file", f"{fact}."
    )


def _believed(path: Path, max_voxels: int, defects: list[DefectError]) -> Header | None:
    """The header, if the file is there and can hold what it promises."""
    try:
        header = read_header(path)
        check_promise(header, *size_on_disk(path), max_voxels=max_voxels)
    except DefectError as defect:
        defects.append(defect)
        return None
    return header


def _image_shapes(
    images: Sequence[Header | None],
    channels: Sequence[str],
    channel_dim: int | None,
    defects: list[DefectError],
) -> list[tuple[int, int, int] | None]:
    """Axis lengths of each image file without its channel axis; None where they make no sense."""
    several = len(images) > 1
    if several and len(images) != len(channels):
        defects.append(
            DefectError(
                f"has {len(images)} channel files; the data has {len(channels)} channels "
                f"({', '.join(channels)}).",
                "channels",
            )
        )
        return [None] * len(images)
    shapes: list[tuple[int, int, int] | None] = []
    for index, header in enumerate(images):
        shapes.append(None)
        if header is not None:
            with collecting(defects):
                if several and len(header.shape) == 4:
                    raise DefectError(
                        f"{channels[index]} is {times(header.shape)}, 4-D ({header.path.name}). "
                        f"Expected a 3-D volume: each channel has a file of its own here. Split "
                        f"the file.",
                        "channels",
                    )
                if several:
                    shapes[-1] = _spatial_shape(header, channels[index : index + 1], None)
                else:
                    shapes[-1] = _spatial_shape(header, channels, channel_dim)
    return shapes


def _check_label_grid(
    label: Header, image: Header, shape: tuple[int, int, int], tolerance_mm: float
) -> None:
    if len(label.shape) != 3:
        raise DefectError(
            f"label {times(label.shape)} is {len(label.shape)}-D. Expected one integer per voxel "
            f"of the image ({times(shape)}).",
            "shape",
        )
    check_same_grid(
        ("image", "label"), (shape, label.shape), (image.affine, label.affine), tolerance_mm
    )


def _spatial_shape(
    header: Header, channels: Sequence[str], channel_dim: int | None
) -> tuple[int, int, int]:
    """The shape without the channel axis, or why the file does not hold these channels."""
    shape = header.shape_with_channels(channel_dim)
    if len(shape) == 3 and len(channels) == 1:
        return (shape[0], shape[1], shape[2])
    if len(shape) not in (3, 4):
        raise DefectError(
            f"image {times(shape)} is {len(shape)}-D ({header.path.name}). Expected a 3-D volume, "
            f"or 4-D with channels.",
            "shape",
        )
    names = f"{len(channels)} ({', '.join(channels)})"
    if len(shape) == 3:
        raise DefectError(
            f"image {times(shape)} holds 1 channel; expected {names}. Merge the channels into one "
            f"4-D file, or name the missing files.",
            "channels",
        )
    axis = 3 if channel_dim is None else channel_dim
    if not -4 <= axis < 4:
        raise DefectError(
            f"data.channel_dim: expected an axis from -4 to 3, got {axis}.", "dataset"
        )
    if shape[axis] == len(channels):
        spatial = header.spatial_shape(channel_dim)
        return (spatial[0], spatial[1], spatial[2])
    for other, words, setting in (
        (3, "is channel-last", -1),
        (0, "is channel-first", 0),
        (1, "has its channels second", 1),
        (2, "has its channels third", 2),
    ):
        if shape[other] == len(channels):
            fact = f"image {times(shape)} {words}"
            raise DefectError(f"{fact}; set data.channel_dim: {setting}.", "channel-axis", fact)
    fact = f"image {times(shape)} holds {shape[axis]} channels; expected {names}"
    raise DefectError(
        f"{fact}. Declare every channel in dataset.json, or set data.channel_dim to their axis.",
        "channels",
        fact,
    )


def _spacing_defect(header: Header, name: str, *, made_up: bool) -> DefectError:
    sizes = ", ".join(f"{length:g}" for length in header.pixdim)
    if made_up:
        return DefectError(
            f"{name} has the voxel size [{sizes}] mm (pixdim) and no sform to tell the true one. "
            f"Write the scanner's voxel size into {header.path.name}.",
            "spacing",
        )
    true = ", ".join(f"{length:.4g}" for length in header.zooms)
    return DefectError(
        f"{name} has the voxel size [{sizes}] mm (pixdim); its affine says [{true}]. Write that "
        f"into pixdim of {header.path.name}: other programs read it.",
        "odd-spacing",
    )


def _check_forms(header: Header, name: str, tolerance_mm: float) -> None:
    """The qform against the sform; readers choose one or the other."""
    sform = header.mm_per_unit * np.asarray(header.nifti.get_sform(), dtype=np.float64)
    try:
        with np.errstate(all="ignore"):
            qform = header.mm_per_unit * np.asarray(header.nifti.get_qform(), dtype=np.float64)
            voxel_sizes(qform)
    except ValueError:
        qform = np.full((4, 4), np.nan)
    if not np.isfinite(qform).all():
        what = "its qform makes no sense"
    else:
        displacement = corner_displacement_mm(sform, qform, (*header.shape, 1, 1)[:3])
        if float(np.linalg.norm(displacement)) <= tolerance_mm:
            return
        what = f"qform and sform differ by {apart_mm(displacement)}"
    raise DefectError(
        f"{name}: {what}; programs read one or the other (segfocal: the sform). Copy the right one "
        f"over the other in {header.path.name}.",
        "forms",
    )
