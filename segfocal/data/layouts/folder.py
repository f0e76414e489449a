"""A folder of NIfTI files, or one file: a case each, or a channel each by nnU-Net's numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segfocal.data.cases import Case
from segfocal.data.nifti_header import SUFFIXES, case_stem
from segfocal.errors import UserError

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def nifti_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted; macOS' `._*` and other hidden files are passed over.

    Raises:
        UserError: If the folder cannot be read.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}.") from error
    return [
        path
        for path in found
        if path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
    ]


def list_folder(folder: Path, channels: Sequence[str]) -> list[Case]:
    """The cases of a folder, without labels.

    If a file is named `CASE_0000`, every file is one channel of a case (nnU-Net's naming);
    otherwise each is a case.

    Args:
        folder: Holds the files themselves.
        channels: Name of every channel that a case must have.

    Raises:
        UserError: If there is no NIfTI file, a channel's file is missing or there are more than
            the channels, or two files make one case.
    """
    files = nifti_files(folder)
    if not files:
        others = sorted({path.suffix for path in folder.iterdir() if path.suffix})
        seen = (
            f" It holds {', '.join(others[:4])} files; convert volumes to NIfTI." if others else ""
        )
        raise UserError(f"{folder}: holds no NIfTI file (.nii or .nii.gz).{seen}")
    if any(case_stem(path).endswith("_0000") for path in files):
        return group_channels(files, channels)
    cases: dict[str, Case] = {}
    for path in files:
        case_id = case_stem(path)
        if case_id in cases:
            raise UserError(
                f"{folder}: {cases[case_id].images[0].name} and {path.name} are both case "
                f"{case_id}. Remove one."
            )
        cases[case_id] = Case(case_id, (path,), None)
    return list(cases.values())


def list_file(path: Path, channels: Sequence[str]) -> list[Case]:
    """The case that one file holds, or is a channel of: `CASE_0000.nii.gz` brings the others along.

    Raises:
        UserError: If it is not a NIfTI file by name, or a channel's file is missing.
    """
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: expected a NIfTI file (.nii or .nii.gz).")
    numbered = _NUMBERED.fullmatch(case_stem(path))
    siblings = [
        other
        for other in nifti_files(path.parent)
        if numbered is not None
        and (match := _NUMBERED.fullmatch(case_stem(other))) is not None
        and match["case"] == numbered["case"]
    ]
    if any(case_stem(other).endswith("_0000") for other in siblings):
        return group_channels(siblings, channels)
    return [Case(case_stem(path), (path,), None)]


def group_channels(files: Sequence[Path], channels: Sequence[str]) -> list[Case]:
    """Files named `CASE_0000`, `CASE_0001`, ... as cases with one file per channel.

    Raises:
        UserError: If a file has no channel number or one too high, or a channel is missing.
    """
    grouped: dict[str, dict[int, Path]] = {}
    for path in files:
        match = _NUMBERED.fullmatch(case_stem(path))
        if match is None:
            raise UserError(
                f"{path}: has no channel number, but files beside it have. "
                f"Expected CASE_0000 to CASE_{len(channels) - 1:04d}."
            )
        channel = int(match["channel"])
        if channel >= len(channels):
            raise UserError(
                f"{path}: is channel {channel}, but there are {len(channels)} channels "
                f"({', '.join(channels)}), numbered from 0000."
            )
        numbered = grouped.setdefault(match["case"], {})
        if channel in numbered:
            raise UserError(
                f"{path.parent}: {numbered[channel].name} and {path.name} are the same channel. "
                f"Remove one."
            )
        numbered[channel] = path
    for case_id, numbered in grouped.items():
        absent = [i for i in range(len(channels)) if i not in numbered]
        if absent:
            some = next(iter(numbered.values()))
            ending = some.name[len(case_stem(some)) :]
            raise UserError(
                f"{case_id}: channel {channels[absent[0]]} is missing: expected "
                f"{some.parent / f'{case_id}_{absent[0]:04d}{ending}'}."
            )
    return [
        Case(case_id, tuple(grouped[case_id][i] for i in range(len(channels))), None)
        for case_id in sorted(grouped)
    ]
