"""What every layout's reader takes and gives, and the files it walks over on the way."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.data.cases import Case
from segfocal.data.foreign import FOREIGN_SUFFIXES
from segfocal.data.nifti_header import SUFFIXES
from segfocal.errors import UserError

READABLE = (*SUFFIXES, *FOREIGN_SUFFIXES)
"""Endings of the volumes that segfocal reads."""

_SHOWN = 12


@dataclass(frozen=True)
class FileRules:
    """What a config says of the files, for layouts whose names do not tell by themselves.

    Attributes:
        channels: `data.channels`: the channels to use.
        case_list: `data.case_list`: a CSV, TSV or JSON file that names every case's files.
        image_pattern: `data.image_pattern`: paths below the root, one for all or by channel.
        label_pattern: `data.label_pattern`.
    """

    channels: Sequence[str] | None = None
    case_list: Path | None = None
    image_pattern: str | Mapping[str, str] | None = None
    label_pattern: str | None = None


@dataclass(frozen=True)
class Found:
    """The cases of a folder, and what the layout alone tells about them.

    Attributes:
        channels: Name of each channel in the image files, in file order.
        cases: In any order.
        preset: The label preset that the files' names imply; None where they imply none.
        preset_reason: Why, in a few words.
    """

    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    preset: str | None = None
    preset_reason: str = ""


class Exclusion:
    """The cases that `data.exclude` leaves out.

    Args:
        patterns: Case ids, or patterns of them (`sub-*_ses-02`).
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = tuple(patterns)
        self._met: set[str] = set()
        self._seen: set[str] = set()
        self._left_out: set[str] = set()

    def __call__(self, case_id: str) -> bool:
        """Whether this case is to be left out."""
        self._seen.add(case_id)
        met = [p for p in self._patterns if p == case_id or fnmatch.fnmatchcase(case_id, p)]
        self._met.update(met)
        if met:
            self._left_out.add(case_id)
        return bool(met)

    @property
    def num_left_out(self) -> int:
        """How many cases it has left out."""
        return len(self._left_out)

    def check_met(self) -> None:
        """Refuses a pattern that met no case: it is misspelt, or the case is gone.

        Raises:
            UserError: Naming it, and the case that was meant if one looks like it.
        """
        for pattern in self._patterns:
            if pattern not in self._met:
                near = difflib.get_close_matches(pattern, sorted(self._seen), n=1)
                cure = f"Did you mean {near[0]}?" if near else "Take it out."
                raise UserError(f"data.exclude: {pattern} meets no case. {cure}")


def is_hidden(name: str) -> bool:
    """MacOS' `._*`, `.DS_Store` and `__MACOSX`, and whatever else begins with a dot."""
    return name.startswith(".") or name == "__MACOSX"


def walk_volumes(root: Path, max_depth: int | None = None) -> list[Path]:
    """Every volume below a folder, sorted; hidden files and folders are passed over.

    Links to folders are followed, each folder is entered once.

    Args:
        root: Where to begin.
        max_depth: How many folders deep; None for all.
    """
    found, entered = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        depth = len(here.relative_to(root).parts)
        folders[:] = [
            name
            for name in sorted(folders)
            if not is_hidden(name) and (max_depth is None or depth < max_depth)
        ]
        found += [here / n for n in names if n.endswith(READABLE) and not is_hidden(n)]
    return sorted(found)


def complete_cases(
    where: str,
    lacking: Mapping[str, Sequence[str]],
    cases: Iterable[Case],
    expected: str,
    *,
    labelled: bool = True,
) -> tuple[Case, ...]:
    """The cases sorted by id, if none of them lacks a file.

    Args:
        where: What to name first in the error: the list or the folder.
        lacking: For each incomplete case, what is missing: channel names, `label`.
        cases: The complete ones.
        expected: Where the missing files are looked for, for the error.
        labelled: Whether these are cases of a data set, which a config can leave out.

    Raises:
        UserError: Naming every incomplete case, up to twelve; or if there is no case.
    """
    if lacking:
        shown = [f"{name} ({', '.join(lacking[name])})" for name in sorted(lacking)[:_SHOWN]]
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        num = f"{len(lacking)} cases lack" if len(lacking) > 1 else "1 case lacks"
        raise UserError(
            f"{where}: {num} files: {', '.join(shown)}{more}. Expected {expected}. "
            + (
                "Add the files, or leave the cases out by data.exclude."
                if labelled
                else "Add them."
            )
        )
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    if not ordered:
        raise UserError(f"{where}: holds no case. Expected {expected}.")
    return ordered
