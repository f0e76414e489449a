"""One piece of work for each of many cases, in several processes, none waiting for another."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_QUEUED_AHEAD = 1
"""Items that an executor hands to its processes beyond one each."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    crashed: Callable[[Item], Result],
    *,
    workers: int = 1,
    on_done: Callable[[], None] = lambda: None,
    kept: Callable[[Result], Result] = lambda result: result,
) -> list[Result]:
    """`[work(item) for item in items]`, whatever the number of processes.

    A process that dies (no memory left, a crash in a library) costs its own item alone.

    Args:
        items: What to work on.
        work: What to do with each; it and the items can be pickled.
        crashed: The result of an item for which memory ran out or a process died.
        workers: Processes; 1 works in this process.
        on_done: Called as each item is done, in whatever order.
        kept: What is held of each result, called in this process as it comes, in whatever order.
    """
    done: dict[int, Result] = {}

    def keep(index: int, result: Result) -> None:
        done[index] = kept(result)
        on_done()

    left = list(range(len(items)))
    if workers <= 1:
        for index in left:
            keep(index, _guarded(work, crashed, items[index]))
        left = []
    while left:
        if _try_all(items, left, work, crashed, workers, keep):
            break
        left = [index for index in left if index not in done]
        # Whoever killed its process is among the first of those left: they were being worked on.
        for suspect in left[: workers + _QUEUED_AHEAD]:
            if not _try_all(items, [suspect], work, crashed, 1, keep):
                keep(suspect, crashed(items[suspect]))
        left = [index for index in left if index not in done]
    return [done[index] for index in range(len(items))]


def _try_all(
    items: Sequence[Item],
    indices: Sequence[int],
    work: Callable[[Item], Result],
    crashed: Callable[[Item], Result],
    workers: int,
    keep: Callable[[int, Result], None],
) -> bool:
    """Works on some items in fresh processes; False where one of these died."""
    # spawn: a forked copy of a process with threads (the progress bar's) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_die_on_interrupt)
    try:
        with _interrupts_blocked():
            futures = {pool.submit(_guarded, work, crashed, items[i]): i for i in indices}
        for future in as_completed(futures):
            keep(futures[future], future.result())
    except BrokenProcessPool:
        return False
    finally:
        pool.shutdown(cancel_futures=True)
    return True


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started within begin deaf to Ctrl-C: while they import they would print tracebacks.

    `_die_on_interrupt` opens their ears. Here it is heard at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_on_interrupt() -> None:
    """Ctrl-C ends a worker at once and without a traceback; the parent tells of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _guarded(
    work: Callable[[Item], Result], crashed: Callable[[Item], Result], item: Item
) -> Result:
    try:
        return work(item)
    except MemoryError:
        return crashed(item)
