"""Prepared cases: in memory as far as the budget goes, from disk beyond it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from segfocal.data.cases import Case

Prepared = dict[str, Any]


class CaseStore(Sequence[Prepared]):
    """Cases that are read and prepared once where memory allows, at every access where not.

    Args:
        cases: The cases.
        prepare: Reads and prepares one; a function of its files alone.
        budget_bytes: Memory for prepared cases; None is half of what the machine has free.
        num_threads: Cases prepared at once.
        on_case: Called after each case that is prepared ahead.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        prepare: Callable[[Case], Prepared],
        *,
        budget_bytes: int | None = None,
        num_threads: int = 2,
        on_case: Callable[[], None] = lambda: None,
    ) -> None:
        self.cases = tuple(cases)
        self.prepare = prepare
        self.cached: dict[int, Prepared] = {}
        self.used_bytes = 0
        budget = available_bytes() // 2 if budget_bytes is None else budget_bytes
        with ThreadPoolExecutor(num_threads) as pool:
            for start in range(0, len(self.cases), num_threads):
                if self.used_bytes >= budget:
                    break
                numbers = range(start, min(start + num_threads, len(self.cases)))
                for number, case in zip(
                    numbers, pool.map(prepare, [self.cases[n] for n in numbers]), strict=True
                ):
                    on_case()
                    size = _size_bytes(case)
                    if self.used_bytes + size <= budget:
                        self.cached[number] = case
                        self.used_bytes += size

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: Any) -> Any:
        found = self.cached.get(number)
        return found if found is not None else self.prepare(self.cases[number])


def available_bytes() -> int:
    """Memory the machine has free, or 8 GiB where it does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def _size_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_size_bytes(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_size_bytes(part) for part in value)
    return 0
