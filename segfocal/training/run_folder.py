"""The folder of a run: who may write it, and the small files that say what was run."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from segfocal._version import __version__
from segfocal.errors import UserError
from segfocal.files import atomic_write, remove_left_over, write_json

_ENDINGS = ("DONE", "FAILED.txt", "report.html")
"""What tells how a run ended."""

_LAUNCH = ".torchrun"
"""Names of the torchruns that began the run, one a line: their restarts go on with it."""


class RunFolder:
    """Paths of a run and its lock. Use as a context manager: two runs can't write one folder.

    Args:
        path: The folder.
        resume: Whether a run that is there is to go on.
        is_ours: Whether another rank has checked it and writes it; `resume` then says that there
            is a last.pt.
        wait_s: How long to wait for another process to leave it.

    Raises:
        UserError: On construction, if the folder holds a run (without `resume`) or anything
            else that is not hidden; on entry, if it cannot be made or another process is writing
            it.
    """

    def __init__(
        self, path: Path, *, resume: bool, is_ours: bool = False, wait_s: float = 0
    ) -> None:
        self.path = path
        self.goes_on = resume and (is_ours or (path / "last.pt").exists())
        self._lock = FileLock(path / ".lock", timeout=wait_s)
        if is_ours:
            return
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; --out needs a folder.")
        holds = sorted(p.name for p in path.iterdir()) if path.exists() else []
        holds = [name for name in holds if not name.startswith(".")]
        if holds and not resume:
            what = "a run" if "config.yaml" in holds else f"other files ({holds[0]})"
            raise UserError(
                f"{path} already holds {what}. Pass --resume to go on with a run, or --out for "
                f"another folder."
            )
        if resume and "config.yaml" not in holds:
            raise UserError(f"{path} holds no run to resume. Start it without --resume.")

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path} is being written by another process. Use --out for another folder."
            ) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}.") from None
        for folder in (self.path, self / "samples"):
            remove_left_over(folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def begin(
        self, config: Mapping[str, Any], agents: Sequence[str] = (), *, note: str = ""
    ) -> None:
        """config.yaml (resolved), command.txt (a line a start) and env.json; no end from before.

        Args:
            config: Resolved settings.
            agents: Names of the torchruns that started this run; none without.
            note: The phantom's stamp, or "": a comment in what a person reads.
        """
        (self / _LAUNCH).unlink(missing_ok=True)
        if agents:
            (self / _LAUNCH).write_text("\n".join(agents), encoding="utf-8")
        for name in _ENDINGS:
            (self / name).unlink(missing_ok=True)
        remark = f"# {note}\n" if note else ""
        text = remark + yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        with atomic_write(self / "config.yaml") as stream:
            stream.write(text.encode())
        with (self / "command.txt").open("a+", encoding="utf-8") as file:
            file.seek(0)
            begun = "" if remark in file.read() else remark
            file.write(f"{begun}{shlex.join(sys.argv)}\n")
        environment = {
            "synthetic": note or False,
            **versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        write_json(self / "env.json", environment)

    @property
    def lacks_report(self) -> bool:
        """Whether a run was cut between its last epoch and its end."""
        return (self / "best.pt").exists() and not (self / "DONE").exists()

    def finish(self, failure: str | None = None, *, note: str = "") -> None:
        """Leaves DONE, or FAILED.txt with the reason; never both.

        Args:
            failure: The reason.
            note: The phantom's stamp for DONE, or "", which leaves it empty.
        """
        (self / "DONE").unlink(missing_ok=True)
        (self / "FAILED.txt").unlink(missing_ok=True)
        if failure is None:
            (self / "DONE").write_text(f"{note}\n" if note else "", encoding="utf-8")
        else:
            (self / "FAILED.txt").write_text(failure + "\n", encoding="utf-8")


def begun_by(path: Path, agents: Callable[[], Sequence[str]]) -> bool:
    """Whether a folder holds a run that one of these torchruns began: this is a restart of it.

    Args:
        path: The folder.
        agents: Their names, asked for only where the folder names some.
    """
    try:
        began = (path / _LAUNCH).read_text(encoding="utf-8").split("\n")
    except OSError:
        return False
    return bool({*began} & {*agents()}) and (path / "config.yaml").is_file()


def versions(packages: Sequence[str] = ("torch", "monai", "numpy", "nibabel")) -> dict[str, str]:
    """Versions of segfocal and of what its results depend on."""
    return {"segfocal": __version__, **{name: metadata.version(name) for name in packages}}
