"""Prepared cases in a folder, each found again only if it is what would be made now."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import segfocal
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.training.case_file import (
    CaseFile,
    DamagedCaseFileError,
    open_case_file,
    write_case_file,
)

Prepared = dict[str, Any]

SUFFIX = ".segfocal-case"
"""Ending of a cached case's file."""

UNUSED_DAYS = 30
"""A cached case that no run has used for so long is removed."""

_UNFINISHED_DAYS = 1
"""A file that a run was killed while writing is removed after so long; writing takes seconds."""

_CHUNK = 1 << 20

_OWN_CODE = (
    "data",
    "transforms",
    "labels.py",
    "metrics/voxel_size.py",
    "statistics/class_histogram.py",
    "training/build.py",
    "training/case_file.py",
    "training/case_tree.py",
)
"""What a prepared case depends on: readers, transforms, their composition, the file itself.

The histogram finds the values of a label, and the table that encodes its voxels is made of them.
A case bears the volume of its voxels.
"""


class CacheFolderError(UserError):
    """The folder of the cache cannot be written."""


@dataclass(frozen=True)
class CaseCache:
    """Cases on disk, keyed by the bytes of their source files and by everything done to them.

    A file is served if the hash of every source file, the other facts about the case and the
    description are those it was made from, and if its own checksum is right; else the case is
    prepared anew and the file replaced at once (`atomic_write`), so that two processes may share
    the folder. A file once mapped stays what it was for whoever mapped it.

    Args:
        folder: Where the files stand; made when needed, for the user alone (they hold images).
        description: Everything the preparation depends on besides the case: settings, label scheme,
            versions, code (`code_fingerprint`). Plain JSON values.
        on_note: Told in one line of a damaged file.
    """

    folder: Path
    description: Mapping[str, Any]
    on_note: Callable[[str], None] = lambda _line: None

    def fetch(self, case: Case, prepare: Callable[[Case], Prepared]) -> tuple[CaseFile, bool]:
        """The file of a case, checked, after preparing the case if need be.

        Args:
            case: The case.
            prepare: Reads and prepares it; a function of its files and the description.

        Returns:
            The file, and whether it was found (else it has just been written).

        Raises:
            CacheFolderError: If the folder cannot be written.
            UserError: If a source file is missing, or changes while it is read.
        """
        identity = self._identity(case)
        path = self.path(case)
        found = self._found(
            path,
            identity,
            lambda why: self.on_note(
                f"cache  {case.case_id}: {path} is damaged ({why}); prepared anew"
            ),
        )
        if found is not None:
            return found, True
        prepared = prepare(case)
        if self._identity(case) != identity:
            raise UserError(
                f"{case.case_id}: its files changed while they were read. Start again when nothing "
                f"writes to them."
            )
        made_meanwhile = self._found(path, identity, lambda _line: None)
        if made_meanwhile is not None:
            # Another run's: replaced now, it would be another file to whoever opened it.
            return made_meanwhile, False
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_case_file(path, identity, prepared)
        except OSError as error:
            raise CacheFolderError(
                f"data.cache_dir: {self.folder} cannot be written: {error.strerror}. Set it to "
                f"another folder, or data.cache: ram."
            ) from None
        return open_case_file(path), False

    def path(self, case: Case) -> Path:
        """The file of a case: a name for people, and a hash of where it lies and how it is made."""
        place = [str(path.resolve()) for path in _sources(case)]
        key = json.dumps([place, self.description], sort_keys=True).encode()
        name = re.sub(r"[^\w.-]", "_", case.case_id)[:80]
        return self.folder / f"{name}-{hashlib.blake2b(key, digest_size=8).hexdigest()}{SUFFIX}"

    def _found(
        self, path: Path, identity: Any, on_damage: Callable[[str], None]
    ) -> CaseFile | None:
        try:
            file = open_case_file(path)
            if file.identity != identity:
                return None
            file.load(verify=True)
        except DamagedCaseFileError as error:
            on_damage(str(error))
            return None
        except OSError:
            return None  # absent, or not to be read: made anew, and a folder that fails says so
        with contextlib.suppress(OSError):  # a folder filled by somebody else
            os.utime(path)
        return file

    def _identity(self, case: Case) -> Any:
        facts = {
            field.name: getattr(case, field.name)
            for field in fields(case)
            if field.name not in ("images", "label")
        }
        identity = {
            "case": json.loads(json.dumps(facts, default=str)),
            "sources": [file_hash(path) for path in _sources(case)],
            "description": self.description,
        }
        return json.loads(json.dumps(identity))


def _sources(case: Case) -> list[Path]:
    return [*case.images, *([] if case.label is None else [case.label])]


def file_hash(path: Path) -> str:
    """Hash of a file's bytes: neither its name nor its time of change, which copying keeps.

    Raises:
        UserError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def code_fingerprint() -> str:
    """Hash of the code that reads and prepares cases: a changed transform is never served stale."""
    root = Path(segfocal.__file__).parent
    digest = hashlib.sha256()
    for part in _OWN_CODE:
        place = root / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/segfocal`, or `~/.cache/segfocal`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "segfocal"


def remove_unused(folder: Path, days: float = UNUSED_DAYS) -> int:
    """Removes cached cases that no run has used for so many days, and what killed runs left.

    Returns:
        How many bytes were freed.
    """
    unfinished = _remove_older(folder, f".*{SUFFIX}.*.tmp", _UNFINISHED_DAYS)
    return unfinished + _remove_older(folder, f"*{SUFFIX}", days)


def _remove_older(folder: Path, pattern: str, days: float) -> int:
    freed, limit = 0, time.time() - days * 86_400
    for path in folder.glob(pattern) if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # another run removed it first, or it is not ours to
            status = path.stat()
            if status.st_mtime < limit:
                path.unlink()
                freed += status.st_size
    return freed
