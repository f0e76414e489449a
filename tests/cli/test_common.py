"""What a command makes of an error: exit status and one line."""

import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from segfocal.cli.common import add_config_options, make_parser, parse, run
from segfocal.errors import RunFailedError, UserError


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (UserError("a\n b"), 2, "x: a b"),
        (RunFailedError("no memory"), 1, "x: no memory"),
        (KeyboardInterrupt("last.pt is safe."), 130, "x: Interrupted. last.pt is safe."),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            2,
            "x: out: Permission denied.",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "x: No space left on device."),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (OSError("libcuda.so: no"), 1, "x: OSError: libcuda.so: no (--debug prints the traceback)"),
        (KeyError("a"), 1, "x: KeyError: 'a' (--debug prints the traceback)"),
    ],
)
def test_every_error_is_one_line_and_a_status(raised, status, line, capsys):
    def work():
        raise raised

    with pytest.raises(SystemExit) as stop:
        run("x", work, debug=False)
    assert stop.value.code == status
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--quite"],
            "segfocal-x: unrecognized arguments: --quite. Did you mean --quiet?",
        ),
        (
            ["--out=3"],  # with the dashes as near to --quiet as a slip
            "segfocal-x: unrecognized arguments: --out=3. segfocal-x --help lists the options.",
        ),
        (
            ["--set"],
            (
                "segfocal-x: argument --set: expected at least one argument. segfocal-x --help "
                "lists the options."
            ),
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(argv, line, capsys):
    parser = make_parser("segfocal-x", "Does x.")
    add_config_options(parser)
    with pytest.raises(SystemExit) as stop:
        parse(parser, argv, is_first=True)
    said = capsys.readouterr()
    assert (stop.value.code, said.out, said.err) == (2, "", f"{line}\n")


@pytest.fixture
def handlers():
    """Gives the process of the tests its own signal handlers back."""
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


def test_torchrun_finds_the_line_and_its_sigterm_is_not_heard_any_more(
    tmp_path, monkeypatch, handlers
):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def work():
        raise UserError("a is b.")

    with pytest.raises(SystemExit):
        run("x (rank 1)", work, debug=False)
    message = json.loads(path.read_text())["message"]
    assert message["message"] == message["extraInfo"]["py_callstack"] == "x (rank 1): a is b."
    assert abs(int(message["extraInfo"]["timestamp"]) - time.time()) < 60
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_without_torchrun_sigterm_is_heard_until_the_end(monkeypatch, handlers):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    def work():
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as stop:
        run("x", work, debug=False)
    assert stop.value.code == 130
    assert callable(signal.getsignal(signal.SIGTERM))


def test_of_several_processes_the_first_one_prints_what_is_wrong(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    parser = make_parser("x", "does y")
    for arguments, status, stream in ((["--help"], 0, "out"), (["--bogus"], 2, "err")):
        for is_first in (True, False):
            with pytest.raises(SystemExit) as stop:
                parse(parser, arguments, is_first=is_first)
            assert stop.value.code == status
            said = capsys.readouterr()
            assert bool(getattr(said, stream)) == is_first
    assert len(waited) == 1  # torchrun would end the first one with the other
    assert parse(parser, ["--quiet"], is_first=False).quiet


IN_A_CYCLE = """
from segfocal.cli.common import run

class Remains:
    def __del__(self):
        print("looked for")

def work():
    remains = Remains()
    remains.itself = remains

{ending}
"""


@pytest.mark.parametrize(
    ("ending", "said"), [("work()", "looked for\n"), ('run("x", work, debug=False)', "")]
)
def test_a_command_ends_without_a_search_for_garbage(ending, said):
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_CYCLE.format(ending=ending)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout == said
