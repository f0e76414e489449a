"""One case measured and checked in one pass: what `segfocal-stats` knows of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import aff2axcodes

from segfocal.data.cases import Case
from segfocal.data.defects import DefectError, Problem, collecting, empty_label
from segfocal.data.grids import corner_displacement_mm
from segfocal.data.header_defects import CaseGrid, CaseHeaders, read_case_headers
from segfocal.data.nifti import channels_first, label_volume, not_finite
from segfocal.data.nifti_header import Header, stored_scaling
from segfocal.data.nifti_voxels import Stored, read_stored
from segfocal.data.partial import check_annotated
from segfocal.data.verify import encode_label
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.metrics.voxel_size import voxel_volume
from segfocal.statistics.class_histogram import class_histogram
from segfocal.statistics.intensities import Intensities, measure_intensities
from segfocal.statistics.lesion_sizes import lesion_sizes

_Marked = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SurveyRules:
    """What a case is measured and checked against.

    Attributes:
        scheme: What the label values mean.
        channels: Name of every channel that the image files hold.
        channel_dim: Axis of the channels in a 4-D file; None is the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        max_voxels: Voxels of a file above which its header is not believed.
        resample_channels: Whether channels may lie on other grids than the first.
    """

    scheme: LabelScheme
    channels: tuple[str, ...]
    channel_dim: int | None
    affine_tolerance_mm: float
    max_voxels: int
    resample_channels: bool = False

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Classes of everything that lesions are counted of: classes, and regions if any."""
        single = {name: (index,) for index, name in enumerate(self.scheme.names) if index}
        return single | {region.name: region.classes for region in self.scheme.regions}


@dataclass(frozen=True)
class LabelSurvey:
    """What a label holds.

    Attributes:
        voxels: Voxels of each class, then the ignored ones.
        lesions_mm3: Volume of every lesion of each group, ascending.
    """

    voxels: tuple[int, ...]
    lesions_mm3: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class ChannelSurvey:
    """What a channel holds.

    Attributes:
        name: The channel.
        dtype: How its numbers are stored.
        intensities: What they are.
        content: Hash of the stored numbers, by which copies are found; empty for a constant.
        annotated: What they are in the voxels of any class but the background; None where there are
            none, or the channel lies on another grid than the label.
    """

    name: str
    dtype: str
    intensities: Intensities
    content: str
    annotated: Intensities | None = None


