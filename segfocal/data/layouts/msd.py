"""Medical Segmentation Decathlon: dataset.json lists the files, one 4-D image a case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfocal.data.cases import Case
from segfocal.data.layouts.descriptor import (
    Descriptor,
    listed_case,
    missing_files,
    missing_listed,
)
from segfocal.data.layouts.found import Exclusion, Found, noting, sorted_cases
from segfocal.data.nifti_header import case_stem


def read_msd(descriptor: Descriptor, skip: Exclusion) -> Found:
    """The training cases that `training` lists.

    An image that is not there under its own name but as `CASE_0000.nii.gz`, `CASE_0001.nii.gz`
    (nnU-Net v1) is taken as one file per channel.

    An entry that is no case, is one that stood before, or leaves the folder is among the faults.

    Raises:
        UserError: If dataset.json is malformed, lists nothing, or declares 2-D images.
    """
    size = descriptor.plain.get("tensorImageSize")
    if isinstance(size, str) and size.upper() == "2D":
        raise descriptor.error("tensorImageSize is 2D. segfocal reads volumes.")
    channels = descriptor.channels()
    entries = descriptor.get("training")
    if not isinstance(entries, list) or not entries:
        raise descriptor.error('training: expected a list of {"image": path, "label": path}.')
    cases: dict[str, Case] = {}
    faults: list[str] = []
    for entry in entries:
        with noting(faults):
            image, label = _listed(descriptor, entry)
            case_id = case_stem(image)
            if image.name.startswith("._") or skip(case_id):
                continue
            if case_id in cases:
                raise descriptor.error(f"training: case {case_id} is listed twice. Keep one.")
            cases[case_id] = listed_case(
                descriptor, case_id, channels, _images(image, len(channels)), label
            )
    expected = "cases that data.exclude does not leave out"
    ordered = sorted_cases(str(descriptor.path), cases.values(), expected, faults)
    refusal = missing_listed(descriptor, ordered)
    if not refusal and not faults:
        descriptor.warn_count(len(cases) + skip.num_left_out)
    return Found(channels, ordered, refusal, faults=tuple(faults))


def _listed(descriptor: Descriptor, entry: Any) -> tuple[Path, Path]:
    """Image and label of an entry of `training`."""
    if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
        raise descriptor.error(
            f'training: expected {{"image": path, "label": path}}, got {entry!r}.'
        )
    return descriptor.inside(entry["image"]), descriptor.inside(entry["label"])


def list_tests(descriptor: Descriptor) -> list[Case]:
    """The cases that `test` lists, without labels; empty where it lists none.

    Raises:
        UserError: If an entry is not a path inside the folder, or its file is missing.
    """
    entries: Any = descriptor.plain.get("test", [])
    if not isinstance(entries, list):
        raise descriptor.error("test: expected a list of paths.")
    num_channels = len(descriptor.channels())
    cases: dict[str, Case] = {}
    for entry in entries:
        image = descriptor.inside(entry.get("image") if isinstance(entry, dict) else entry)
        if not image.name.startswith("._"):
            case_id = case_stem(image)
            cases[case_id] = Case(case_id, _images(image, num_channels), None)
    _check_tests(descriptor, cases)
    return [cases[case_id] for case_id in sorted(cases)]


def _images(image: Path, num_channels: int) -> tuple[Path, ...]:
    """The listed file, or nnU-Net v1's one file per channel in its place."""
    ending = image.name.removeprefix(case_stem(image))
    parts = tuple(
        image.with_name(f"{case_stem(image)}_{channel:04d}{ending}")
        for channel in range(num_channels)
    )
    in_parts = not image.exists() and any(part.exists() for part in parts)
    return parts if in_parts else (image,)


def _check_tests(descriptor: Descriptor, cases: dict[str, Case]) -> None:
    root = descriptor.path.parent
    missing = [
        str(path.relative_to(root))
        for case in cases.values()
        for path in case.images
        if not path.is_file()
    ]
    if missing:
        raise descriptor.error(f"{missing_files(missing)} Copy them, or take them off the list.")
