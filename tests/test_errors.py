import sys
import warnings

import pytest

from segfocal.errors import (
    SegfocalWarning,
    UserError,
    tell_user_errors_in_one_line,
    warnings_caught,
)


def raised_by_others(mistake):
    """As MONAI does: an error of its own from the one that it met, and that from another."""
    try:
        try:
            raise RuntimeError("cannot instantiate") from mistake
        except RuntimeError as error:
            raise RuntimeError("cannot evaluate") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("wrap", [raised_by_others, lambda mistake: mistake])
def test_a_user_error_ends_a_process_of_others_in_its_line(wrap, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", lambda *_: pytest.fail("a traceback"))
    tell_user_errors_in_one_line()
    sys.excepthook(RuntimeError, wrap(UserError("scans:\n holds no volume.")), None)
    assert capsys.readouterr().err == "scans: holds no volume.\n"


def test_another_error_is_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "excepthook", lambda *told_of: told.append(told_of))
    tell_user_errors_in_one_line()
    error = raised_by_others(ValueError("not foreseen"))
    sys.excepthook(RuntimeError, error, None)
    assert told == [(RuntimeError, error, None)]


def test_own_warnings_become_messages_each_once_and_others_stay_warnings():
    messages = []

    def warn():
        with warnings_caught(messages):
            for text in ("first", "second", "first"):
                warnings.warn(text, SegfocalWarning, stacklevel=1)
            warnings.warn("of another", DeprecationWarning, stacklevel=1)

    with pytest.warns(DeprecationWarning, match="of another") as shown:
        warn()
    assert messages == ["first", "second"]
    assert len(shown) == 1


def test_where_the_block_fails_its_warnings_are_shown():
    messages = []

    def fail():
        with warnings_caught(messages):
            warnings.warn("first", SegfocalWarning, stacklevel=1)
            raise KeyError("x")

    with pytest.warns(SegfocalWarning, match="first"), pytest.raises(KeyError):
        fail()
    assert messages == []
