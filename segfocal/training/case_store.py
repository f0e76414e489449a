"""Prepared cases: in memory as far as the budget goes, mapped from disk beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch

from segfocal.data.cases import Case
from segfocal.training.case_cache import CacheFolderError, CaseCache, Prepared
from segfocal.training.case_file import CaseFile
from segfocal.training.case_memory import packed
from segfocal.training.memory import available_bytes, readable_bytes

CacheMode = Literal["auto", "ram", "disk", "none"]


class CaseStore(Sequence[Prepared]):
    """Cases that are prepared once; what an item holds does not depend on where it is kept.

    Args:
        cases: The cases.
        prepare: Reads and prepares one; a function of its files alone.
        mode: `ram`: in memory up to the budget, the rest prepared anew at every access; `disk`: in
            files that are mapped; `auto`: in memory up to the budget, the rest in files; `none`:
            prepared at every access.
        cache: The folder of the files; `disk` and `auto` need it.
        budget_bytes: Memory for prepared cases; None is half of what the machine has free.
        num_threads: Cases prepared at once.
        on_case: Called after each case that is kept.
        on_note: Told in one line what a user should know.

    Raises:
        CacheFolderError: If `disk` cannot write its folder. `auto` says so and prepares the rest at
            every access.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        prepare: Callable[[Case], Prepared],
        *,
        mode: CacheMode = "ram",
        cache: CaseCache | None = None,
        budget_bytes: int | None = None,
        num_threads: int = 2,
        on_case: Callable[[], None] = lambda: None,
        on_note: Callable[[str], None] = lambda _line: None,
    ) -> None:
        assert cache is not None or mode in ("ram", "none")
        self.cases = tuple(cases)
        self.prepare = prepare
        self.mode = mode
        self.cached: dict[int, Prepared] = {}
        self.files: dict[int, CaseFile] = {}
        self.used_bytes = self.num_found = 0
        self.budget_bytes = available_bytes() // 2 if budget_bytes is None else budget_bytes
        self.folder = None if cache is None else cache.folder
        self._mapped: dict[int, Prepared] = {}
        with ThreadPoolExecutor(num_threads) as pool:
            if mode in ("auto", "ram"):
                for number, case in self._fitting(pool, num_threads):
                    self.cached[number] = case
                    on_case()
            if mode in ("auto", "disk"):
                assert cache is not None
                try:
                    self._keep_on_disk(pool, cache, on_case)
                except CacheFolderError as error:
                    if mode == "disk":
                        raise
                    on_note(f"cache  {error}")

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: Any) -> Any:
        held = self.cached.get(number) or self._mapped.get(number)
        if held is not None:
            return held
        file = self.files.get(number)
        if file is None:
            return self.prepare(self.cases[number])
        return self._mapped.setdefault(number, file.load(verify=False))

    def __getstate__(self) -> dict[str, Any]:
        # A loader process maps the files itself; a map that is sent along would be copied.
        return {**self.__dict__, "_mapped": {}}

    def held(self) -> Iterator[Prepared]:
        """The cases in memory and on disk, in their order: none is prepared for it."""
        for number in range(len(self.cases)):
            if number in self.cached or number in self.files:
                yield self[number]

    def summary(self) -> str:
        """Where the cases are and what that takes, in one line."""
        used = readable_bytes(self.used_bytes)
        most = readable_bytes(self.budget_bytes)
        parts = []
        if self.mode in ("auto", "ram") and self.budget_bytes:
            parts.append(f"{len(self.cached)} in memory ({used} of at most {most})")
        if self.files:
            size = readable_bytes(sum(file.num_bytes for file in self.files.values()))
            found = f"{self.num_found} found there" if self.num_found else "written now"
            parts.append(f"{len(self.files)} on disk ({size} in {self.folder}, {found}; mapped)")
        left = len(self.cases) - len(self.cached) - len(self.files)
        if left:
            parts.append(f"{left} prepared anew at every access")
        return ", ".join(parts)

    def _fitting(
        self, pool: ThreadPoolExecutor, num_threads: int
    ) -> Iterator[tuple[int, Prepared]]:
        """Cases in their order, prepared, until one does not fit into the budget."""
        for start in range(0, len(self.cases), num_threads):
            if self.used_bytes >= self.budget_bytes:
                return
            group = self.cases[start : start + num_threads]
            for number, case in enumerate(pool.map(self._packed, group), start):
                size = _size_bytes(case)
                if self.used_bytes + size > self.budget_bytes:
                    return
                self.used_bytes += size
                yield number, case

    def _packed(self, case: Case) -> Prepared:
        return packed(self.prepare(case))

    def _keep_on_disk(
        self, pool: ThreadPoolExecutor, cache: CaseCache, on_case: Callable[[], None]
    ) -> None:
        """Files for the cases that are not in memory."""
        left = [number for number in range(len(self.cases)) if number not in self.cached]
        fetched = pool.map(lambda number: cache.fetch(self.cases[number], self.prepare), left)
        for number, (file, found) in zip(left, fetched, strict=True):
            self.files[number] = file
            self._mapped[number] = file.load(verify=False)
            self.num_found += found
            on_case()


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
