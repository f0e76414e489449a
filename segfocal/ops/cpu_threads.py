"""Tasks shared out among threads that live for one call.

They are Python's own threads, running code that lets go of the interpreter's lock: there is no pool
that a fork could break, and no threading layer that would not bear two callers at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

PIECES_A_THREAD = 8


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

    with ThreadPoolExecutor(num_threads - 1) as helpers:
        others = [helpers.submit(work) for _ in range(num_threads - 1)]
        work()
        for other in others:
            other.result()
