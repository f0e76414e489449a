"""The two ways a command ends badly: the user's mistake, or a run that failed."""


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


class SegfocalWarning(UserWarning):
    """A correct but doubtful setting. Never raised by ordinary, correct use."""
