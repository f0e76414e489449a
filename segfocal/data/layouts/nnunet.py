"""nnU-Net v2: imagesTr/CASE_0000.nii.gz one file per channel, labelsTr/CASE.nii.gz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfocal.data.cases import Case, MissingFile
from segfocal.data.layouts.descriptor import Descriptor, listed_case, missing_listed
from segfocal.data.layouts.folder import numbered_channels, volume_files
from segfocal.data.layouts.found import (
    READABLE,
    Exclusion,
    Found,
    lacking_files,
    noting,
    sorted_cases,
)
from segfocal.data.nifti_header import case_stem


def read_nnunet(descriptor: Descriptor, skip: Exclusion) -> Found:
    """The training cases: those in imagesTr and labelsTr, or those that the key `dataset` lists.

    A file of imagesTr that is no channel of a case, and an entry of `dataset` that is none, are
    among the faults. One line warns of volumes that end otherwise than `file_ending` says, and of
    another number of cases than `numTraining`.

    Raises:
        UserError: If dataset.json is malformed, the files have another ending than segfocal reads,
            or there are none.
    """
    channels = descriptor.channels()
    ending = descriptor.plain.get("file_ending", ".nii.gz")
    if ending not in READABLE:
        dotted = f".{ending}"
        cure = f"Write {dotted!r}." if dotted in READABLE else "Convert the files to NIfTI."
        raise descriptor.error(
            f"file_ending: segfocal reads {', '.join(READABLE)}, got {ending!r}. {cure}"
        )
    if "dataset" in descriptor.plain:
        found, passed_over = _listed_cases(descriptor, channels, skip), ""
    else:
        found = _paired_cases(descriptor, channels, ending, skip)
        passed_over = _passed_over(descriptor.path.parent, ending)
    if passed_over or not (found.refusal or found.faults):
        descriptor.warn_count(len(found.cases) + skip.num_left_out, passed_over)
    return found


def _paired_cases(
    descriptor: Descriptor, channels: tuple[str, ...], ending: str, skip: Exclusion
) -> Found:
    """The cases of the two folders."""
    root = descriptor.path.parent
    images = _with_ending(root / "imagesTr", ending)
    if not images:
        passed_over = _passed_over(root, ending)
        seen = f" {passed_over}" if passed_over else ""
        raise descriptor.error(f"imagesTr holds no {ending} file.{seen}")
    numbered, faults = numbered_channels(images, channels)
    labels = {case_stem(path): path for path in _with_ending(root / "labelsTr", ending)}
    cases = []
    for case_id in {*numbered, *labels}:
        if skip(case_id):
            continue
        files = numbered.get(case_id, {})
        missing = [
            MissingFile(name, f"imagesTr/{case_id}_{channel:04d}{ending}")
            for channel, name in enumerate(channels)
            if channel not in files
        ]
        if case_id not in labels:
            missing.append(MissingFile("label", f"labelsTr/{case_id}{ending}"))
        paths = tuple(files[channel] for channel in sorted(files))
        cases.append(Case(case_id, paths, labels.get(case_id), missing=tuple(missing)))
    last = f"_{len(channels) - 1:04d}" if len(channels) > 1 else ""
    expected = (
        f"imagesTr/CASE_0000{f' to {last}' if last else ''}{ending} and labelsTr/CASE{ending}"
    )
    where = str(descriptor.path)
    ordered = sorted_cases(where, cases, expected, faults)
    refusal = lacking_files(where, ordered, expected)
    return Found(channels, ordered, refusal, faults=faults)


def _listed_cases(descriptor: Descriptor, channels: tuple[str, ...], skip: Exclusion) -> Found:
    """The cases that the key `dataset` lists."""
    listed: Any = descriptor.plain["dataset"]
    if not isinstance(listed, dict) or not listed:
        raise descriptor.error(
            'dataset: expected {"CASE": {"images": [path, ...], "label": path}}.'
        )
    cases: list[Case] = []
    faults: list[str] = []
    for case_id, entry in listed.items():
        if not skip(case_id):
            with noting(faults):
                cases.append(_listed_case(descriptor, case_id, channels, entry))
    expected = "cases under the key `dataset`"
    ordered = sorted_cases(str(descriptor.path), cases, expected, faults)
    return Found(channels, ordered, missing_listed(descriptor, ordered), faults=tuple(faults))


def _listed_case(descriptor: Descriptor, case_id: str, channels: Sequence[str], entry: Any) -> Case:
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
    return listed_case(descriptor, case_id, channels, paths, descriptor.inside(entry["label"]))


def _with_ending(folder: Path, ending: str) -> list[Path]:
    return [path for path in volume_files(folder) if path.name.endswith(ending)]


def _passed_over(root: Path, ending: str) -> str:
    """One line about volumes that end otherwise than `file_ending`; "" where each has a twin."""
    odd: list[str] = []
    for folder in ("imagesTr", "labelsTr"):
        read = {case_stem(path) for path in _with_ending(root / folder, ending)}
        files = volume_files(root / folder)
        odd += [f"{folder}/{path.name}" for path in files if case_stem(path) not in read]
    if not odd:
        return ""
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    volumes = "volumes do" if len(odd) > 1 else "volume does"
    return (
        f"{len(odd)} {volumes} not end in {ending} (file_ending), passed over: "
        f"{', '.join(odd[:4])}{more}. Convert or move them."
    )
