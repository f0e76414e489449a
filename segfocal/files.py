"""Files that are complete or absent, and JSON that a person may have edited."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from segfocal.errors import UserError

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `path` at once, when the block ends without an error.

    Written beside `path` under a temporary name, synced to disk, renamed over it. If the block
    raises, or the process dies, `path` is what it was before. A temporary name never ends as
    `path` does, so that no folder listing takes a half-written file for a case.

    Args:
        path: Where the file shall stand; its folder must exist.

    Raises:
        OSError: With `path` in it, if the folder cannot be written to or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` at once, when the block ends without an error.

    Filled beside `path` under a temporary name, then renamed. If the block raises, nothing is left.

    Args:
        path: Where the folder shall stand; there is nothing yet. Folders above it are made.

    Raises:
        OSError: If it cannot be written, the disk is full, or something came to stand at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk or a quota was used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_writable(folder: Path) -> None:
    """Makes a folder and writes into it, before work begins whose results shall go there.

    Raises:
        UserError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")
    except OSError as error:
        raise UserError(
            f"{folder.absolute()} cannot be written: {error.strerror}. Use another."
        ) from None


def check_checkpoint_path(option: str, path: Path) -> None:
    """Refuses what is no file, before torch is imported to read it.

    Raises:
        UserError: With the path that was meant, where a run folder was given.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder. Pass a file, such as {path / 'best.pt'}.")
    if not path.is_file():
        raise UserError(f"{option} {path} does not exist. A run writes best.pt in its folder.")


def remove_left_over(folder: Path) -> None:
    """Removes what `atomic_write` left in a folder when a process was killed in the middle of it.

    Only for a folder that no other process is writing to.
    """
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, plain: Any) -> None:
    """Plain values as indented JSON, complete or absent (see `atomic_write`).

    Raises:
        ValueError: If a number is NaN or infinite: JSON has no word for it.
    """
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: As `read_json_value`, or if the file holds something other than an object.
    """
    plain = read_json_value(path)
    if not isinstance(plain, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(plain).__name__}.")
    return plain


def read_json_value(path: Path) -> Any:
    """What a JSON file holds, be it an object, a list or a single value.

    Raises:
        UserError: If the file is missing, is not JSON (with the line), or names a key twice.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not JSON: byte {error.start} is not UTF-8 text.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not valid JSON: {error.msg} (column {error.colno})."
        ) from error
    except _RepeatedKeyError as error:
        raise UserError(f"{path}: key {error} stands twice in one object. Keep one.") from error


class _RepeatedKeyError(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in pairs:
        if key in plain:
            raise _RepeatedKeyError(repr(key))
        plain[key] = value
    return plain


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where the system can sync a folder (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
