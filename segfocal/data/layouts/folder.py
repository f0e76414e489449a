"""A folder of volumes, or one file: a case each, or a channel each by nnU-Net's numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segfocal.data.cases import Case, MissingFile
from segfocal.data.layouts.found import (
    READABLE,
    Found,
    is_hidden,
    is_there,
    is_volume,
    lacking_files,
    noting,
    sorted_cases,
)
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def volume_files(folder: Path) -> list[Path]:
    """The volumes of a folder, sorted; macOS' `._*` and other hidden files are passed over.

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
        if is_volume(path.name) and not is_hidden(path.name) and is_there(path)
    ]


def list_folder(folder: Path, channels: Sequence[str]) -> list[Case]:
    """The cases of a folder, without labels.

    If a file is named `CASE_0000`, every file is one channel of a case (nnU-Net's naming);
    otherwise each is a case.

    Args:
        folder: Holds the files themselves.
        channels: Name of every channel that a case must have.

    Raises:
        UserError: If there is no volume, a channel's file is missing or there are more than
            the channels, or two files make one case.
    """
    files = volume_files(folder)
    if not files:
        others = sorted({path.suffix for path in folder.iterdir() if path.suffix})
        seen = (
            f" It holds {', '.join(others[:4])} files; convert volumes to NIfTI." if others else ""
        )
        raise UserError(f"{folder}: holds no volume ({', '.join(READABLE)}).{seen}")
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
        UserError: If it is no volume by name, or a channel's file is missing.
    """
    if not is_volume(path.name):
        raise UserError(f"{path}: expected a volume ({', '.join(READABLE)}).")
    numbered = _NUMBERED.fullmatch(case_stem(path))
    siblings = [
        other
        for other in volume_files(path.parent)
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
        UserError: If a file has no channel number or one too high, or cases lack channels (all of
            them are named).
    """
    grouped, faults = numbered_channels(files, channels)
    cases = (
        Case(
            case_id,
            tuple(numbered[channel] for channel in sorted(numbered)),
            None,
            missing=tuple(
                MissingFile(name, f"{case_id}_{channel:04d}.nii.gz")
                for channel, name in enumerate(channels)
                if channel not in numbered
            ),
        )
        for case_id, numbered in grouped.items()
    )
    where = str(files[0].parent)
    expected = f"CASE_0000 to CASE_{len(channels) - 1:04d} of every case"
    ordered = sorted_cases(where, cases, expected, faults)
    refusal = lacking_files(where, ordered, expected, labelled=False)
    return list(Found(tuple(channels), ordered, refusal, faults=faults).complete().cases)


def numbered_channels(
    files: Sequence[Path], channels: Sequence[str]
) -> tuple[dict[str, dict[int, Path]], tuple[str, ...]]:
    """Case id to channel number to file, for files named `CASE_0000`; and what fits nowhere.

    Returns:
        The files; and a line for each that has no channel number or one too high, or is a channel
        that another file is already.
    """
    grouped: dict[str, dict[int, Path]] = {}
    faults: list[str] = []
    for path in files:
        with noting(faults):
            case_id, channel = _numbered(path, channels)
            numbered = grouped.setdefault(case_id, {})
            if channel in numbered:
                raise UserError(
                    f"{path.parent}: {numbered[channel].name} and {path.name} are the same "
                    f"channel. Remove one."
                )
            numbered[channel] = path
    return grouped, tuple(faults)


def _numbered(path: Path, channels: Sequence[str]) -> tuple[str, int]:
    """The case and the channel that a file's name tells."""
    match = _NUMBERED.fullmatch(case_stem(path))
    if match is None:
        raise UserError(
            f"{path}: has no channel number, but files beside it have. "
            f"Expected CASE_0000 to CASE_{len(channels) - 1:04d}. Rename it, or move it away."
        )
    channel = int(match["channel"])
    if channel >= len(channels):
        raise UserError(
            f"{path}: is channel {channel}, but there are {len(channels)} channels "
            f"({', '.join(channels)}), numbered from 0000. Declare it, or move the file away."
        )
    return match["case"], channel
