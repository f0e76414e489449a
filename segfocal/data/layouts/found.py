"""What every layout's reader takes and gives, and the files it walks over on the way."""

from __future__ import annotations

import difflib
import fnmatch
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segfocal.data.cases import Case, MissingFile
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
        cases: Sorted by id, those that lack files included.
        refusal: Why a run takes none of them: one line that names those that lack files; "" where
            none does.
        preset: The label preset that the files' names imply; None where they imply none.
        preset_reason: Why, in a few words.
        faults: What is wrong with a file or a row that no case could be made of, a line each. A
            run takes nothing then; a survey tells of them and goes on with the other cases.
    """

    channels: tuple[str, ...]
    cases: tuple[Case, ...]
    refusal: str = ""
    preset: str | None = None
    preset_reason: str = ""
    faults: tuple[str, ...] = ()

    def complete(self) -> Found:
        """Itself.

        Raises:
            UserError: For the first fault; or if a case lacks a file: it names them all.
        """
        if self.faults:
            raise UserError(self.faults[0])
        if self.refusal:
            raise UserError(self.refusal)
        return self


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

    def check_leaves_some(self) -> None:
        """Refuses patterns that meet every case there is.

        Raises:
            UserError: If they do.
        """
        if self._left_out and self._left_out == self._seen:
            raise UserError(
                f"data.exclude: {', '.join(self._patterns)} leaves out every case "
                f"({len(self._seen)}). Keep some."
            )


@contextmanager
def noting(faults: list[str]) -> Iterator[None]:
    """Appends the line of a `UserError` raised inside to `faults` and goes on behind the block."""
    try:
        yield
    except UserError as error:
        faults.append(str(error))


def is_hidden(name: str) -> bool:
    """MacOS' `._*`, `.DS_Store` and `__MACOSX`, and whatever else begins with a dot."""
    return name.startswith(".") or name == "__MACOSX"


def is_volume(name: str) -> bool:
    """Whether a file's name ends as volumes' do, in letters of either size: `A.NII.GZ` is one."""
    return name.lower().endswith(READABLE)


def is_there(path: Path) -> bool:
    """Whether there is a file, or a link that should lead to one: reading it tells of a bad one."""
    return path.is_file() or path.is_symlink()


def spellings(listed: str) -> tuple[str, ...]:
    """How a file that a list names may be written on this disk, the most literal first.

    Backslashes are the slashes of Windows, where no file has them in its name. An accented letter
    is the same whether it is written as one character or, as macOS does, as two.
    """
    slashed = listed.replace("\\", "/")
    composed, parted = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((listed, slashed, composed, parted)))


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
        found += [here / n for n in names if is_volume(n) and not is_hidden(n)]
    return sorted(found)


def sorted_cases(
    where: str, cases: Iterable[Case], expected: str, faults: Sequence[str] = ()
) -> tuple[Case, ...]:
    """The cases by id.

    Args:
        where: What to name first in the error: the list or the folder.
        cases: In any order.
        expected: Where files are looked for, for the error.
        faults: Why some could not be made.

    Raises:
        UserError: If there is none: the first fault, if there is one.
    """
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    if not ordered and faults:
        raise UserError(faults[0])
    if not ordered:
        raise UserError(f"{where}: holds no case. Expected {expected}.")
    return ordered


def lacking_files(
    where: str,
    cases: Sequence[Case],
    expected: str,
    *,
    labelled: bool = True,
    words: Mapping[str, str] | None = None,
) -> str:
    """One line about the cases that lack files, up to twelve of them by name; "" without any.

    Args:
        where: What to name first: the list or the folder.
        cases: Sorted by id.
        expected: Where the missing files are looked for.
        labelled: Whether these are cases of a data set, which a config can leave out.
        words: What the names of the files call a channel, where that is another word.
    """
    words = words or {}
    lacking = [
        f"{case.case_id} ({', '.join(words.get(file.name, file.name) for file in case.missing)})"
        for case in cases
        if case.missing
    ]
    if not lacking:
        return ""
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    num = f"{len(lacking)} cases lack" if len(lacking) > 1 else "1 case lacks"
    cure = "Add the files, or leave the cases out by data.exclude." if labelled else "Add them."
    return f"{where}: {num} files: {', '.join(lacking[:_SHOWN])}{more}. Expected {expected}. {cure}"


def missing_below(root: Path, files: Mapping[str, Path | None]) -> tuple[MissingFile, ...]:
    """Of the files that a case should have, by channel or `label`, those that are not there."""
    return tuple(
        MissingFile(name, os.path.relpath(path, root))
        for name, path in files.items()
        if path is not None and not is_there(path)
    )
