"""nnU-Net v2: imagesTr/CASE_0000.nii.gz one file per channel, labelsTr/CASE.nii.gz."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segfocal.data.cases import Case, Dataset
from segfocal.data.layouts.descriptor import Descriptor, Labels, missing_files
from segfocal.data.layouts.folder import group_channels, nifti_files
from segfocal.data.nifti_header import SUFFIXES, case_stem


def read_nnunet(
    descriptor: Descriptor,
    labels: Labels | None,
    regions_class_order: Sequence[int] | None,
    ignore_values: Sequence[int],
) -> Dataset:
    """The training cases: those in imagesTr and labelsTr, or those that the key `dataset` lists.

    Raises:
        UserError: If dataset.json is malformed, the files are not NIfTI, there are none, or an
            image, a channel or a label has no partner.
    """
    channels = descriptor.channels()
    ending = descriptor.plain.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise descriptor.error(
            f"file_ending: segfocal reads {' and '.join(SUFFIXES)}, got {ending!r}. "
            f"Convert the files to NIfTI."
        )
    if "dataset" in descriptor.plain:
        cases = _listed_cases(descriptor, channels)
    else:
        cases = _paired_cases(descriptor, channels, ending)
    descriptor.warn_count(len(cases))
    return Dataset(
        descriptor.name,
        descriptor.path.parent,
        "nnunet",
        channels,
        descriptor.scheme(labels, regions_class_order, ignore_values),
        tuple(cases),
        descriptor.synthetic,
    )


def _paired_cases(descriptor: Descriptor, channels: Sequence[str], ending: str) -> list[Case]:
    root = descriptor.path.parent
    images = _with_ending(root / "imagesTr", ending)
    labels = {case_stem(path): path for path in _with_ending(root / "labelsTr", ending)}
    if not images:
        raise descriptor.error(f"imagesTr holds no {ending} file.")
    cases = group_channels(images, channels)
    unpaired = [
        *(
            root / "labelsTr" / f"{case.case_id}{ending}"
            for case in cases
            if case.case_id not in labels
        ),
        *(
            root / "imagesTr" / f"{case_id}_0000{ending}"
            for case_id in sorted(set(labels).difference(case.case_id for case in cases))
        ),
    ]
    if unpaired:
        raise descriptor.error(
            f"{missing_files(root, unpaired)} Every case needs its images and its label."
        )
    return [dataclasses.replace(case, label=labels[case.case_id]) for case in cases]


def _listed_cases(descriptor: Descriptor, channels: Sequence[str]) -> list[Case]:
    listed: Any = descriptor.plain["dataset"]
    if not isinstance(listed, dict) or not listed:
        raise descriptor.error(
            'dataset: expected {"CASE": {"images": [path, ...], "label": path}}.'
        )
    cases = []
    for case_id, entry in sorted(listed.items()):
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
    return [path for path in nifti_files(folder) if path.name.endswith(ending)]
