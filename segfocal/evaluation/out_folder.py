"""The folder that `--out` names: made if need be, and nobody else's files overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from segfocal.errors import UserError
from segfocal.files import read_json


def check_out_folder(
    out: Path,
    files: Iterable[str],
    record: str,
    form: str,
    inputs: Mapping[str, Path] | None = None,
) -> None:
    """Refuses a folder that cannot be written to, or holds files of the same names by others.

    Args:
        out: The folder.
        files: Names of what will be written.
        record: The one of them, JSON, whose `format` says who wrote the folder.
        form: What it says, the command's name first.
        inputs: Options to paths that the folder may not be.

    Raises:
        UserError: With the cure.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; it must be a folder.")
    for name, path in (inputs or {}).items():
        if out.resolve() == path.resolve():
            raise UserError(f"--out {out} is {name}'s folder. Use another one.")
    if not out.exists() and not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist.")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"--out {out}: the folder cannot be written to. Pass another --out.")
    if any((out / name).exists() for name in files) and (
        not (out / record).is_file() or read_json(out / record).get("format") != form
    ):
        raise UserError(
            f"--out {out} holds files that {form.split()[0]} did not write. Pass another --out."
        )
