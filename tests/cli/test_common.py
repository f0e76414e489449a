"""What a command makes of an error: exit status and one line."""

import errno

import pytest

from segfocal.cli.common import run
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
