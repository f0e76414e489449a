"""The two ways a command ends badly, the user's mistake and a run that failed; warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class UserError(ValueError):
    """Something the user can mend: one line that says what was expected, what came, what to do.

    The commands print it without a traceback and exit with status 2.
    """


class RunFailedError(RuntimeError):
    """A run that could not go on (no memory, NaN loss). The commands exit with status 1."""


def one_line(error: BaseException) -> str:
    """An error's text as one line; that of an unforeseen error begins with its type."""
    text = " ".join(str(error).split())
    foreseen = isinstance(error, (UserError, RunFailedError))
    return text if foreseen else f"{type(error).__name__}: {text}"


def tell_user_errors_in_one_line() -> None:
    """From now on a `UserError` that ends this process is told in its line, without a traceback.

    For a program that is not ours, as `python -m monai.bundle run`, which raises errors of its own
    from those it meets. Other errors are told as before, and the exit status stays 1.
    """
    before = sys.excepthook

    def tell(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        mistake = _user_error_behind(error)
        if mistake is None:
            before(kind, error, traceback)
        else:
            sys.stderr.write(f"{one_line(mistake)}\n")

    sys.excepthook = tell


def _user_error_behind(error: BaseException | None) -> UserError | None:
    """The error itself, or the nearest one that it was raised from."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


class SegfocalWarning(UserWarning):
    """A correct but doubtful setting. Never raised by ordinary, correct use."""


@contextmanager
def warnings_caught(messages: list[str]) -> Iterator[None]:
    """Appends the texts of this package's warnings, each once, in place of printing them.

    Other warnings are shown as ever; where the block ends by an exception, all are.
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SegfocalWarning)
            yield
    except BaseException:
        for warning in caught:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        raise
    for warning in caught:
        if not issubclass(warning.category, SegfocalWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        elif str(warning.message) not in messages:
            messages.append(str(warning.message))
