"""The label files of a folder by case name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segfocal.data.defects import Problem
from segfocal.data.layouts.descriptor import FILE_NAME, Descriptor
from segfocal.data.nifti_header import case_stem


def by_name(files: Sequence[Path]) -> tuple[dict[str, Path], list[Problem]]:
    """The files by their name without its ending.

    Returns:
        The files; and a problem for each name that two of them have, neither of which is taken.
    """
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(case_stem(path), []).append(path)
    problems = [
        Problem(
            case_id,
            "dataset",
            f"{same[0]} and {same[1].name} have one name. Remove one.",
        )
        for case_id, same in named.items()
        if len(same) > 1
    ]
    return {case_id: same[0] for case_id, same in named.items() if len(same) == 1}, problems


def nearby_descriptor(folder: Path) -> Descriptor | None:
    """The dataset.json in a folder (nnU-Net's predictions), or in the one above it (labelsTr).

    Raises:
        UserError: If there is one that is not a JSON object.
    """
    for place in (folder, folder.resolve().parent):
        if (place / FILE_NAME).is_file():
            return Descriptor.read(place)
    return None
