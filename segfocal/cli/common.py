"""What every command does alike: help at once, one line for a mistake, exit status."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import gc
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from segfocal._version import __version__
from segfocal.errors import RunFailedError, UserError, one_line
from segfocal.files import is_disk_full

_WAIT_S = 60.0
"""How long a process that may not speak waits for the one that does."""


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in the arguments in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        near: list[str] = []
        if message.startswith("unrecognized arguments: "):
            known = [text for action in self._actions for text in action.option_strings]
            words = {text.removeprefix("--"): text for text in known if text.startswith("--")}
            written = message.split()[2].split("=")[0].lstrip("-")
            near = [words[word] for word in difflib.get_close_matches(written, words, n=1)]
        cure = f"Did you mean {near[0]}?" if near else f"{self.prog} --help lists the options."
        self.exit(2, f"{self.prog}: {message}. {cure}\n")


def make_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    parser = _Parser(
        prog=command,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"segfocal {__version__}")
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--set`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML config: your own, or the name of one that ships, as sarcoma.yaml",
    )
    add_set_option(parser, "settings over the config's, e.g. data.root=Task01 train.epochs=50")


def add_set_option(parser: argparse.ArgumentParser, meaning: str) -> None:
    """`--set`."""
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SETTING=VALUE", help=meaning
    )


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """`--workers`."""
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: up to one a core, at most 8)"
    )


def add_scores_options(parser: argparse.ArgumentParser) -> None:
    """`--out` and `--json` of a command that measures."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for CSV, JSON, pictures (default: nothing is written)",
    )
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="print JSON and nothing else"
    )


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, is_first: bool
) -> argparse.Namespace:
    """The arguments. Of several processes with the same ones, the first alone prints.

    The others wait to be ended: torchrun ends all when one of them has failed.
    """
    if is_first:
        return parser.parse_args(argv)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return parser.parse_args(argv)
    except SystemExit as stop:
        if stop.code:
            time.sleep(_WAIT_S)
        raise


def run(command: str, work: Callable[[], None], *, debug: bool) -> NoReturn:
    """Runs a command's work and exits: 0 done, 1 failed, 2 the user's mistake, 130 interrupted.

    SIGTERM is treated as Ctrl-C, so that a scheduler's time limit leaves a run that can resume.
    """
    # At its end Python would look through the half million objects of torch and MONAI: 1.6 s.
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, _interrupt)
    # torchrun sends SIGTERM after the terminal's Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:
        _leave_in_peace()
        status, message = _judge(error)
        _tell_torchrun(f"{command}: {message}")
        if debug and not isinstance(error, KeyboardInterrupt):
            raise
        if message:
            sys.stderr.write(f"{command}: {message}\n")
        sys.exit(status)
    sys.exit(0)


def _judge(error: BaseException) -> tuple[int, str]:
    """Exit status and the one line of an error."""
    if isinstance(error, UserError):
        return 2, one_line(error)
    if isinstance(error, RunFailedError):
        return 1, one_line(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"Interrupted. {error}".rstrip()
    if isinstance(error, BrokenPipeError):
        return 1, ""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return (1 if is_disk_full(error) else 2), f"{place}{error.strerror}."
    return 1, f"{one_line(error)} (--debug prints the traceback)"


def _tell_torchrun(line: str) -> None:
    """Leaves an error's line where torchrun looks for it: it ends in a summary of its own."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        about = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": line, "extraInfo": about}}))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    _leave_in_peace()
    raise KeyboardInterrupt


def _leave_in_peace() -> None:
    """Turns a deaf ear to torchrun, which ends every rank after the first that failed."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
