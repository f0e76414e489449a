"""Imports of torch and MONAI, which a command does late: only once its arguments are right."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Keeps Python's garbage collector out of imports.

    They make half a million objects and next to no garbage, and it would look through all of them
    again and again: a fifth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
