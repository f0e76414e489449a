"""Tasks shared out among the threads that torch computes with.

They are those of OpenMP, where torch was built with GNU's or Intel's (`GOMP_parallel` is in both).
Threads of our own would have to take the cores from them: after each operation they go on spinning
for some milliseconds, which is as long as all of the work here takes. Elsewhere, and in a forked
process, which GNU's OpenMP does not survive, they are Python's own threads and live for one call.
The work lets go of the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

PIECES_A_THREAD = 8

_IMPORTED_IN = os.getpid()

_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A parallel region: what each thread calls."""


def share_out(run: Callable[[int, int], None], num_tasks: int) -> None:
    """Call `run(first, last)` until all tasks are done, on as many threads as torch uses.

    Which thread runs a task is left to chance, so no task may depend on another.
    """
    num_threads = min(torch.get_num_threads(), num_tasks)
    if num_threads <= 1:
        run(0, num_tasks)
        return
    step = -(-num_tasks // (num_threads * PIECES_A_THREAD))
    pieces = deque(range(0, num_tasks, step))

    def work() -> None:
        while True:
            try:
                first = pieces.popleft()
            except IndexError:
                return
            run(first, min(first + step, num_tasks))

    is_forked = os.getpid() != _IMPORTED_IN
    on_each_thread = on_python_threads if is_forked or openmp() is None else on_openmp_threads
    on_each_thread(work, num_threads)


def on_openmp_threads(work: Callable[[], None], num_threads: int) -> None:
    """Call `work` on every thread of a parallel region, this one among them.

    Within another region OpenMP gives it this thread alone.
    """
    errors: list[BaseException] = []

    def region(_data: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it cannot pass through C, so it is carried
            errors.append(error)

    parallel = openmp()
    assert parallel is not None
    parallel(_Region(region), None, num_threads, 0)
    if errors:
        raise errors[0]


def on_python_threads(work: Callable[[], None], num_threads: int) -> None:
    """The same on threads of this call's own: no pool that a fork could break."""
    with ThreadPoolExecutor(num_threads - 1) as helpers:
        others = [helpers.submit(work) for _ in range(num_threads - 1)]
        work()
        for other in others:
            other.result()


@cache
def openmp() -> Any:
    """`GOMP_parallel` of the library that torch has loaded for all; None where there is none."""
    try:
        start = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # no such symbol; no such way on this platform
        return None
    start.argtypes = (_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    return start