@dataclass
class CaseSurvey:
    """Everything known of a case.

    Attributes:
        case_id: The case.
        shape: Axis lengths; None where the grid cannot be told.
        spacing_mm: Edge lengths of a voxel, rounded to a micrometre.
        orientation: Where the axes point, such as LPS.
        label: What its label holds; None where it cannot be read.
        channels: What its channels hold, those that can be read.
        problems: Everything wrong with it.
    """

    case_id: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str | None = None
    label: LabelSurvey | None = None
    channels: list[ChannelSurvey] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether training would take the case."""
        return all(problem.severity != "error" for problem in self.problems)


def survey_case(case: Case, rules: SurveyRules) -> CaseSurvey:
    """Reads every file of a case once, one at a time, and finds everything wrong with it.

    Of the label stays where it marks a class, a byte a voxel, while the images are read.
    """
    survey = CaseSurvey(case.case_id)
    headers = read_case_headers(
        case,
        rules.channels,
        channel_dim=rules.channel_dim,
        affine_tolerance_mm=rules.affine_tolerance_mm,
        resample_channels=rules.resample_channels,
        max_voxels=rules.max_voxels,
    )
    defects = list(headers.defects)
    if headers.grid is not None:
        _describe_grid(survey, headers.grid)
    marked = None
    if case.label is not None and headers.label is not None:
        with collecting(defects):
            survey.label, marked = _survey_label(case.label, headers.label, rules, defects)
        if survey.label is not None:
            held = np.flatnonzero(survey.label.voxels[:-1]).astype(np.uint8)
            with collecting(defects):
                check_annotated(case, held, rules.scheme)
    for names, path, header in _image_files(case, headers, rules):
        if header is not None:
            seen = marked if _shares_grid(header, headers.label, rules) else None
            with collecting(defects):
                survey.channels += _survey_image(path, names, rules, seen, defects)
    survey.problems = [Problem.of(case.case_id, defect) for defect in defects]
    return survey


def _shares_grid(image: Header, label: Header | None, rules: SurveyRules) -> bool:
    """Whether the label's voxels are the image's; a channel may lie elsewhere by leave."""
    if label is None or len(label.shape) != 3:
        return False
    moved = corner_displacement_mm(image.affine, label.affine, label.shape)
    return float(np.linalg.norm(moved)) <= rules.affine_tolerance_mm


def _describe_grid(survey: CaseSurvey, grid: CaseGrid) -> None:
    x, y, z = (round(zoom, 6) for zoom in grid.zooms)
    survey.shape, survey.spacing_mm = grid.shape, (x, y, z)
    survey.orientation = "".join(code or "?" for code in aff2axcodes(grid.affine))


def _image_files(
    case: Case, headers: CaseHeaders, rules: SurveyRules
) -> Iterator[tuple[tuple[str, ...], Path, Header | None]]:
    """Each image file with the channels it holds."""
    channels = case.held(rules.channels)
    if len(case.images) == 1:
        yield channels, case.images[0], headers.images[0]
        return
    for name, path, header in zip(channels, case.images, headers.images, strict=False):
        yield (name,), path, header


def _survey_label(
    path: Path, header: Header, rules: SurveyRules, defects: list[DefectError]
) -> tuple[LabelSurvey | None, _Marked | None]:
    """What the label holds, and where it holds a class other than the background."""
    if len(header.shape) != 3:
        return None, None
    stored = read_stored(path, max_voxels=rules.max_voxels)
    _note_trailing(stored, defects)
    volume = label_volume(stored)
    del stored
    classes = encode_label(volume.data, rules.scheme)
    histogram = class_histogram(classes)
    num_classes = rules.scheme.num_classes
    voxels = (*histogram[:num_classes].tolist(), int(histogram[IGNORE_CLASS]))
    _check_annotation(voxels, defects)
    voxel_mm3 = voxel_volume(volume.affine[:3, :3])
    groups = rules.groups
    sizes = lesion_sizes(classes, list(groups.values()))
    lesions = {
        name: tuple((voxel_mm3 * of).tolist()) for name, of in zip(groups, sizes, strict=True)
    }
    return LabelSurvey(voxels, lesions), (classes > 0) & (classes != IGNORE_CLASS)


def _check_annotation(voxels: tuple[int, ...], defects: list[DefectError]) -> None:
    *classes, ignored = voxels
    if not any(classes):
        defects.append(
            DefectError(
                "every voxel is ignored: nothing to learn from. Take the case out, or name another "
                "loss.ignore_index.",
                "all-ignored",
            )
        )
    elif not any(classes[1:]):
        defects.append(empty_label(ignored))


def _survey_image(
    path: Path,
    names: tuple[str, ...],
    rules: SurveyRules,
    marked: _Marked | None,
    defects: list[DefectError],
) -> list[ChannelSurvey]:
    stored = read_stored(path, max_voxels=rules.max_voxels)
    _note_trailing(stored, defects)
    channels = channels_first(stored.header, stored.array, rules.channel_dim)
    if len(channels) != len(names):
        return []
    scaling = stored_scaling(stored.header)
    surveyed = []
    for name, channel in zip(names, channels, strict=True):
        measured = measure_intensities(channel, scaling)
        if measured.num_not_finite:
            defects.append(not_finite(stored.header, measured.num_not_finite, measured.num_voxels))
        constant = measured.minimum == measured.maximum
        if constant:
            defects.append(
                DefectError(
                    f"{name} holds {measured.minimum:g} in every voxel ({path.name}). Was it "
                    f"converted wrongly?",
                    "constant-image",
                )
            )
        content = "" if constant else _content_hash(channel)
        within = None
        if marked is not None and marked.shape == channel.shape and marked.any():
            within = measure_intensities(channel[marked], scaling)
        surveyed.append(ChannelSurvey(name, channel.dtype.name, measured, content, within))
    return surveyed


def _note_trailing(stored: Stored, defects: list[DefectError]) -> None:
    if stored.trailing_bytes:
        defects.append(
            DefectError(
                f"{stored.header.path}: {stored.trailing_bytes} bytes follow the last voxel. "
                f"Harmless padding, or a header whose dim was changed: compare with the source.",
                "trailing-data",
            )
        )


def _content_hash(channel: npt.NDArray[Any]) -> str:
    """Of the numbers and their shape, not of the file: another compression hides no copy."""
    digest = hashlib.blake2b(f"{channel.shape} {channel.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(channel.T).data)
    return digest.hexdigest()
