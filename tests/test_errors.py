import warnings

import pytest

from segfocal.errors import SegfocalWarning, warnings_caught


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
