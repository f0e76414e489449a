"""nnU-Net v2: imagesTr/CASE_0000.nii.gz one file per channel, labelsTr/CASE.nii.gz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfocal.data.cases import Case
from segfocal.data.layouts.descriptor import Descriptor, missing_files
from segfocal.data.layouts.folder import absent_channels, numbered_channels, volume_files
from segfocal.data.layouts.found import READABLE, Exclusion, Found, complete_cases
from segfocal.data.nifti_header import case_stem


def read_nnunet(descriptor: Descriptor, skip: Exclusion) -> Found:
    """The training cases: those in imagesTr and labelsTr, or those that the key `dataset` lists.

    Raises:
        UserError: If dataset.json is malformed, the files have another ending than segfocal reads,
            there are none, or cases lack an image, a channel or a label (all are named).
    """
    channels = descriptor.channels()
    ending = descriptor.plain.get("file_ending", ".nii.gz")
    if ending not in READABLE:
        raise descriptor.error(
            f"file_ending: segfocal reads {', '.join(READABLE)}, got {ending!r}. "
            f"Convert the files to NIfTI."
        )
    if "dataset" in descriptor.plain:
        cases = tuple(_listed_cases(descriptor, channels, skip))
    else:
        cases = _paired_cases(descriptor, channels, ending, skip)
    descriptor.warn_count(len(cases) + skip.num_left_out)
    return Found(channels, cases)


def _paired_cases(
    descriptor: Descriptor, channels: Sequence[str], ending: str, skip: Exclusion
) -> tuple[Case, ...]:
    root = descriptor.path.parent
    images = _with_ending(root / "imagesTr", ending)
    if not images:
        raise descriptor.error(f"imagesTr holds no {ending} file.")
    numbered = numbered_channels(images, channels)
    labels = {case_stem(path): path for path in _with_ending(root / "labelsTr", ending)}
    lacking: dict[str, list[str]] = {}
    cases = []
    for case_id in sorted({*numbered, *labels}):
        if skip(case_id):
            continue
        files = numbered.get(case_id, {})
        absent = absent_channels(files, channels) + ([] if case_id in labels else ["label"])
        if absent:
            lacking[case_id] = absent
        else:
            paths = tuple(files[i] for i in range(len(channels)))
            cases.append(Case(case_id, paths, labels[case_id]))
    last = f"_{len(channels) - 1:04d}" if len(channels) > 1 else ""
    expected = (
        f"imagesTr/CASE_0000{f' to {last}' if last else ''}{ending} and labelsTr/CASE{ending}"
    )
    return complete_cases(str(descriptor.path), lacking, cases, expected)


def _listed_cases(descriptor: Descriptor, channels: Sequence[str], skip: Exclusion) -> list[Case]:
    listed: Any = descriptor.plain["dataset"]
    if not isinstance(listed, dict) or not listed:
        raise descriptor.error(
            'dataset: expected {"CASE": {"images": [path, ...], "label": path}}.'
        )
    cases = []
    for case_id, entry in sorted(listed.items()):
        if skip(case_id):
            continue
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list) or "label" not in entry:
            raise descriptor.error(
                f'dataset: {case_id}: expected {{"images": [path, ...], "label": path}}.'
            )
        if len(images) != len(channels):
            raise descriptor.error(
                f"dataset: {case_id}: has {len(images)} images, expected one for each of "
                f"{', '.join(channels)}."
            )
        paths = tuple(descriptor.inside(path) for path in images)
        cases.append(Case(case_id, paths, descriptor.inside(entry["label"])))
    missing = [
        path for case in cases for path in (*case.images, case.label) if path and not path.is_file()
    ]
    if missing:
        raise descriptor.error(missing_files(descriptor.path.parent, missing))
    return cases


def _with_ending(folder: Path, ending: str) -> list[Path]:
    return [path for path in volume_files(folder) if path.name.endswith(ending)]
